"""Small decisions, each by its table: rest, deadlines, figures, statuses, selectors, references."""

from __future__ import annotations

from typing import Any

import pytest

from kubegym.core.spec.common import IdlePolicy
from kubegym_operator.api import RolloutJob, parse
from kubegym_operator.api.conditions import Condition
from kubegym_operator.errors import Refusal
from kubegym_operator.kube.errors import AlreadyExists, Cause, Forbidden, Invalid, KubeError
from kubegym_operator.kube.protocol import Object
from kubegym_operator.plan.activity import Activity, overdue, read_activity, until_overdue
from kubegym_operator.plan.demand import wants_environments
from kubegym_operator.plan.failures import Trouble
from kubegym_operator.plan.figures import figures, reward_integrity
from kubegym_operator.plan.idle import resting
from kubegym_operator.plan.selectors import selects
from kubegym_operator.plan.snapshot import Progress
from kubegym_operator.plan.status import kstatus, next_status, stalled_status, transitions
from kubegym_operator.plan.times import rfc3339, seconds, spell
from kubegym_operator.reconcile.controller import refusal_trouble
from kubegym_operator.reconcile.keys import Key
from kubegym_operator.reconcile.references import dependants
from kubegym_operator.reconcile.watched import GYM_ENVIRONMENT, MODEL_SERVER, ROLLOUT_JOB
from testbed.operator_world import World

NOW = 1_800_000_000.0


def ago(duration: float) -> str:
    return rfc3339(NOW - duration)


# Rest


@pytest.mark.parametrize(
    ("status", "active", "last_request", "rests", "again"),
    [
        pytest.param({}, False, None, True, None, id="created long ago, never used"),
        pytest.param({"idleSince": ago(99)}, False, None, False, 1.0, id="not yet"),
        pytest.param({"idleSince": ago(100)}, False, None, True, None, id="long enough"),
        pytest.param({"idleSince": ago(500)}, False, NOW - 10, False, 90.0, id="asked lately"),
        pytest.param({"idleSince": ago(500)}, True, None, False, None, id="a job needs it"),
        pytest.param({"conditions": [{}]}, False, None, False, 100.0, id="its last job has just ended"),
    ],
)
def test_idle(status: Object, active: bool, last_request: float | None, rests: bool, again: float | None) -> None:
    raw = {"metadata": {"creationTimestamp": ago(1000)}, "status": status}
    policy = IdlePolicy(scale_to_zero_after_seconds=100)
    rest = resting(raw, suspend=False, policy=policy, active=active, last_request=last_request, now=NOW)
    assert (rest.rests, rest.again_after) == (rests, again)


def test_suspension_wins_and_no_policy_never_rests() -> None:
    raw = {"metadata": {"creationTimestamp": ago(1000)}}
    assert resting(raw, suspend=True, policy=None, active=True, last_request=None, now=NOW).reason == "Suspended"
    assert not resting(raw, suspend=False, policy=None, active=False, last_request=None, now=NOW).rests


@pytest.mark.parametrize(
    ("job", "wants"),
    [
        pytest.param({}, False, id="not looked at yet"),
        pytest.param({"EnvironmentReady": ("False", "CheckingOutput")}, False, id="looks at its output"),
        pytest.param({"EnvironmentReady": ("False", "Idle")}, True, id="waits"),
        pytest.param({"EnvironmentReady": ("True", "Available")}, True, id="runs"),
        pytest.param({"EnvironmentReady": ("True", "Available"), "Complete": ("True", "Completed")}, False, id="done"),
        pytest.param({"EnvironmentReady": ("True", "Available"), "Failed": ("True", "X")}, False, id="failed"),
        pytest.param({"EnvironmentReady": ("True", "x"), "Suspended": ("True", "QuotaPending")}, False, id="quota"),
        pytest.param(
            {"EnvironmentReady": ("False", "x"), "Suspended": ("True", "EnvironmentNotReady")}, True, id="paused"
        ),
    ],
)
def test_who_wants_environments(job: dict[str, tuple[str, str]], wants: bool) -> None:
    conditions = [{"type": type, "status": status, "reason": reason} for type, (status, reason) in job.items()]
    assert wants_environments({"metadata": {}, "spec": {}, "status": {"conditions": conditions}}) is wants


# Deadlines


def run(**spec: Any) -> RolloutJob:
    entry = {"name": "e", "environmentRef": {"name": "e"}, "dataset": {"bundled": {}}}
    spec = {"environments": [entry], "output": {"uri": "s3://b/x/"}, **spec}
    made = parse({"apiVersion": "kubegym.dev/v1alpha1", "kind": "RolloutJob", "metadata": {"name": "r"}, "spec": spec})
    assert isinstance(made, RolloutJob)
    return made


def k8s_job(suspend: bool = False, conditions: list[Object] | None = None, **status: Any) -> Object:
    return {
        "metadata": {"name": "r"},
        "spec": {"suspend": suspend},
        "status": {"conditions": conditions or [], **status},
    }


