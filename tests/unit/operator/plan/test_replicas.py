"""Replicas follow the jobs: enough at once, fewer after a while, never to and fro within it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym.core.spec.model import Autoscaling, ModelServerSpec
from kubegym_operator.plan.demand import wanted_rollouts
from kubegym_operator.plan.replicas import WINDOW, Held, follow, needed, room
from kubegym_operator.plan.snapshot import Load
from kubegym_operator.reconcile.watched import MODEL_SERVER, OWN, ROLLOUT_JOB
from testbed.operator_manifests import environment, rollout_job
from testbed.operator_world import DEPLOYMENT, NAMESPACE, World

BOUNDS = Autoscaling(mode="Demand", min_replicas=1, max_replicas=8)


@pytest.mark.parametrize(
    ("loads", "replicas"),
    [
        ([], 1),
        ([Load("a", 64)], 1),
        ([Load("a", 65)], 2),
        ([Load("a", 64), Load("b", 64)], 2),
        ([Load("a", 256, 1000)], 4),
        ([Load("a", 256, 100)], 2),  # its tail
        ([Load("a", 256, 0)], 1),
        ([Load("a", 10_000)], 8),
    ],
)
def test_what_jobs_need(loads: list[Load], replicas: int) -> None:
    assert needed(loads, 64, BOUNDS) == replicas


def test_a_little_more_than_the_room_starts_none() -> None:
    assert needed([Load("a", 70)], 64, BOUNDS, Held(1)) == 1
    assert needed([Load("a", 71)], 64, BOUNDS, Held(1)) == 2
    assert needed([Load("a", 70)], 64, BOUNDS) == 2


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 9)), max_size=40))
def test_enough_at_once_and_no_flapping(looks: list[tuple[float, int]]) -> None:
    """What is given back was not needed for a whole window, and what is held was needed within the last two."""
    held: Held | None = None
    now, seen = 1000.0, []
    for pause, need in looks:
        now += pause
        before = held.replicas if held else 0
        seen.append((now, need))
        held = follow(held, need, now)
        assert held.replicas >= need
        if held.replicas < before:
            assert max(one for at, one in seen if at >= now - WINDOW + 1) <= held.replicas
    for _ in range(4):  # what it is without news, it becomes
        if held is not None and held.lower_since is not None:
            now = held.lower_since + WINDOW + 1
            held = follow(held, looks[-1][1], now)
    if held is not None:
        assert held.replicas == looks[-1][1]


def test_the_status_keeps_what_it_has_to() -> None:
    held = Held(4, 1_700_000_000.0, 2)
    assert Held.read(held.to_dict()) == held
    assert Held.read(Held(4).to_dict()) == Held(4)
    assert Held.read({}) is None
    assert held.left(1_700_000_000.0 + 30) == WINDOW - 30
    assert Held(4).left(0.0) is None


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"engine": "vllm", "source": {"uri": "hf://a/b"}}, 256),
        ({"engine": "vllm", "source": {"uri": "hf://a/b"}, "engineArgs": {"max-num-seqs": "64"}}, 64),
        ({"engine": "embedded"}, 64),
        ({"engine": "embedded", "autoscaling": {"rolloutsPerReplica": 5}}, 5),
    ],
)
def test_the_room_of_a_replica(spec: dict[str, Any], expected: int) -> None:
    assert room(ModelServerSpec.model_validate({"autoscaling": {}, **spec})) == expected


SERVER = {
    "engine": "embedded",
    "autoscaling": {"mode": "Demand", "maxReplicas": 8, "rolloutsPerReplica": 32},
    "idlePolicy": {"scaleToZeroAfterSeconds": 600},
}


async def replicas(world: World) -> int:
    status = (await world.get(MODEL_SERVER, "math-policy"))["status"]
    assert isinstance(status["desiredReplicas"], int)
    return status["desiredReplicas"]


def wanted(world: World) -> int:
    """Rollouts wanted of the server, as the metrics tell."""
    kinds = {kind.kind: kind for kind in OWN}
    return wanted_rollouts(lambda kind: world.cache.list(kinds[kind]))[NAMESPACE, "math-policy"]


async def test_a_run_wakes_as_many_as_it_needs_and_gives_them_back() -> None:
    world = World()
    await world.apply(environment(models={"policy": {"server": SERVER}}))
    await world.live()
    assert await replicas(world) == 1, "one is there until it is idle"
    await world.apply(rollout_job(parallelism=4, concurrency=32))
    await world.live()
    assert await replicas(world) == 4, "before a worker asks"
    assert wanted(world) == 4 * 32

    rollouts = {"expected": 1000, "scored": 960, "unscored": 0, "failed": 0}
    await world.set_status(ROLLOUT_JOB, "run", {"rollouts": rollouts})
    await world.settle()
    assert await replicas(world) == 4, "its tail needs two, but not for long yet"
    await world.pass_time(WINDOW + 5)
    assert await replicas(world) == 2
    assert wanted(world) == 40

    await world.edit(ROLLOUT_JOB, "run", {"suspend": True})
    await world.pass_time(WINDOW + 5)
    await world.pass_time(WINDOW + 5)
    assert await replicas(world) == 1
    assert wanted(world) == 0
    await world.pass_time(700)
    assert await replicas(world) == 0, "idle"


async def test_where_others_scale_the_field_is_there_for_them_and_then_left_alone() -> None:
    world = World()
    scaling = {"mode": "External", "minReplicas": 2, "maxReplicas": 8}
    server = {
        "apiVersion": "kubegym.dev/v1alpha1",
        "kind": "ModelServer",
        "metadata": {"name": "shared"},
        "spec": {"engine": "embedded", "autoscaling": scaling},
    }
    await world.apply(server)
    await world.live()
    assert (await world.get(MODEL_SERVER, "shared"))["spec"]["replicas"] == 2, "without it there is no /scale"
    await world.kube.scale(MODEL_SERVER, NAMESPACE, "shared", 5)
    await world.live()
    assert (await world.get(MODEL_SERVER, "shared"))["spec"]["replicas"] == 5
    assert (await world.get(DEPLOYMENT, "shared"))["spec"]["replicas"] == 5
