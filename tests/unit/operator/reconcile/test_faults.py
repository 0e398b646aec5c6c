"""Queue, executor and cache together, over a server that fails in every way: in the end all is as wanted, once."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest

from kubegym.core.clock import LoopClock
from kubegym_operator.errors import Fenced
from kubegym_operator.kube.errors import Conflict, Gone, KubeError, TimedOut, TooManyRequests, Unavailable
from kubegym_operator.kube.events import EventRecorder
from kubegym_operator.kube.memory import MemoryKube
from kubegym_operator.kube.protocol import Object
from kubegym_operator.plan.actions import KindName, Plan, Scale
from kubegym_operator.plan.drift import differs
from kubegym_operator.reconcile.cache import Cache
from kubegym_operator.reconcile.executor import Executor
from kubegym_operator.reconcile.keys import Key, Result
from kubegym_operator.reconcile.limiter import TokenBucket
from kubegym_operator.reconcile.queue import Queue
from kubegym_operator.reconcile.watched import WATCHED
from testbed.kube_contract import CONFIG_MAP, DEPLOYMENT, JOB, WIDGET, WIDGET_INFO, deployment, named

pytestmark = pytest.mark.looptime

ERRORS: list[KubeError] = [
    Conflict("changed", status=409),
    Gone("too old", status=410),
    TooManyRequests("busy", retry_after=2.0),
    Unavailable("internal error", status=500),
    TimedOut("no answer"),
]
VERBS = ("create", "apply", "scale", "apply_status", "get")


class Fence:
    """A lease that can be lost."""

    lost = False

    def check(self) -> None:
        if self.lost:
            raise Fenced("too old")


class Life:
    """One life of a small operator: a Widget has a ConfigMap, a Deployment of ``size`` replicas and a Job."""

    def __init__(self, api: MemoryKube, seed: int) -> None:
        self.api = api
        self.cache = Cache(kinds=WATCHED | {WIDGET})
        self.fence = Fence()
        events = EventRecorder(api, LoopClock(), "test")
        self.executor = Executor(api, self.cache, self.fence, TokenBucket(100, 100), events)
        self.queue = Queue(self.reconcile, rng=random.Random(seed))

    async def __aenter__(self) -> Life:
        self._deaf = self.api.watch(self._tell)
        for kind in (WIDGET, CONFIG_MAP, DEPLOYMENT, JOB):
            for obj in await self._list(kind):
                self._tell("ADDED", obj)
        self._task = asyncio.create_task(self.queue.run(grace=0.0))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._deaf()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def reconcile(self, key: Key) -> Result:
        owner = self.cache.get(WIDGET, key.namespace, key.name)
        return Result() if owner is None else await self.executor.execute(owner, self._plan(owner))

    def _plan(self, owner: Object) -> Plan:
        name, size = owner["metadata"]["name"], owner["spec"]["size"]
        config_map = self._mine(owner, named(CONFIG_MAP, "space", name, data={"size": str(size)}))
        workload = self._mine(owner, deployment("space"))
        workload["metadata"]["name"] = name
        job = self._mine(owner, named(JOB, "space", name, spec={"suspend": True}))
        known_map, known, known_job = (self.cache.get(kind, "space", name) for kind in (CONFIG_MAP, DEPLOYMENT, JOB))
        scale = known is not None and known["spec"]["replicas"] != size
        status = {"replicas": size}
        return Plan(
            applies=(config_map,) if known_map is None or differs(config_map, known_map) else (),
            creates=tuple(
                each
                for each, there in (
                    ({**workload, "spec": {**workload["spec"], "replicas": size}}, known),
                    (job, known_job),
                )
                if there is None
            ),
            scales=(Scale(KindName(*DEPLOYMENT), "space", name, size),) if scale else (),
            status=status if owner.get("status") != status else None,
        )

    @staticmethod
    def _mine(owner: Object, obj: Object) -> Object:
        metadata = owner["metadata"]
        reference = {"apiVersion": WIDGET.api_version, "kind": "Widget", "controller": True}
        reference.update(name=metadata["name"], uid=metadata["uid"])
        return {**obj, "metadata": {**obj["metadata"], "ownerReferences": [reference]}}

    def _tell(self, event: str, obj: Object) -> None:
        if event == "DELETED":
            self.cache.remove(obj)
        else:
            self.cache.put(obj)
        self.queue.add(Key("Widget", "space", obj["metadata"]["name"]))

    async def _list(self, kind: tuple[str, str]) -> list[Object]:
        while True:
            try:
                return await self.api.list(kind)
            except KubeError:
                await asyncio.sleep(1.0)


async def as_wanted(api: MemoryKube, sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        widget, config_map, workload, job = [
            await api.get(kind, "space", name) for kind in (WIDGET, CONFIG_MAP, DEPLOYMENT, JOB)
        ]
        assert widget is not None
        assert config_map is not None
        assert workload is not None
        assert job is not None
        assert widget["status"] == {"replicas": size}
        assert config_map["data"] == {"size": str(size)}
        assert workload["spec"]["replicas"] == size
        assert job["spec"]["suspend"] is True


@pytest.mark.parametrize("seed", range(4))
async def test_every_fault_anywhere_ends_in_what_is_wanted(seed: int) -> None:
    rng = random.Random(seed)
    api = MemoryKube([WIDGET_INFO])
    sizes = {f"w{number}": rng.randint(0, 5) for number in range(6)}
    async with Life(api, seed):
        for name, size in sizes.items():
            await api.create(named(WIDGET, "space", name, spec={"size": size}))
        for _ in range(20):
            api.fail(rng.choice(ERRORS), verb=rng.choice(VERBS), after=rng.random() < 0.5)
        await asyncio.sleep(3600)
        for name in sizes:
            sizes[name] = rng.randint(0, 5)
            await api.patch(WIDGET, "space", name, {"spec": {"size": sizes[name]}})
            api.fail(rng.choice(ERRORS), verb=rng.choice(VERBS), times=2, after=rng.random() < 0.5)
        await asyncio.sleep(3600)
        api.heal()
        await as_wanted(api, sizes)
        quiet = len(api.writes)
        await asyncio.sleep(3600)
        assert len(api.writes) == quiet


@pytest.mark.parametrize("seed", range(4))
async def test_killed_at_any_moment_and_started_again(seed: int) -> None:
    rng = random.Random(seed)
    api = MemoryKube([WIDGET_INFO])
    api.latency = 0.01
    sizes = {f"w{number}": rng.randint(1, 5) for number in range(4)}
    for name, size in sizes.items():
        await api.create(named(WIDGET, "space", name, spec={"size": size}))
    uids: dict[str, str] = {}
    for life in range(12):
        async with Life(api, life):
            await asyncio.sleep(0.08 + 0.06 * rng.random())
        for job in await api.list(JOB, "space"):  # what was made once stays the same one
            assert uids.setdefault(job["metadata"]["name"], job["metadata"]["uid"]) == job["metadata"]["uid"]
    async with Life(api, 99):
        await asyncio.sleep(600)
    await as_wanted(api, sizes)
    before = len(api.writes)
    async with Life(api, 100):
        await asyncio.sleep(600)
    assert len(api.writes) == before


async def test_a_server_that_is_away_for_a_minute_is_waited_for() -> None:
    api = MemoryKube([WIDGET_INFO])
    async with Life(api, 1):
        await api.create(named(WIDGET, "space", "one", spec={"size": 2}))
        api.down = True
        await asyncio.sleep(60)
        api.down = False
        await asyncio.sleep(120)
        await as_wanted(api, {"one": 2})


async def test_two_that_both_believe_to_lead_do_no_harm() -> None:
    api = MemoryKube([WIDGET_INFO])
    api.latency = 0.01
    sizes = {f"w{number}": number for number in range(1, 6)}
    async with Life(api, 1), Life(api, 2):
        for name, size in sizes.items():
            await api.create(named(WIDGET, "space", name, spec={"size": size}))
        await asyncio.sleep(600)
        await as_wanted(api, sizes)
        quiet = len(api.writes)
        await asyncio.sleep(600)
        assert len(api.writes) == quiet
    assert len(await api.list(JOB, "space")) == len(sizes)


async def test_one_that_lost_its_lease_writes_nothing() -> None:
    api = MemoryKube([WIDGET_INFO])
    async with Life(api, 1) as life:
        life.fence.lost = True
        await api.create(named(WIDGET, "space", "one", spec={"size": 2}))
        before = len(api.writes)
        await asyncio.sleep(600)
        assert len(api.writes) == before
        life.fence.lost = False
        await asyncio.sleep(600)
        await as_wanted(api, {"one": 2})
