"""The state of an object in a word, and why it does not move, down to the pod that holds everything up."""

from __future__ import annotations

from typing import Any

import pytest

from kubegym.cli.cluster import NotInCluster, apply_all, described, found, surroundings
from kubegym.cli.why import Cause, Object, World, causes, state
from kubegym.core.errors import InputError

pytestmark = pytest.mark.unit

CLUSTER = {"apiVersion": "kubegym.dev/v1alpha1"}


def obj(kind: str, name: str, spec: Object | None = None, *, namespace: str = "team", **conditions: str) -> Object:
    """An object of ours; a condition is ``Type="Status/Reason/message"``."""
    found = [
        dict(zip(("type", "status", "reason", "message"), (name, *words.split("/", 2)), strict=True))
        for name, words in conditions.items()
    ]
    status = {"observedGeneration": 3, "conditions": found}
    metadata = {"name": name, "namespace": namespace, "generation": 3}
    return {**CLUSTER, "kind": kind, "metadata": metadata, "spec": spec or {}, "status": status}


def job(environment: str = "math", **conditions: str) -> Object:
    spec = {
        "environments": [{"name": "math", "environmentRef": {"name": environment}}],
        "output": {"uri": "s3://runs/night/"},
    }
    return obj("RolloutJob", "night", spec, **conditions)


def pod(name: str, owner: str, status: Object) -> Object:
    label, _, value = owner.partition("=")
    labels = {"app.kubernetes.io/managed-by": "kubegym", label: value}
    return {"kind": "Pod", "metadata": {"name": name, "namespace": "team", "labels": labels}, "status": status}


WAITING = job(EnvironmentReady="False/ModelNotReady/GymEnvironment math: its model is not ready")
ENVIRONMENT = obj(
    "GymEnvironment",
    "math",
    {
        "models": {
            "policy": {"server": {"engine": "embedded"}},
            "judge": {"serverRef": {"name": "judge", "namespace": "shared"}},
        }
    },
    Serving="False/ModelNotReady/model policy",
)
SERVER = obj("ModelServer", "math-policy", Stalled="True/Unschedulable/0/4 nodes are available")
UNSCHEDULABLE = pod(
    "math-policy-0",
    "kubegym.dev/modelserver-name=math-policy",
    {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}]},
)


@pytest.mark.parametrize(
    ("given", "word", "reason"),
    [
        (job(Complete="True/Completed/", Stalled="True/NoProgress/"), "Complete", "Completed"),
        (job(Failed="True/PlanConflict/seed differs"), "Failed", "PlanConflict"),
        (job(Stalled="True/NoProgress/", EnvironmentReady="False/ModelNotReady/"), "Stalled", "NoProgress"),
        (job(Suspended="True/QuotaPending/"), "Queued", "QuotaPending"),
        (WAITING, "Waiting", "ModelNotReady"),
        (job(EnvironmentReady="True/Available/", Progressing="True/Collecting/"), "Running", "Collecting"),
        (job(Progressing="False/WaitingForWorkers/"), "Pending", "WaitingForWorkers"),
        (obj("ModelServer", "m", Serving="True/Available/", Ready="True/Available/"), "Serving", "Available"),
        (obj("ModelServer", "m", Ready="True/Idle/", Serving="False/NoReplicas/"), "Idle", "Idle"),
        (obj("ModelServer", "m", Suspended="True/Preempted/", Stalled="True/X/"), "Suspended", "Preempted"),
        (SERVER, "Stalled", "Unschedulable"),
        (obj("GymEnvironment", "e", Serving="False/RollingOut/"), "Starting", "RollingOut"),
        (obj("GymEnvironment", "e", {"suspend": True}, Serving="True/Available/"), "Suspended", ""),
        ({**job(), "status": {}}, "Pending", "NotSeen"),
        ({**job(), "status": {"observedGeneration": -1}}, "Pending", "NotSeen"),
    ],
)
def test_state(given: Object, word: str, reason: str) -> None:
    now = state(given)
    assert (now.word, now.reason) == (word, reason)


def test_what_is_being_deleted_says_so() -> None:
    given = job(Complete="True/Completed/")
    given["metadata"]["deletionTimestamp"] = "2026-11-28T09:00:00Z"
    assert state(given).word == "Deleting"


def test_a_job_is_followed_down_to_the_pod_that_holds_it_up() -> None:
    world = World.of([WAITING, ENVIRONMENT, SERVER], [UNSCHEDULABLE])
    assert [(cause.depth, cause.who, cause.reason) for cause in causes(WAITING, world)] == [
        (0, "RolloutJob night", "ModelNotReady"),
        (1, "GymEnvironment math", "ModelNotReady"),
        (2, "ModelServer math-policy", "Unschedulable"),
        (3, "Pod math-policy-0", "Unschedulable"),
        (2, "ModelServer judge", "NotFound"),
    ]


