"""Model servers and environments: what one field of a spec does; whole renderings are golden files."""

from __future__ import annotations

from typing import Any

import pytest

from kubegym.core.spec import GymEnvironment, ModelServer, manifest_from
from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.endpoints import entry_endpoints, model_endpoints
from kubegym_operator.build.environment import build_environment, build_model_servers, build_session_secret
from kubegym_operator.build.errors import BuildError, InvalidPodTemplate, UnsupportedSource
from kubegym_operator.build.labels import CONFIG_DIGEST, SPEC_DIGEST
from kubegym_operator.build.model import build_fetch_job, build_model_server
from kubegym_operator.build.scale import initial_scale, wanted_replicas
from testbed.rendered import Object, containers, pod_templates, with_identity

CONTEXT = BuildContext()
POLICY = {"policy": {"endpoint": {"baseUrl": "https://models.example.com/v1", "model": "m"}}}
HUB = {"uri": "hf://org/model", "revision": "abc"}
EXTERNAL = {"mode": "External", "minReplicas": 2, "maxReplicas": 4}


def server(**spec: Any) -> ModelServer:
    raw = {"apiVersion": "kubegym.dev/v1alpha1", "kind": "ModelServer", "metadata": {"name": "m"}, "spec": spec}
    made = manifest_from(with_identity(raw), "test")
    assert isinstance(made, ModelServer)
    return made


def environment(**spec: Any) -> GymEnvironment:
    raw = {"apiVersion": "kubegym.dev/v1alpha1", "kind": "GymEnvironment", "metadata": {"name": "e"}, "spec": spec}
    made = manifest_from(with_identity(raw), "test")
    assert isinstance(made, GymEnvironment)
    return made


def workload(made: ModelServer) -> Object:
    return build_model_server(made, CONTEXT)[-1]


def engine(made: ModelServer) -> Object:
    (template, *_) = pod_templates(workload(made))
    (found,) = [each for each in containers(template) if each["name"] == "engine"]
    return found


def test_engine_arguments_become_options_and_switches() -> None:
    args = engine(
        server(
            source=HUB,
            engineArgs={"max_model_len": "8", "enforce-eager": "", "enable-x": "true", "enable-y": "false"},
        )
    )["args"]
    assert {"--max-model-len=8", "--enforce-eager", "--enable-x", "--no-enable-y"} <= set(args)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"source": HUB, "engineArgs": {"host": "0.0.0.0"}}, "spec.engineArgs.host"),
        ({"source": HUB, "engineArgs": {"tensor_parallel_size": "2"}}, "spec.engineArgs.tensor-parallel-size"),
        ({"source": HUB, "engineArgs": {"shutdown-timeout": "soon"}}, "spec.engineArgs.shutdown-timeout"),
        ({"engine": "simulated", "engineArgs": {"listen": ":1"}}, "spec.engineArgs.listen"),
    ],
)
def test_arguments_that_are_the_operator_s_are_refused(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(BuildError) as caught:
        workload(server(**spec))
    assert caught.value.field == field


def test_a_longer_turn_means_a_longer_grace() -> None:
    (template,) = pod_templates(workload(server(source=HUB, engineArgs={"shutdown-timeout": "600"})))
    assert template["spec"]["terminationGracePeriodSeconds"] > 600 + 15


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ({"uri": "hf://org/model"}, "a commit"),
        ({"uri": "file:///models/x"}, "hf, s3, gs, pvc or oci"),
        ({"uri": "oci://registry.example.com/m:1"}, "digest"),
        ({"uri": "oci://registry.example.com/m", "revision": "v1"}, "digest"),
        ({"uri": "pvc://claim/../other"}, "pvc://claim/folder"),
    ],
)
def test_weights_that_are_not_pinned_or_not_here_are_refused(source: dict[str, str], remedy: str) -> None:
    with pytest.raises(UnsupportedSource, match=remedy):
        workload(server(source=source))


def test_announced_weights_are_no_part_of_the_pod() -> None:
    before = workload(server(source=HUB))
    assert workload(server(source=HUB, weights={"uri": "s3://w/9", "version": 9})) == before


def test_an_engine_that_keeps_calls_has_the_routes_for_it_and_starts_anew_only_without_them() -> None:
    announced = {"uri": "s3://w/9", "version": 9, "onUpdate": "Continue"}
    assert engine(server(source=HUB, weights=announced))["args"][-1] == "--enable-scale-out"
    assert "--enable-scale-out" not in engine(server(source=HUB, weights={**announced, "onUpdate": "Abort"}))["args"]
    given = {"source": HUB, "engineArgs": {"enable-scale-out": ""}}
    assert workload(server(**given, weights=announced)) == workload(server(**given))


