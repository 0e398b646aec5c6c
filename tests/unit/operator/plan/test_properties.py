"""Whatever users, Kubernetes and the operator's own deaths do, in any order: decisions converge and stay."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kubegym_operator.kube.errors import Conflict, TimedOut, Unavailable
from kubegym_operator.kube.protocol import Object
from kubegym_operator.plan.demand import finished
from kubegym_operator.plan.objects import holds
from kubegym_operator.reconcile.keys import Key
from kubegym_operator.reconcile.watched import GYM_ENVIRONMENT, MODEL_SERVER, ROLLOUT_JOB
from testbed.operator_world import CONFIG_MAP, DEPLOYMENT, JOB, NAMESPACE, POD, World

_API = "kubegym.dev/v1alpha1"
_KINDS = {"m": MODEL_SERVER, "e": GYM_ENVIRONMENT, "r": ROLLOUT_JOB}
ENVIRONMENT: Object = {
    "apiVersion": _API,
    "kind": "GymEnvironment",
    "metadata": {"name": "e"},
    "spec": {
        "models": {"policy": {"serverRef": {"name": "m"}}, "judge": {"server": {"engine": "simulated"}}},
        "resources": {"placement": "Service"},
        "idlePolicy": {"scaleToZeroAfterSeconds": 300},
    },
}
SERVER: Object = {"apiVersion": _API, "kind": "ModelServer", "metadata": {"name": "m"}, "spec": {"engine": "embedded"}}
RUN: Object = {
    "apiVersion": _API,
    "kind": "RolloutJob",
    "metadata": {"name": "r"},
    "spec": {
        "environments": [{"name": "e", "environmentRef": {"name": "e"}, "dataset": {"bundled": {}}}],
        "output": {"uri": "s3://b/x/"},
        "activeDeadlineSeconds": 2000,
    },
}

_EDITS: dict[str, list[tuple[str, Object]]] = {
    "pace": [
        ("r", {"suspend": True}),
        ("r", {"suspend": False}),
        ("r", {"parallelism": 3}),
        ("r", {"parallelism": 0}),
        ("e", {"agent": {"replicas": 2}}),
        ("e", {"suspend": True}),
        ("e", {"suspend": False}),
        ("m", {"suspend": True}),
        ("m", {"suspend": False}),
        ("m", {"replicas": 2}),
    ],
    "content": [("e", {"agent": {"maxSteps": 3}}), ("m", {"servedModelName": "other"})],
}
_FAULTS = [Unavailable("away"), TimedOut("slow"), Conflict("changed")]

steps = st.lists(
    st.one_of(
        st.sampled_from([("edit", *edit) for edit in _EDITS["pace"]]),
        st.sampled_from([("edit", *edit) for edit in _EDITS["content"]]),
        st.sampled_from(
            [
                ("restart",),
                ("live",),
                ("forget", DEPLOYMENT, "e-agent"),
                ("forget", JOB, "r"),
                ("forget", CONFIG_MAP, "r-run"),
                ("forget", POD, "r-pod-0"),
                ("scale", DEPLOYMENT, "e-resources", 3),
                ("finish", "r"),
                ("finish", "r-finalise"),
                ("fail", "r"),
            ]
        ),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 31.0, 130.0, 400.0])),
        st.tuples(st.just("fault"), st.sampled_from(_FAULTS), st.booleans()),
    ),
    max_size=7,
)


@settings(max_examples=25)
@given(steps)
def test_it_converges_and_then_writes_nothing(script: list[tuple[Any, ...]]) -> None:
    asyncio.run(_play(script))


async def _play(script: list[tuple[Any, ...]]) -> None:
    world = World()
    await world.apply(SERVER, ENVIRONMENT, RUN)
    await world.live()
    ended: Object | None = None
    for step in script:
        await _act(world, step)
        await _until_quiet(world)
        job = await world.get(ROLLOUT_JOB, "r")
        if ended is not None:
            assert _verdict(job) == _verdict(ended), "a verdict is final"
        ended = job if finished(job) else None
        await _check(world, job)
    await world.pass_time(31)  # figures that move all the time are written by then
    assert await world.restart() == [], "a restart changes nothing"
    for letter, kind in _KINDS.items():  # plan after execute is empty
        world.wrote.clear()
        await world.reconcile(Key(kind.kind, NAMESPACE, letter))
        assert world.wrote == []


async def _act(world: World, step: tuple[Any, ...]) -> None:
    match step:
        case ("edit", letter, spec):
            await world.edit(_KINDS[letter], letter, spec)
        case ("restart",):
            world.start()
        case ("forget", kind, name):
            await world.kube.delete(kind, NAMESPACE, name)
        case ("scale", kind, name, replicas):
            await world.kube.scale(kind, NAMESPACE, name, replicas)
        case ("finish", name) if await world.exists(JOB, name):
            words = json.dumps({"complete": True, "manifestUri": "s3://b/x/manifest.json"})
            await world.finish_job(name, words=words if name.endswith("finalise") else "")
        case ("fail", name) if await world.exists(JOB, name):
            await world.fail_job(name, words="it broke")
        case ("wait", seconds):
            world.clock.at += seconds
        case ("fault", error, after):
            world.kube.fail(error, times=2, after=after)


async def _until_quiet(world: World) -> None:
    """As the queue does it: what fails is tried again."""
    for _ in range(6):
        try:
            await world.live()
        except (Unavailable, TimedOut, Conflict):
            world.start()
        else:
            return
    raise AssertionError("it fails again and again")


async def _check(world: World, job: Object) -> None:
    """What holds in every quiet moment."""
    workers = [j for j in await world.kube.list(JOB) if not j["metadata"]["name"].endswith("finalise")]
    going = [j for j in workers if not holds(j, "Complete") and not holds(j, "Failed") and not j["spec"]["suspend"]]
    assert len(workers) <= 1, "never two Jobs of one run"
    if job["spec"].get("suspend") or finished(job):
        assert going == []
    assert job["status"]["observedGeneration"] == job["metadata"]["generation"] or finished(job)
    conditions = {c["type"]: c["status"] for c in job["status"]["conditions"]}
    assert not (conditions["Complete"] == "True" and conditions["Failed"] == "True")
    if conditions["Complete"] == "True":
        assert job["status"].get("manifestUri") == "s3://b/x/manifest.json"


def _verdict(job: Object) -> tuple[bool, bool]:
    return holds(job, "Complete"), holds(job, "Failed")
