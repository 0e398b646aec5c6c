"""kubectl's verbs on our kinds, on a real API server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.k8s.api import Refused
from testbed.k8s.cluster import Cluster, KubectlFailed
from testbed.manifest_corpus import API_VERSION, ENTRY, SPECS, changed, manifest

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("crds")]

ROOT = Path(__file__).resolve().parents[3]
SAMPLES = sorted((ROOT / "environments").glob("*/environment.yaml"))
TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.md"))
CRDS = sorted((ROOT / "crds").glob("*.yaml"))
TIME = "2026-11-28T09:00:00Z"


def apply(cluster: Cluster, namespace: str, obj: dict[str, Any], manager: str, *, status: bool = False) -> None:
    """Server-side apply in a manager's name, without force."""
    subresource = ("--subresource=status",) if status else ()
    cluster.kubectl(
        *("apply", "--server-side", f"--field-manager={manager}", *subresource, "-f", "-"),
        namespace=namespace,
        stdin=yaml.safe_dump(obj),
    )


def stored(cluster: Cluster, namespace: str, kind: str, name: str = "x") -> dict[str, Any]:
    found = cluster.api.get(API_VERSION, kind, name, namespace)
    assert found is not None
    return found


def condition(name: str, status: str = "True", reason: str = "Available", message: str = "") -> dict[str, str]:
    return {"type": name, "status": status, "reason": reason, "message": message, "lastTransitionTime": TIME}


def columns(table: str) -> list[dict[str, str]]:
    """``kubectl get`` as rows by column; cells are cut where the header's words begin."""
    header, *lines = table.splitlines()
    starts = [i for i, letter in enumerate(header) if letter != " " and (i == 0 or header[i - 1] == " ")]
    spans = list(zip(starts, [*starts[1:], None], strict=True))
    return [{header[a:b].strip(): line[a:b].strip() for a, b in spans} for line in lines]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.parent.name)
def test_every_shipped_environment_applies_and_then_differs_in_nothing(
    cluster: Cluster, namespace: str, path: Path
) -> None:
    cluster.kubectl("apply", "-f", str(path), namespace=namespace)

    assert cluster.kubectl("diff", "-f", str(path), namespace=namespace) == ""
    assert cluster.kubectl("diff", "--server-side", "--field-manager=git", "-f", str(path), namespace=namespace) == ""
    assert "unchanged" in cluster.kubectl("apply", "-f", str(path), namespace=namespace)


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_every_tutorial_s_manifests_apply(cluster: Cluster, namespace: str, page: Path, tmp_path: Path) -> None:
    shown = re.findall(r"^`environment.yaml`:\n\n```yaml\n(.*?)^```$", page.read_text(), re.M | re.S)
    assert len(shown) == 1
    path = tmp_path / "environment.yaml"
    path.write_text(shown[0])
    cluster.kubectl("apply", "-f", str(path), namespace=namespace)
    assert "unchanged" in cluster.kubectl("apply", "-f", str(path), namespace=namespace)


def test_the_definitions_apply_in_every_way(cluster: Cluster) -> None:
    for path in CRDS:
        for way in (("apply",), ("apply", "--server-side", "--force-conflicts"), ("replace",)):
            cluster.kubectl(*way, "--dry-run=server", "-f", str(path))
        crd = cluster.api.get(
            "apiextensions.k8s.io/v1", "CustomResourceDefinition", f"{path.stem.split('_')[1]}.kubegym.dev"
        )
        assert crd is not None
        assert {c["type"]: c["status"] for c in crd["status"]["conditions"]} == {
            "NamesAccepted": "True",
            "Established": "True",
        }