@pytest.mark.parametrize(
    ("stored", "job", "expected"),
    [
        pytest.param({}, None, Activity(None, 0), id="nothing yet"),
        pytest.param({}, k8s_job(active=2), Activity(None, 0), id="pods pend"),
        pytest.param({}, k8s_job(active=2, ready=1), Activity(NOW, 0), id="the first runs"),
        pytest.param({"activeSince": ago(50)}, k8s_job(active=2), Activity(NOW - 50, 0), id="not ready for a moment"),
        pytest.param({"activeSince": ago(50), "activeSeconds": 7}, None, Activity(None, 57), id="Job deleted"),
        pytest.param(
            {"activeSince": ago(50)},
            k8s_job(True, [{"type": "Suspended", "status": "True", "lastTransitionTime": ago(20)}]),
            Activity(None, 30),
            id="suspended while nobody looked",
        ),
        pytest.param(
            {"activeSince": ago(50)},
            k8s_job(False, [{"type": "Complete", "status": "True"}], completionTime=ago(10)),
            Activity(None, 40),
            id="complete",
        ),
    ],
)
def test_activity(stored: Object, job: Object | None, expected: Activity) -> None:
    assert read_activity({"status": stored}, job, NOW) == expected


def test_deadlines() -> None:
    raw = {"metadata": {"creationTimestamp": ago(100)}}
    limited = run(activeDeadlineSeconds=60, preRunningDeadlineSeconds=100)
    late = overdue(limited, raw, Activity(None, 0), "no GPU", NOW)
    assert late is not None
    assert late.reason == "PreRunningDeadlineExceeded"
    assert late.message.endswith("no GPU")
    assert overdue(limited, raw, Activity(NOW - 5, 50), "", NOW) is None
    assert until_overdue(limited, raw, Activity(NOW - 5, 50), NOW) == 5
    late = overdue(limited, raw, Activity(NOW - 10, 50), "", NOW)
    assert late is not None
    assert late.reason == "DeadlineExceeded"
    assert until_overdue(run(), raw, Activity(None, 0), NOW) is None


def test_a_resumed_run_has_its_whole_time_to_start() -> None:
    resumed = {"type": "Suspended", "status": "False", "reason": "NotSuspended", "lastTransitionTime": ago(10)}
    raw = {"metadata": {"creationTimestamp": ago(1000)}, "status": {"conditions": [resumed]}}
    assert until_overdue(run(preRunningDeadlineSeconds=100), raw, Activity(None, 0), NOW) == 90


# Figures


def test_a_reply_is_not_trusted() -> None:
    told = Progress.from_json(
        {
            "rollouts": {"expected": 4, "scored": "many", "failed": -1, "odd": 3},
            "failures": {f"R{i}": 1 for i in range(100)} | {"x" * 500: True},
            "rewardMean": 0.5,
            "throughput": "1" * 33,
            "lastProgressTime": "soon",
            "planDigest": "d" * 1000,
            "shards": [],
        }
    )
    assert told.rollouts == {"expected": 4}
    assert len(told.failures) == 64
    assert (told.reward_mean, told.throughput, told.last_progress_time) == (None, None, None)
    assert len(told.plan_digest or "") == 253
    assert told.shards == {}


def test_what_is_not_told_is_kept() -> None:
    stored = {"rollouts": {"expected": 9}, "rewardMean": "0.5", "conditions": [], "jobName": "x"}
    assert figures(stored, None) == {"rollouts": {"expected": 9}, "rewardMean": "0.5"}
    assert figures(stored, Progress(reward_mean="0.6"))["rewardMean"] == "0.6"


@pytest.mark.parametrize("throughput", ["0", "", "fast", "0.000000001", "-3"])
def test_no_end_is_estimated_from_nonsense(throughput: str) -> None:
    told = Progress(rollouts={"expected": 9, "scored": 1}, throughput=throughput, last_progress_time=ago(0))
    assert "estimatedCompletionTime" not in figures({}, told)


@pytest.mark.parametrize(("failed", "status"), [(0, "True"), (5, "True"), (6, "False")])
def test_the_budget_of_failed_rollouts_is_inclusive(failed: int, status: str) -> None:
    condition = reward_integrity(run(), {"rollouts": {"expected": 100, "failed": failed}})
    assert condition.status == status


# Status


def test_a_status_that_says_the_same_is_not_written() -> None:
    raw: Object = {"metadata": {"generation": 2}}
    status, events = next_status(raw, {"a": 1, "b": None}, [Condition("Serving", "True", "Available")], NOW)
    assert status is not None
    assert status["observedGeneration"] == 2
    assert "b" not in status
    assert [event.reason for event in events] == ["Available"]
    again = next_status(raw | {"status": status}, {"a": 1}, [Condition("Serving", "True", "Available")], NOW + 99)
    assert again == (None, ())