def test_an_environment_that_is_not_there() -> None:
    assert causes(WAITING, World.of([WAITING], []))[-1] == Cause(
        "GymEnvironment math", "NotFound", "there is none in team", 1
    )


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        (
            {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}},
            [("ImagePullBackOff", "no such image")],
        ),
        ({"state": {"waiting": {"reason": "ContainerCreating"}}}, []),
        ({"state": {"running": {}}}, []),
        (
            {
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
                "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "no weights\n"}},
            },
            [("CrashLoopBackOff", "back-off 10s"), ("Error", "engine ended with 1: no weights")],
        ),
        (
            {"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}},
            [("OOMKilled", "engine ended with 137")],
        ),
    ],
)
def test_pods_say_what_keeps_them(container: Object, expected: list[tuple[str, str]]) -> None:
    held = pod("p", "kubegym.dev/rolloutjob-name=night", {"containerStatuses": [{"name": "engine", **container}]})
    given = job(EnvironmentReady="True/Available/", Stalled="True/WorkerFailed/a worker")
    found = causes(given, World.of([given], [held]))[1:]
    assert [(cause.reason, cause.message) for cause in found] == expected


def test_nobody_looks_at_it() -> None:
    given = {**job(), "status": {}}
    (cause,) = causes(given, World.of([given], []))
    assert cause.reason == "NotSeen"
    assert "watches team" in cause.message


def test_a_change_that_nobody_looked_at() -> None:
    given = job(Progressing="False/WaitingForWorkers/", EnvironmentReady="True/Available/")
    given["metadata"]["generation"] = 4
    assert [cause.reason for cause in causes(given, World.of([given], []))] == ["Behind"]


@pytest.mark.parametrize(
    "given", [job(Progressing="True/Collecting/", EnvironmentReady="True/A/"), job(Complete="True/Completed/")]
)
def test_what_moves_needs_no_reason(given: Object) -> None:
    assert causes(given, World.of([given], [])) == []


def test_description_of_a_run() -> None:
    given = job(EnvironmentReady="True/Available/", Progressing="True/Collecting/")
    given["status"] |= {
        "rollouts": {"expected": 80_000, "scored": 3_000, "failed": 72},
        "failures": {"ToolFailed": 12, "ModelTimeout": 60},
        "shards": {"total": 313, "committed": 12},
        "rewardMean": "0.93",
        "throughput": "12.5",
    }
    assert list(described(given, [])) == [
        "RolloutJob team/night: Running (Collecting)",
        "  rollouts   3,072 of 80,000 settled: 3,000 scored, 72 failed",
        "  failures   ModelTimeout 60, ToolFailed 12",
        "  shards     12 of 313 committed",
        "  reward     0.93",
        "  rollouts/s 12.5",
        "  output     s3://runs/night/",
    ]


class MemoryCluster:
    """Objects in a dictionary."""

    namespace = "team"

    def __init__(self, *objects: Object) -> None:
        self.objects = list(objects)
        self.applied: list[Object] = []

    def get(self, api_version: str, kind: str, namespace: str, name: str) -> Object | None:
        named = [one for one in self.list(api_version, kind, namespace) if one["metadata"]["name"] == name]
        return named[0] if named else None

    def list(self, api_version: str, kind: str, namespace: str | None, labels: str = "") -> list[Object]:
        wanted = dict(pair.split("=") for pair in labels.split(",") if pair)
        return [
            one
            for one in self.objects
            if one["kind"] == kind
            and namespace in (None, one["metadata"]["namespace"])
            and wanted.items() <= one["metadata"].get("labels", {}).items()
        ]

    def apply(self, given: Object) -> Object:
        self.applied.append(given)
        return given

    def logs(self, namespace: str, name: str, **options: Any) -> Any:
        raise NotImplementedError


def test_surroundings_reach_into_other_namespaces() -> None:
    judge = obj("ModelServer", "judge", namespace="shared", Serving="False/NoReplicas/")
    cluster = MemoryCluster(WAITING, ENVIRONMENT, SERVER, UNSCHEDULABLE, judge)
    assert [cause.who for cause in causes(WAITING, surroundings(cluster, WAITING))][-1] == "ModelServer judge"
    assert "NotFound" not in [cause.reason for cause in causes(WAITING, surroundings(cluster, WAITING))]


def test_runs_are_applied_after_what_they_need() -> None:
    given = [{**one, "metadata": {"name": one["metadata"]["name"]}} for one in (WAITING, SERVER, ENVIRONMENT)]
    given[1]["metadata"]["namespace"] = "shared"
    made = apply_all(MemoryCluster(), given, "team")
    assert [(one["kind"], one["metadata"]["namespace"]) for one in made] == [
        ("ModelServer", "shared"),
        ("GymEnvironment", "team"),
        ("RolloutJob", "team"),
    ]


def test_a_misspelt_name_is_guessed() -> None:
    with pytest.raises(InputError, match="did you mean 'night'") as raised:
        found(MemoryCluster(WAITING), "RolloutJob", "team", "nihgt")
    assert raised.type is NotInCluster
