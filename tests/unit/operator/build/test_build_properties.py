"""What holds for whatever is rendered."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from hypothesis import given, settings

from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.labels import COMPONENT, MANAGED, OWNER_NAME, RENDER_REVISION, SPEC_DIGEST
from testbed.rendered import WORKLOADS, Object, Rendered, containers, pod_templates, render
from testbed.rendered_specs import parsed, worlds

CONTEXT = BuildContext(
    image_pull_secrets=("registry",),
    pod_cidrs=("10.244.0.0/16",),
    service_cidrs=("10.96.0.0/12",),
    proxy_env={"HTTPS_PROXY": "http://proxy.example.com:3128"},
    ca_config_map="company-ca",
)

World = list[dict[str, Any]]

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def templates(rendered: Rendered) -> list[tuple[Object, Object]]:
    """Every workload with each of its pod templates."""
    return [(obj, template) for obj in rendered.of(*WORKLOADS) for template in pod_templates(obj)]


def selects(selector: Object, pod_labels: Object) -> bool:
    """Kubernetes' label selector."""
    simple = selector.get("matchLabels", {}).items() <= pod_labels.items()
    return simple and all(
        pod_labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", ())
    )


@settings(max_examples=20)
@given(worlds())
def test_the_same_manifests_are_always_rendered_into_the_same_objects(world: World) -> None:
    first, second = render(parsed(world), CONTEXT), render(parsed(json.loads(json.dumps(world))), CONTEXT)
    assert json.dumps(first.objects) == json.dumps(second.objects)


@settings(max_examples=40)
@given(worlds())
def test_names_are_unique_and_fit(world: World) -> None:
    objects = render(parsed(world), CONTEXT, inline=False).objects
    twice = [key for key, count in Counter((o["kind"], o["metadata"]["name"]) for o in objects).items() if count > 1]
    assert not twice
    for obj in objects:
        name = obj["metadata"]["name"]
        assert _NAME.fullmatch(name), name
        limit = {"ModelServer": 40, "Job": 63 - len("-99999")}.get(obj["kind"], 63)  # a pod's name has the index, too
        assert len(name) <= limit, name


@settings(max_examples=40)
@given(worlds())
def test_applied_objects_leave_to_others_what_is_theirs(world: World) -> None:
    for obj in render(parsed(world), CONTEXT).applied:
        assert "status" not in obj
        assert obj["kind"] != "Job"
        foreign = (
            {"replicas"} if obj["kind"] == "ModelServer" else {"replicas", "parallelism", "completions", "suspend"}
        )
        assert not foreign & obj.get("spec", {}).keys(), obj["kind"]


@settings(max_examples=40)
@given(worlds())
def test_children_are_labelled_owned_and_dated(world: World) -> None:
    for obj in render(parsed(world), CONTEXT).objects:
        metadata = obj["metadata"]
        (owner,) = metadata["ownerReferences"]
        assert owner["controller"] is True
        assert owner["uid"]
        assert metadata["labels"].items() >= {**MANAGED, OWNER_NAME[owner["kind"]]: owner["name"]}.items()
        if obj["kind"] != "Secret":
            assert metadata["annotations"][RENDER_REVISION] == CONTEXT.render_revision
            assert metadata["annotations"][SPEC_DIGEST]


@settings(max_examples=40)
@given(worlds())
def test_every_pod_is_restricted(world: World) -> None:
    for _, template in templates(render(parsed(world), CONTEXT)):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] != 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert not any("hostPath" in volume for volume in spec["volumes"])
        for container in containers(template):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
            assert not any("hostPort" in port for port in container.get("ports", ()))


@settings(max_examples=40)
@given(worlds())
def test_pods_are_whole(world: World) -> None:
    """Every mount has its volume, every volume and path is there once, every container has an image."""
    for _, template in templates(render(parsed(world), CONTEXT)):
        volumes = [volume["name"] for volume in template["spec"]["volumes"]]
        assert len(volumes) == len(set(volumes))
        assert all(_NAME.fullmatch(name) and len(name) <= 63 for name in volumes)
        names = [container["name"] for container in containers(template)]
        assert len(names) == len(set(names))
        for container in containers(template):
            mounts = container.get("volumeMounts", ())
            assert {mount["name"] for mount in mounts} <= set(volumes)
            assert len({mount["mountPath"] for mount in mounts}) == len(mounts)
            assert container["image"]


@settings(max_examples=40)
@given(worlds())
def test_labels_select_exactly_their_pods(world: World) -> None:
    rendered = render(parsed(world), CONTEXT)
    pods = [(obj, template["metadata"]["labels"]) for obj, template in templates(rendered)]
    for deployment in rendered.of("Deployment"):
        mine = [obj is deployment for obj, labels in pods if selects(deployment["spec"]["selector"], labels)]
        assert mine == [True]
    selectors = [(obj, {"matchLabels": obj["spec"]["selector"]}) for obj in rendered.of("Service")]
    selectors += [(obj, obj["spec"]["selector"]) for obj in rendered.of("PodDisruptionBudget")]
    selectors += [(obj, obj["spec"]["podSelector"]) for obj in rendered.of("NetworkPolicy")]
    for obj, selector in selectors:
        chosen = [(workload, labels) for workload, labels in pods if selects(selector, labels)]
        assert chosen, f"{obj['kind']} {obj['metadata']['name']} selects nothing"
        owner = obj["metadata"]["ownerReferences"]
        assert all(workload["metadata"]["ownerReferences"] == owner for workload, _ in chosen)
        if obj["kind"] != "NetworkPolicy":
            assert {labels[COMPONENT] for _, labels in chosen} == {obj["metadata"]["labels"][COMPONENT]}


@settings(max_examples=40)
@given(worlds())
def test_every_pod_has_one_network_policy_and_no_way_to_the_world_by_chance(world: World) -> None:
    rendered = render(parsed(world), CONTEXT)
    policies = rendered.of("NetworkPolicy")
    for _, template in templates(rendered):
        labels = template["metadata"]["labels"]
        mine = [policy for policy in policies if selects(policy["spec"]["podSelector"], labels)]
        assert len(mine) == 1
        for rule in mine[0]["spec"]["egress"]:
            blocks = [each["ipBlock"] for each in rule.get("to", ()) if "ipBlock" in each]
            assert all("except" in block for block in blocks if block["cidr"] == "0.0.0.0/0")


@settings(max_examples=40)
@given(worlds())
def test_the_engine_listens_on_loopback_and_the_sidecar_stands_in_front(world: World) -> None:
    """Rule 11: what serves the model's Service is our model server, whatever computes behind it."""
    for _, template in templates(render(parsed(world), CONTEXT)):
        if template["metadata"]["labels"][COMPONENT] != "model":
            continue
        (door,) = [each for each in containers(template) if any(p["name"] == "http" for p in each.get("ports", ()))]
        assert door["image"] == CONTEXT.images.model
        (engine,) = [each for each in containers(template) if each["name"] == "engine"]
        if engine is not door and engine["image"] == CONTEXT.images.vllm:
            assert "--host=127.0.0.1" in engine["args"]
            assert door["restartPolicy"] == "Always"


@settings(max_examples=20)
@given(worlds())
def test_a_run_comes_back_from_its_config_map(world: World) -> None:
    rendered = render(parsed(world), CONTEXT)
    for name, frozen in rendered.runs.items():
        stored = json.loads(json.dumps(rendered.one("ConfigMap", f"{name}-run")))
        again = type(frozen).from_config_map(stored)
        assert again == frozen
        assert again.endpoints == frozen.endpoints