def test_conditions_of_others_are_none_of_ours() -> None:
    theirs = {"type": "team/Checked", "status": "True", "reason": "Fine", "message": ""}
    conditions = [Condition("Serving", "True", "Available")]
    written, _ = next_status({"metadata": {"generation": 1}}, {}, conditions, NOW)
    assert written is not None
    raw: Object = {"metadata": {"generation": 1}, "status": {**written, "conditions": [theirs, *written["conditions"]]}}
    assert next_status(raw, {}, conditions, NOW) == (None, ())
    status, _ = stalled_status({**raw, "kind": "ModelServer"}, Trouble("X", "m"), NOW)
    assert status is not None
    assert "team/Checked" not in [condition["type"] for condition in status["conditions"]]


def test_events_tell_what_turned() -> None:
    def condition(type: str, status: str, reason: str = "R") -> Object:
        return {"type": type, "status": status, "reason": reason, "message": "m"}

    assert transitions([], [condition("Serving", "False")]) == (), "no news of something new"
    (event,) = transitions([condition("Serving", "True")], [condition("Serving", "False")])
    assert (event.type, event.reason, event.message) == ("Normal", "R", "m")
    (event,) = transitions([condition("Stalled", "True", "A")], [condition("Stalled", "True", "B")])
    assert (event.type, event.reason) == ("Warning", "B")
    assert transitions([condition("Stalled", "True")], [condition("Stalled", "False")]) == ()


@pytest.mark.parametrize(
    ("done", "trouble", "expected"),
    [
        (True, None, ("True", "False", "False")),
        (False, None, ("False", "True", "False")),
        (False, Trouble("QuotaPending", "m", waits=True), ("False", "True", "False")),
        (True, Trouble("QuotaPending", "m", waits=True), ("True", "False", "False")),
        (False, Trouble("OOMKilled", "m"), ("False", "False", "True")),
        (True, Trouble("OOMKilled", "m"), ("False", "False", "True")),
    ],
)
def test_kstatus(done: bool, trouble: Trouble | None, expected: tuple[str, str, str]) -> None:
    conditions = kstatus(done=done, reason="Available", message="", trouble=trouble)
    assert tuple(condition.status for condition in conditions) == expected


# Refusals, selectors, times


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Forbidden("deployments.apps is forbidden: exceeded quota: team"), "QuotaExceeded"),
        (Forbidden('deployments.apps is forbidden: User "op" cannot create resource'), "Forbidden"),
        (Forbidden("admission webhook denied the request"), "AdmissionRefused"),
        (Invalid("bad", causes=[Cause("spec.template.spec.containers[0].image", "Required")]), "InvalidPodTemplate"),
        (Invalid("bad", causes=[Cause("spec.ports", "Required")]), "InvalidSpec"),
        (AlreadyExists("there is one", reason="NameInUse"), "NameInUse"),
        (KubeError("?", reason="Strange"), "Strange"),
    ],
)
def test_what_the_api_server_refused(error: KubeError, reason: str) -> None:
    assert refusal_trouble((Refusal("Deployment", "x", error),)).reason == reason


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        (None, False),
        ({}, True),
        ({"matchLabels": {"team": "a"}}, True),
        ({"matchLabels": {"team": "b"}}, False),
        ({"matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "b"]}]}, True),
        ({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a"]}]}, False),
        ({"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}, True),
        ({"matchExpressions": [{"key": "x", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "x", "operator": "Near"}]}, False),
    ],
)
def test_selectors(selector: Object | None, selected: bool) -> None:
    assert selects(selector, {"team": "a"}) is selected


def test_times() -> None:
    assert seconds(rfc3339(NOW)) == NOW
    assert seconds("2026-01-01T00:00:00.5+00:00") is not None
    assert seconds("soon") is None
    assert [spell(n) for n in (-1, 45, 119, 120, 7199, 7260, 11_100)] == [
        "0 s",
        "45 s",
        "119 s",
        "2 min",
        "119 min",
        "2 h 1 min",
        "3 h 5 min",
    ]


async def test_who_is_looked_at_when_something_changes() -> None:
    world = World()
    server = {"apiVersion": "kubegym.dev/v1alpha1", "kind": "ModelServer", "metadata": {"name": "shared"}}
    env = {
        "apiVersion": "kubegym.dev/v1alpha1",
        "kind": "GymEnvironment",
        "metadata": {"name": "math"},
        "spec": {"models": {"policy": {"serverRef": {"name": "shared"}}}},
    }
    entry = {"name": "m", "environmentRef": {"name": "math"}, "dataset": {"bundled": {}}}
    job = {
        "apiVersion": "kubegym.dev/v1alpha1",
        "kind": "RolloutJob",
        "metadata": {"name": "run"},
        "spec": {"environments": [entry], "output": {"uri": "s3://b/x/"}},
    }
    await world.apply(server | {"spec": {"engine": "embedded"}}, env, job)
    names = {MODEL_SERVER: "shared", GYM_ENVIRONMENT: "math", ROLLOUT_JOB: "run"}
    keys = {Key(kind.kind, "team", name) for kind, name in names.items()}
    for kind, name in names.items():
        assert dependants(world.cache, await world.get(kind, name)) == keys
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "team", "labels": {"kubegym.dev/modelserver-name": "shared"}},
    }
    assert dependants(world.cache, pod) == {Key("ModelServer", "team", "shared")}