@pytest.mark.parametrize("engine", ["vllm", "embedded"])
def test_announced_weights_alone_are_what_an_engine_starts_with(engine: str) -> None:
    def template(version: int) -> Object:
        weights = {"uri": "s3://w/step/", "version": version}
        (made,) = pod_templates(workload(server(engine=engine, weights=weights)))
        return made

    spec = template(7)["spec"]
    fetch = next(one for one in spec["initContainers"] if one["name"] == "fetch")
    assert fetch["args"] == ["fetch", "s3://w/step/", "--into", "/weights"]
    (engine_container,) = spec["containers"]
    assert any(mount["mountPath"] == "/weights" for mount in engine_container["volumeMounts"])
    mounted = server(engine=engine, weights={"uri": "pvc://w/step-8", "version": 8})
    (other,) = pod_templates(workload(mounted))
    assert other["spec"] != spec
    digests = {
        obj["metadata"]["annotations"][SPEC_DIGEST]
        for version in (7, 8)
        for obj in build_model_server(server(weights={"uri": "s3://w/", "version": version}), CONTEXT)
    }
    assert len(digests) == 2, "a new version is asked for, not a newer rendering"


def test_a_new_version_of_weights_alone_is_another_fetch() -> None:
    cache = {"persistentVolumeClaim": {"claimName": "c"}}
    jobs = [build_fetch_job(server(cache=cache, weights={"uri": "s3://w/", "version": v}), CONTEXT) for v in (7, 8)]
    assert len({job["metadata"]["name"] for (job,) in jobs}) == 2


def test_a_simulated_engine_fetches_no_weights() -> None:
    made = workload(server(engine="simulated", weights={"uri": "s3://w/", "version": 7}))
    assert made == workload(server(engine="simulated"))


@pytest.mark.parametrize("uri", ["hf://org/model", "oci://registry.example.com/m:1", "file:///m"])
def test_announced_weights_alone_have_to_be_pinned_and_here(uri: str) -> None:
    with pytest.raises(UnsupportedSource):
        workload(server(weights={"uri": uri, "version": 1}))


def test_an_image_by_tag_is_pinned_by_its_revision() -> None:
    digest = f"sha256:{'0' * 64}"
    made = server(source={"uri": "oci://registry.example.com:5000/m:8b", "revision": digest})
    (template,) = pod_templates(workload(made))
    (volume,) = [each for each in template["spec"]["volumes"] if each["name"] == "weights"]
    assert volume["image"]["reference"] == f"registry.example.com:5000/m@{digest}"


def test_another_source_is_another_fetch_job() -> None:
    cache = {"persistentVolumeClaim": {"claimName": "w"}}
    jobs = [
        build_fetch_job(server(source={**HUB, "revision": revision}, cache=cache), CONTEXT)
        for revision in ("abc", "def")
    ]
    names = [job["metadata"]["name"] for (job,) in jobs]
    assert len(set(names)) == 2
    assert build_fetch_job(server(source=HUB), CONTEXT) == []
    assert build_fetch_job(server(engine="embedded"), CONTEXT) == []


@pytest.mark.parametrize(
    ("spec", "limits", "tolerated"),
    [
        ({}, {"nvidia.com/gpu": "4"}, "nvidia.com/gpu"),
        ({"accelerator": {"resourceName": "amd.com/gpu"}}, {"amd.com/gpu": "4"}, "amd.com/gpu"),
        ({"accelerator": {"resourceName": "cpu"}}, {"cpu": "4"}, None),
    ],
)
def test_accelerators_by_any_name(spec: dict[str, Any], limits: dict[str, str], tolerated: str | None) -> None:
    made = server(source=HUB, parallelism={"tensor": 2, "pipeline": 2}, **spec)
    assert engine(made)["resources"]["limits"] == limits
    (template,) = pod_templates(workload(made))
    assert [each["key"] for each in template["spec"].get("tolerations", [])] == ([tolerated] if tolerated else [])


@pytest.mark.parametrize(
    "overlay", [{}, {"spec": {"containers": [{"name": "engine"}]}}, {"spec": {"containers": [{"name": "other"}]}}]
)
def test_a_custom_engine_has_an_image(overlay: dict[str, Any]) -> None:
    with pytest.raises(InvalidPodTemplate, match="needs an image"):
        workload(server(engine="custom", podTemplate=overlay))


def test_the_pace_is_in_no_rendering() -> None:
    still = build_model_server(server(source=HUB), CONTEXT)
    moved = server(source=HUB, replicas=9, suspend=True, idlePolicy={"scaleToZeroAfterSeconds": 1})
    assert build_model_server(moved, CONTEXT) == still
    quiet = environment(models={"policy": {"endpoint": {"baseUrl": "http://x/v1", "model": "m"}}})
    busy = environment(**quiet.spec.model_dump(by_alias=True, exclude_unset=True), suspend=True, agent={"replicas": 9})
    assert rendered(busy) == rendered(quiet)


def rendered(made: GymEnvironment, **digests: str) -> list[Object]:
    endpoints = model_endpoints(made.spec.models, {}, namespace="team", owner=made.name)
    return build_environment(made, endpoints, CONTEXT, config_digests=digests)


