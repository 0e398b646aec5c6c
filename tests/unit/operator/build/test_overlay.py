"""podTemplate: what it adds, what it may adjust, and what it is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubegym.core.spec import GymEnvironment, manifest_from
from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.errors import InvalidPodTemplate
from kubegym_operator.build.labels import Component
from kubegym_operator.build.overlay import overlaid
from kubegym_operator.build.pod import Container, Pod, config_mount, server_probes
from kubegym_operator.build.rolling import named_config_maps
from testbed.rendered import with_identity

OWNER = manifest_from(
    with_identity({"apiVersion": "kubegym.dev/v1alpha1", "kind": "GymEnvironment", "metadata": {"name": "math"}}),
    "test",
)


def pod(overlay: dict[str, Any] | None) -> dict[str, Any]:
    assert isinstance(OWNER, GymEnvironment)
    container = Container(
        "agent",
        "kubegym-agent",
        args=["serve"],
        env={"A": "1"},
        mounts=[config_mount("environment", "math-environment", "/etc/kubegym/environment")],
        port=8001,
        extra={"resources": {"requests": {"cpu": "1"}}, **server_probes()},
    )
    extra = {"tolerations": [{"key": "gpu", "operator": "Exists"}], "restartPolicy": "Always"}
    template = Pod(OWNER, Component.AGENT, [container], "math-agent", extra=extra)
    return template.to_template(BuildContext(image_pull_secrets=("ours",), image_pull_policy="Always"), overlay)


def agent(overlay: dict[str, Any]) -> dict[str, Any]:
    """The agent's container under an overlay of it."""
    container: dict[str, Any] = pod({"spec": {"containers": [{"name": "agent", **overlay}]}})["spec"]["containers"][0]
    return container


def test_nothing_is_nothing() -> None:
    assert pod(None) == pod({}) == pod({"spec": {}}) == pod({"metadata": {}, "spec": {"containers": []}})
    assert pod(None) == pod({"spec": {"containers": [{"name": "agent", "env": None}], "nodeSelector": None}})


def test_containers_merge_by_name() -> None:
    merged = agent({"env": [{"name": "B", "value": "2"}], "workingDir": "/srv"})
    assert [each["name"] for each in merged["env"]] == ["HOME", "A", "B"]
    assert merged["workingDir"] == "/srv"
    assert merged["args"] == ["serve"]