def test_diff_tells_what_would_change(cluster: Cluster, namespace: str) -> None:
    cluster.apply(manifest("GymEnvironment"), namespace)
    wanted = manifest("GymEnvironment", {"agent": {"maxSteps": 5}})

    with pytest.raises(KubectlFailed) as caught:
        cluster.kubectl("diff", "-f", "-", namespace=namespace, stdin=yaml.safe_dump(wanted))

    assert caught.value.code == 1


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("gymenvironments", "An environment that rollouts can be collected from."),
        ("genv.spec.agent.maxSteps", "Most model calls in a rollout"),
        ("rj.spec.output.uri", "The store must support conditional writes."),
        ("rj.spec.environments.weight", "Default: 1."),
        ("rj.spec.rolloutsPerTask", "Immutable."),
        ("ms.spec.weights.version", "It only grows"),
        (
            "ms.status.policyVersion",
            "that every ready replica serves: the lowest, while they are exchanged.",
        ),
    ],
)
def test_explain_shows_the_models_docstrings(cluster: Cluster, field: str, says: str) -> None:
    assert says in " ".join(cluster.kubectl("explain", field).split())


@pytest.mark.parametrize("word", ["kubegym", "genv", "gymenvironment", "gymenvironments.kubegym.dev"])
def test_short_names_and_the_category_find_the_kind(cluster: Cluster, namespace: str, word: str) -> None:
    cluster.apply(manifest("GymEnvironment"), namespace)

    assert "gymenvironment.kubegym.dev/x" in cluster.kubectl("get", word, "-o", "name", namespace=namespace)


def test_kubectl_names_an_unknown_field(cluster: Cluster, namespace: str) -> None:
    obj = manifest("GymEnvironment", {"agent": {"maxStep": 3}})

    with pytest.raises(KubectlFailed, match=r'unknown field "spec\.agent\.maxStep"'):
        cluster.kubectl("apply", "-f", "-", namespace=namespace, stdin=yaml.safe_dump(obj))


def test_two_managers_apply_different_fields(cluster: Cluster, namespace: str) -> None:
    role = {"policy": {"serverRef": {"name": "a"}}}
    apply(cluster, namespace, manifest("GymEnvironment", {"models": role, "agent": {"maxSteps": 5}}), "git")
    other = {"models": {"judge": {"serverRef": {"name": "b"}}}, "resources": {"config": {"depth": {"max": 2}}}}
    apply(cluster, namespace, manifest("GymEnvironment", other), "platform")

    spec = stored(cluster, namespace, "GymEnvironment")["spec"]
    assert sorted(spec["models"]) == ["judge", "policy"]
    assert (spec["agent"]["maxSteps"], spec["resources"]["config"]) == (5, {"depth": {"max": 2}})

    with pytest.raises(KubectlFailed, match=r'conflict with "git".*\.spec\.agent\.maxSteps'):
        apply(cluster, namespace, manifest("GymEnvironment", other | {"agent": {"maxSteps": 6}}), "platform")

    apply(cluster, namespace, manifest("GymEnvironment", {"models": role}), "git")
    assert "maxSteps" not in stored(cluster, namespace, "GymEnvironment")["spec"]["agent"]


def test_two_managers_apply_different_conditions(cluster: Cluster, namespace: str) -> None:
    obj = manifest("ModelServer")
    cluster.apply(obj, namespace)
    head = {key: obj[key] for key in ("apiVersion", "kind", "metadata")}
    apply(cluster, namespace, head | {"status": {"conditions": [condition("Serving")]}}, "kubegym", status=True)
    apply(cluster, namespace, head | {"status": {"conditions": [condition("team/Checked")]}}, "team", status=True)

    now = {"conditions": [condition("Serving", "False", "NotServing")], "readyReplicas": 0}
    apply(cluster, namespace, head | {"status": now}, "kubegym", status=True)

    status = stored(cluster, namespace, "ModelServer")["status"]
    assert [(c["type"], c["status"]) for c in status["conditions"]] == [("Serving", "False"), ("team/Checked", "True")]
    assert status["readyReplicas"] == 0