def test_the_digest_says_whether_the_spec_changed_not_who_rendered_it() -> None:
    """Rule 2: equal digest and older revision: nobody asked for a change."""

    def digests(made: ModelServer, context: BuildContext) -> set[str]:
        return {obj["metadata"]["annotations"][SPEC_DIGEST] for obj in build_model_server(made, context)}

    old, new = BuildContext(), BuildContext(image_pull_policy="Always", render_revision="2")
    assert digests(server(source=HUB), old) == digests(server(source=HUB), new)
    assert digests(server(source=HUB), old) != digests(server(source=HUB, servedModelName="x"), old)


def test_a_config_map_that_a_pod_template_names_rolls_the_pods() -> None:
    overlay = {"spec": {"volumes": [{"name": "tools", "configMap": {"name": "tools"}}]}}
    made = environment(resources={"podTemplate": overlay}, models=POLICY)

    def rolls(objects: list[Object]) -> dict[str, str]:
        return {
            obj["metadata"]["name"]: obj["spec"]["template"]["metadata"]["annotations"][CONFIG_DIGEST]
            for obj in objects
            if obj["kind"] == "Deployment"
        }

    first, second = rolls(rendered(made, tools="1", other="1")), rolls(rendered(made, tools="2", other="2"))
    assert first["e-resources"] != second["e-resources"]
    assert first["e-agent"] == second["e-agent"]


def test_another_harness_ends_no_session() -> None:
    def digest(made: GymEnvironment, name: str) -> str:
        (found,) = [obj for obj in rendered(made) if obj["kind"] == "Deployment" and obj["metadata"]["name"] == name]
        annotations: dict[str, str] = found["spec"]["template"]["metadata"]["annotations"]
        return annotations[CONFIG_DIGEST]

    one, other = (environment(agent={"maxSteps": steps}, models=POLICY) for steps in (1, 2))
    assert digest(one, "e-resources") == digest(other, "e-resources")
    assert digest(one, "e-agent") != digest(other, "e-agent")


def test_inline_servers_inherit_rest_and_leave_replicas_to_scale() -> None:
    models = {"policy": {"server": {"engine": "embedded", "replicas": 3}}}
    (made,) = build_model_servers(
        environment(models=models, suspend=True, idlePolicy={"scaleToZeroAfterSeconds": 9}), CONTEXT
    )
    assert made["metadata"]["name"] == "e-policy"
    assert made["spec"] == {"engine": "embedded", "suspend": True, "idlePolicy": {"scaleToZeroAfterSeconds": 9}}


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({"engine": "embedded"}, {"m": 1}),
        ({"engine": "embedded", "replicas": 0}, {"m": 0}),
        ({"engine": "embedded", "replicas": 9, "autoscaling": {"maxReplicas": 4}}, {"m": 4}),
        ({"engine": "embedded", "autoscaling": {"minReplicas": 2, "maxReplicas": 4}}, {"m": 2}),
        ({"engine": "embedded", "replicas": 0, "autoscaling": EXTERNAL}, {"m": 0}),
        ({"engine": "embedded", "replicas": 9, "autoscaling": EXTERNAL}, {"m": 9}),
        ({"engine": "embedded", "autoscaling": EXTERNAL}, {"m": 2}),
        ({"source": HUB, "parallelism": {"tensor": 2, "nodes": 2}, "replicas": 3}, {"m-group": 3}),
    ],
)
def test_a_server_s_wanted_replicas(spec: dict[str, Any], wanted: dict[str, int]) -> None:
    assert wanted_replicas(server(**spec)) == wanted


def test_an_environment_s_wanted_replicas() -> None:
    models = {"policy": {"server": {"engine": "embedded", "replicas": 3}}, "judge": {"serverRef": {"name": "j"}}}
    assert wanted_replicas(environment(models=models, agent={"replicas": 4})) == {
        "e-policy": 3,
        "e-resources": 1,
        "e-agent": 4,
    }
    placed = environment(agent={"placement": "Worker"}, resources={"placement": "Worker"})
    assert wanted_replicas(placed) == {}
    assert rendered(placed) == []


def test_replicas_are_in_the_first_write_only() -> None:
    made = workload(server(engine="embedded"))
    assert initial_scale(made, 3)["spec"]["replicas"] == 3
    assert "replicas" not in made["spec"]


def test_addresses_follow_from_names() -> None:
    made = environment(agent={"placement": "Worker"})
    endpoints = entry_endpoints(made, {})
    assert endpoints.agent == ()
    assert endpoints.resources == ("http://e-resources.team.svc:8002",)


def test_a_role_whose_server_does_not_exist_is_missing() -> None:
    made = environment(models={"policy": {"serverRef": {"name": "m"}}, "judge": {"serverRef": {"name": "gone"}}})
    servers = {("team", "m"): server(engine="embedded", servedModelName="served")}
    found = model_endpoints(made.spec.models, servers, namespace="team", owner="e")
    assert {role: (endpoint.base_url, endpoint.model) for role, endpoint in found.items()} == {
        "policy": ("http://m.team.svc:8000/v1", "served")
    }


def test_the_session_secret_is_the_environment_s() -> None:
    secret = build_session_secret(environment(), "s" * 64)
    assert secret["metadata"]["name"] == "e-session"
    assert secret["stringData"] == {"secret": "s" * 64}
    assert secret["immutable"] is True