def test_other_containers_come_behind_and_are_confined_too() -> None:
    spec = pod({"spec": {"containers": [{"name": "beside", "image": "b", "securityContext": {"runAsUser": 7}}]}})[
        "spec"
    ]
    assert [each["name"] for each in spec["containers"]] == ["agent", "beside"]
    assert spec["containers"][1]["securityContext"] == {
        "runAsUser": 7,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_lists_add_up() -> None:
    more = {"tolerations": [{"key": "mine"}], "imagePullSecrets": [{"name": "mine"}], "volumes": [{"name": "v"}]}
    spec = pod({"spec": more})["spec"]
    assert [each["key"] for each in spec["tolerations"]] == ["gpu", "mine"]
    assert [each["name"] for each in spec["imagePullSecrets"]] == ["ours", "mine"]
    assert [each["name"] for each in spec["volumes"]] == ["tmp", "environment", "v"]


def test_metadata_is_added() -> None:
    metadata = pod({"metadata": {"labels": {"team": "x"}, "annotations": {"note": "y"}}})["metadata"]
    assert metadata["labels"]["team"] == "x"
    assert metadata["labels"]["app.kubernetes.io/component"] == "agent"
    assert metadata["annotations"] == {"note": "y"}


@pytest.mark.parametrize(
    ("overlay", "path", "value"),
    [
        ({"resources": {"requests": {"cpu": "4"}}}, ("resources", "requests", "cpu"), "4"),
        ({"readinessProbe": {"periodSeconds": 60}}, ("readinessProbe", "periodSeconds"), 60),
        ({"imagePullPolicy": "Never"}, ("imagePullPolicy",), "Never"),
        ({"securityContext": {"readOnlyRootFilesystem": False}}, ("securityContext", "readOnlyRootFilesystem"), False),
    ],
)
def test_sizes_and_patience_are_adjusted(overlay: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    found: Any = agent(overlay)
    for key in path:
        found = found[key]
    assert found == value


def test_the_pod_s_user_and_grace_are_adjusted() -> None:
    spec = pod({"spec": {"terminationGracePeriodSeconds": 9, "securityContext": {"runAsUser": 1000}}})["spec"]
    assert spec["terminationGracePeriodSeconds"] == 9
    assert spec["securityContext"]["runAsUser"] == 1000
    assert spec["securityContext"]["runAsNonRoot"] is True


def test_saying_the_same_is_no_conflict() -> None:
    assert agent({"image": "kubegym-agent", "args": ["serve"], "env": [{"name": "A", "value": "1"}]})


@pytest.mark.parametrize(
    ("overlay", "field"),
    [
        (
            {"metadata": {"labels": {"app.kubernetes.io/component": "model"}}},
            "metadata.labels.app.kubernetes.io/component",
        ),
        ({"metadata": {"name": "x"}}, "metadata.name"),
        ({"metadata": {"labels": {"n": 1}}}, "metadata.labels.n"),
        ({"kind": "Pod"}, "kind"),
        ({"spec": {"automountServiceAccountToken": True}}, "spec.automountServiceAccountToken"),
        ({"spec": {"enableServiceLinks": True}}, "spec.enableServiceLinks"),
        ({"spec": {"serviceAccountName": "admin"}}, "spec.serviceAccountName"),
        ({"spec": {"restartPolicy": "Always"}}, "spec.restartPolicy"),
        ({"spec": {"hostNetwork": True}}, "spec.hostNetwork"),
        ({"spec": {"securityContext": {"runAsNonRoot": False}}}, "spec.securityContext.runAsNonRoot"),
        ({"spec": {"securityContext": {"runAsUser": 0}}}, "spec.securityContext.runAsUser"),
        ({"spec": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}}, "seccompProfile.type"),
        ({"spec": {"containers": [{"name": "agent", "args": ["-c"]}]}}, "containers[agent].args"),
        ({"spec": {"containers": [{"name": "agent", "command": ["sh"]}]}}, "containers[agent].command"),
        ({"spec": {"containers": [{"name": "agent", "image": "mine"}]}}, "containers[agent].image"),
        (
            {"spec": {"containers": [{"name": "agent", "env": [{"name": "A", "value": "2"}]}]}},
            "containers[agent].env[A]",
        ),
        (
            {"spec": {"containers": [{"name": "agent", "volumeMounts": [{"name": "x", "mountPath": "/tmp"}]}]}},
            "containers[agent].volumeMounts[/tmp]",
        ),
        ({"spec": {"volumes": [{"name": "environment", "emptyDir": {}}]}}, "spec.volumes[environment]"),
        ({"spec": {"containers": [{"name": "b", "securityContext": {"privileged": True}}]}}, "privileged"),
        (
            {"spec": {"containers": [{"name": "b", "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}]}},
            "capabilities.add",
        ),
        ({"spec": {"containers": [{"image": "b"}]}}, "spec.containers[0]"),
        ({"spec": {"containers": {"name": "b"}}}, "spec.containers"),
        ({"spec": {"tolerations": {}}}, "spec.tolerations"),
        ({"spec": []}, "spec"),
        ({"spec": {"securityContext": "none"}}, "spec.securityContext"),
    ],
)
def test_a_conflict_names_its_field(overlay: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidPodTemplate) as caught:
        pod(overlay)
    assert caught.value.reason == "InvalidPodTemplate"
    assert caught.value.field.startswith("spec.podTemplate")
    assert field in caught.value.field
    assert caught.value.retryable is False


def test_a_volume_of_ours_keeps_its_source() -> None:
    """A second source in a volume would leave the choice to the API server."""
    with pytest.raises(InvalidPodTemplate, match="volumes"):
        pod({"spec": {"volumes": [{"name": "tmp", "hostPath": {"path": "/"}}]}})


def test_neither_side_is_changed() -> None:
    template: dict[str, Any] = {"metadata": {}, "spec": {"containers": [{"name": "a"}]}}
    overlay: dict[str, Any] = {"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]}]}}
    overlaid(template, overlay, "spec.podTemplate")["spec"]["containers"][0]["env"].append("changed")
    assert template == {"metadata": {}, "spec": {"containers": [{"name": "a"}]}}
    assert overlay["spec"]["containers"][0]["env"] == [{"name": "X", "value": "1"}]


WORDS = """
    metadata labels annotations spec containers initContainers name image env envFrom volumes configMap
    projected sources configMapRef valueFrom configMapKeyRef mountPath securityContext capabilities add
    drop resources requests tolerations volumeMounts ports
"""
KEYS = st.sampled_from(re.findall(r"\w+", WORDS))
LEAVES = st.none() | st.booleans() | st.integers(-1, 1) | st.sampled_from(["agent", "tmp", "environment", "x", ""])
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
CONTAINERS = st.lists(st.dictionaries(KEYS, JSON, max_size=5).map(lambda given: {"name": "agent", **given}), max_size=2)


@settings(max_examples=150)
@given(st.dictionaries(KEYS, JSON, max_size=3), st.dictionaries(KEYS, JSON, max_size=4), CONTAINERS)
def test_any_overlay_is_merged_or_refused(
    overlay: dict[str, Any], spec: dict[str, Any], containers: list[dict[str, Any]]
) -> None:
    """It is a user's free object: whatever it holds, nothing else is raised."""
    for given_overlay in (overlay, {"spec": spec}, {"spec": {"containers": containers}}):
        try:
            made = pod(given_overlay)
        except InvalidPodTemplate:
            continue
        named_config_maps(made)
        assert made["spec"]["automountServiceAccountToken"] is False
        assert all(each["securityContext"]["allowPrivilegeEscalation"] is False for each in made["spec"]["containers"])