def test_a_status_is_stored_as_it_was_written(cluster: Cluster, namespace: str) -> None:
    """A default that the API server fills in would make every status look out of date."""
    cluster.apply(manifest("RolloutJob"), namespace)
    status = {
        "observedGeneration": 1,
        "rollouts": {"scored": 3},
        "shards": {},
        "tokens": {"output": 2**40},
        "failures": {"ModelTimeout": 2},
        "environments": [{"name": "math", "digest": "abc"}],
        "conditions": [condition("Progressing", reason="Running")],
    }
    cluster.api.patch(API_VERSION, "RolloutJob", "x", {"status": status}, namespace, subresource="status")

    found = stored(cluster, namespace, "RolloutJob")
    assert found["status"] == status
    assert found["metadata"]["generation"] == 1


def test_spec_and_status_do_not_write_each_other(cluster: Cluster, namespace: str) -> None:
    cluster.apply(manifest("GymEnvironment"), namespace)

    cluster.api.patch(API_VERSION, "GymEnvironment", "x", {"status": {"activeRolloutJobs": 1}}, namespace)
    both = {"status": {"activeRolloutJobs": 2}, "spec": {"suspend": True}}
    cluster.api.patch(API_VERSION, "GymEnvironment", "x", both, namespace, subresource="status")

    found = stored(cluster, namespace, "GymEnvironment")
    assert (found["status"]["activeRolloutJobs"], found["spec"]["suspend"]) == (2, False)


@pytest.mark.parametrize(
    "bad",
    [
        condition("Ready", "true"),
        condition("Ready") | {"lastTransitionTime": "yesterday"},
        condition("Ready", message="x" * 4097),
        {"type": "Ready", "status": "True"},
    ],
    ids=["status", "time", "message", "incomplete"],
)
def test_a_condition_has_the_shape_of_metav1(cluster: Cluster, namespace: str, bad: dict[str, str]) -> None:
    cluster.apply(manifest("GymEnvironment"), namespace)

    with pytest.raises(Refused, match=r"status\.conditions\[0\]"):
        cluster.api.patch(
            API_VERSION, "GymEnvironment", "x", {"status": {"conditions": [bad]}}, namespace, subresource="status"
        )


@pytest.mark.parametrize(("kind", "field"), [("RolloutJob", "parallelism"), ("ModelServer", "replicas")])
def test_scale_writes_one_field_and_a_later_apply_leaves_it(
    cluster: Cluster, namespace: str, kind: str, field: str
) -> None:
    obj = manifest(kind)
    apply(cluster, namespace, obj, "git")
    cluster.kubectl("scale", f"{kind.lower()}/x", "--replicas=7", namespace=namespace)
    apply(cluster, namespace, obj, "git")

    assert stored(cluster, namespace, kind)["spec"][field] == 7

    cluster.kubectl("scale", f"{kind.lower()}/x", "--current-replicas=7", "--replicas=0", namespace=namespace)
    assert stored(cluster, namespace, kind)["spec"][field] == 0


def test_scale_shows_replicas_and_selector(cluster: Cluster, namespace: str) -> None:
    cluster.apply(manifest("ModelServer", SPECS["ModelServer"] | {"replicas": 2}), namespace)
    status = {"replicas": 1, "selector": "app=x"}
    cluster.api.patch(API_VERSION, "ModelServer", "x", {"status": status}, namespace, subresource="status")

    scale = cluster.api.request("GET", cluster.api.path(API_VERSION, "ModelServer", namespace, "x") + "/scale")
    assert (scale["spec"], scale["status"]) == ({"replicas": 2}, status)


def test_scale_keeps_to_the_bounds(cluster: Cluster, namespace: str) -> None:
    cluster.apply(manifest("RolloutJob"), namespace)

    with pytest.raises(KubectlFailed, match=r"spec\.parallelism.*less than or equal to 10000"):
        cluster.kubectl("scale", "rj/x", "--replicas=10001", namespace=namespace)


def test_wait_for_complete(cluster: Cluster, namespace: str) -> None:
    cluster.apply(manifest("RolloutJob"), namespace)
    with pytest.raises(KubectlFailed, match="condition not met"):
        cluster.wait("rj/x", "Complete", namespace, seconds=0)

    status = {"observedGeneration": 1, "conditions": [condition("Complete", reason="Completed")]}
    cluster.api.patch(API_VERSION, "RolloutJob", "x", {"status": status}, namespace, subresource="status")
    cluster.wait("rj/x", "Complete", namespace)


