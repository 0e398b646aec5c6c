from __future__ import annotations

from typing import Any

from prometheus_client import generate_latest

from kubegym_operator.metrics import (
    ObjectsCollector,
    OperatorMetrics,
    ServingTimes,
    WorkQueueCollector,
    WorkQueueFigures,
)


def obj(kind: str, **status: Any) -> dict[str, Any]:
    metadata = {"name": "one", "namespace": "team", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"kind": kind, "metadata": metadata, "status": status}


def serving(status: str, at: str = "2026-01-01T00:00:42Z") -> dict[str, Any]:
    return {"conditions": [{"type": "Serving", "status": status, "lastTransitionTime": at}]}


def text(metrics: OperatorMetrics) -> str:
    return generate_latest(metrics.registry).decode()


def test_objects_show_their_conditions_and_progress() -> None:
    metrics = OperatorMetrics()
    job = obj(
        "RolloutJob",
        conditions=[{"type": "Complete", "status": "False"}],
        shards={"total": 3, "committed": 1},
        rollouts={"expected": 96, "scored": 30},
        rewardMean="0.93",
    )
    objects = {"RolloutJob": [job], "GymEnvironment": [obj("GymEnvironment", **serving("True"))], "ModelServer": []}
    metrics.registry.register(ObjectsCollector(lambda kind: objects[kind], lambda: {("team", "one"): 32}))
    shown = text(metrics)
    for line in (
        'kubegym_environment_condition{name="one",namespace="team",type="Serving"} 1.0',
        'kubegym_rolloutjob_condition{name="one",namespace="team",type="Complete"} 0.0',
        'kubegym_rolloutjob_shards{name="one",namespace="team",state="committed"} 1.0',
        'kubegym_rolloutjob_rollouts{name="one",namespace="team",outcome="scored"} 30.0',
        'kubegym_rolloutjob_reward_mean{name="one",namespace="team"} 0.93',
        "kubegym_environments 1.0",
        "kubegym_modelservers 0.0",
        'kubegym_modelserver_wanted_rollouts{name="one",namespace="team"} 32.0',
    ):
        assert shown.splitlines().count(line) == 1, line


def test_the_queue_and_requests_are_shown() -> None:
    metrics = OperatorMetrics()
    metrics.registry.register(WorkQueueCollector(lambda: WorkQueueFigures(3, 2, 100, 5, 1.5)))
    metrics.requested("apply", "Service", "200")
    metrics.reconciled("RolloutJob", "ok", 0.02)
    shown = text(metrics)
    for line in (
        "kubegym_workqueue_depth 3.0",
        "kubegym_workqueue_adds_total 100.0",
        "kubegym_workqueue_retries_total 5.0",
        "kubegym_workqueue_oldest_age_seconds 1.5",
        'kubegym_api_requests_total{code="200",kind="Service",verb="apply"} 1.0',
        'kubegym_reconcile_total{kind="RolloutJob",result="ok"} 1.0',
        "kubegym_build_info{version=",
        "kubegym_leader 0.0",
    ):
        assert line in shown


def test_how_long_an_environment_took_is_told_once_and_only_where_it_was_seen_to_become_so() -> None:
    told: list[float] = []
    times = ServingTimes(told.append)
    times.note(obj("GymEnvironment", **serving("True")))  # served already when we came
    assert told == []
    times.note(obj("GymEnvironment"))
    times.note(obj("GymEnvironment", **serving("False")))
    times.note(obj("GymEnvironment", **serving("True")))
    times.note(obj("GymEnvironment", **serving("True")))
    assert told == [42.0]
    times.note(obj("GymEnvironment"))
    times.note(obj("GymEnvironment"), gone=True)
    assert times._waiting == set()