STATUSES: dict[str, dict[str, Any]] = {
    "GymEnvironment": {
        "conditions": [condition("Ready", "True", "Idle", "no job needs it"), condition("Serving", "False", "Idle")],
        "parts": {"models": {"readyReplicas": 2}, "resources": {"readyReplicas": 3}, "agent": {"readyReplicas": 4}},
        "activeRolloutJobs": 0,
    },
    "RolloutJob": {
        "conditions": [condition("Progressing", reason="Running", message="16 workers")],
        "workers": 16,
        "rollouts": {"expected": 800, "scored": 300, "failed": 2},
        "shards": {"committed": 12},
        "rewardMean": "0.41",
        "throughput": "12.5",
        "estimatedCompletionTime": TIME,
    },
    "ModelServer": {
        "conditions": [condition("Ready", "False", "RollingOut", "1 of 2"), condition("Serving")],
        "readyReplicas": 1,
        "desiredReplicas": 2,
        "policyVersion": 7,
    },
}
SHOWN: dict[str, dict[str, str]] = {
    "GymEnvironment": {
        "READY": "True",
        "REASON": "Idle",
        "SERVING": "False",
        "MODELS": "2",
        "RESOURCES": "3",
        "AGENTS": "4",
    },
    "RolloutJob": {
        "STATE": "Running",
        "WORKERS": "16",
        "SCORED": "300",
        "FAILED": "2",
        "EXPECTED": "800",
        "REWARD": "0.41",
    },
    "ModelServer": {
        "READY": "False",
        "REASON": "RollingOut",
        "SERVING": "True",
        "REPLICAS": "1",
        "DESIRED": "2",
        "VERSION": "7",
        "ENGINE": "embedded",
    },
}
WIDE: dict[str, dict[str, str]] = {
    "GymEnvironment": {"JOBS": "0", "MESSAGE": "no job needs it"},
    "RolloutJob": {
        "SHARDS": "12",
        "RATE": "12.5",
        "ENDS": TIME,
        "OUTPUT": "s3://bucket/run/",
        "MESSAGE": "16 workers",
    },
    "ModelServer": {"SOURCE": "", "MESSAGE": "1 of 2"},
}


@pytest.mark.parametrize("kind", sorted(SPECS))
def test_columns(cluster: Cluster, namespace: str, kind: str) -> None:
    cluster.apply(manifest(kind), namespace)
    cluster.api.patch(API_VERSION, kind, "x", {"status": STATUSES[kind]}, namespace, subresource="status")

    (short,) = columns(cluster.kubectl("get", kind.lower(), namespace=namespace))
    (wide,) = columns(cluster.kubectl("get", kind.lower(), "-o", "wide", namespace=namespace))

    assert (short.pop("NAME"), short.pop("AGE")[-1]) == ("x", "s")
    assert short == SHOWN[kind]
    assert {name: text for name, text in wide.items() if name not in {"NAME", "AGE"}} == SHOWN[kind] | WIDE[kind]


def test_a_job_may_be_stored_again_as_it_is(cluster: Cluster, namespace: str) -> None:
    """What defaults and unknown fields do to equality: a replace with the stored object changes nothing."""
    spec = changed(
        SPECS["RolloutJob"], {"environments": [ENTRY | {"sampling": {"extraBody": {"a": [1, {"b": None}]}}}]}
    )
    created = cluster.api.create(manifest("RolloutJob", spec), namespace)
    path = cluster.api.path(API_VERSION, "RolloutJob", namespace, "x")

    replaced = cluster.api.request("PUT", path, created)
    assert replaced["metadata"]["generation"] == 1
    as_written = manifest("RolloutJob", spec) | {"metadata": replaced["metadata"]}
    assert cluster.api.request("PUT", path, as_written)["metadata"]["generation"] == 1
