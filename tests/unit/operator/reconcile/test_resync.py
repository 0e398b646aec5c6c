from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kubegym_operator.kube.errors import Gone, Unavailable
from kubegym_operator.kube.kinds import KindInfo
from kubegym_operator.kube.memory import MemoryKube
from kubegym_operator.kube.protocol import Kind, Object
from kubegym_operator.reconcile.cache import Cache
from kubegym_operator.reconcile.keys import Key
from kubegym_operator.reconcile.resync import Resync
from kubegym_operator.reconcile.watched import GYM_ENVIRONMENT, OWN, ROLLOUT_JOB
from testbed.kube_contract import CONFIG_MAP, JOB, named

pytestmark = pytest.mark.looptime

OURS = {"labels": {"app.kubernetes.io/managed-by": "kubegym"}}


class Bench:
    """A resync over a server in memory, and a watch that can go deaf."""

    def __init__(self, **options: Any) -> None:
        self.api = MemoryKube(KindInfo(kind) for kind in OWN)
        self.cache = Cache()
        self.due: list[Key] = []
        self.missed: list[tuple[str, int]] = []
        self.resync = Resync(
            self.api,
            self.cache,
            lambda key, after: self.due.append(key),
            missed=lambda kind, count: self.missed.append((kind.kind, count)),
            **options,
        )
        self.deafen: Callable[[], None] = lambda: None

    def watch(self) -> None:
        def tell(event: str, obj: Object) -> None:
            if event == "DELETED":
                self.cache.remove(obj)
            else:
                self.cache.put(obj)

        self.deafen = self.api.watch(tell)

    def knows(self, kind: Kind, name: str, namespace: str = "space") -> bool:
        return self.cache.get(kind, namespace, name) is not None


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_filling_brings_ours_and_only_labelled_children(bench: Bench) -> None:
    await bench.api.create(named(ROLLOUT_JOB, "space", spec={}))
    await bench.api.create(named(CONFIG_MAP, "space", "child", metadata=OURS))
    await bench.api.create(named(CONFIG_MAP, "space", "foreign"))
    for number in range(250):
        await bench.api.create(named(CONFIG_MAP, "pages", f"c{number:03}", metadata=OURS))
    await bench.resync.fill()
    assert bench.knows(ROLLOUT_JOB, "one")
    assert bench.knows(CONFIG_MAP, "child")
    assert not bench.knows(CONFIG_MAP, "foreign")
    assert bench.cache.count(CONFIG_MAP) == 251
    assert bench.resync.last is not None


async def test_only_the_given_namespaces_are_read() -> None:
    bench = Bench(namespaces=("one", "two"))
    for namespace in ("one", "two", "three"):
        await bench.api.create(named(ROLLOUT_JOB, namespace, spec={}))
    await bench.resync.fill()
    assert {key.namespace for key in bench.cache.keys(ROLLOUT_JOB)} == {"one", "two"}


async def test_kinds_that_are_not_installed_are_left_out(bench: Bench) -> None:
    bench.api.uninstall(GYM_ENVIRONMENT)
    await bench.api.create(named(ROLLOUT_JOB, "space", spec={}))
    await bench.resync.fill()
    assert bench.knows(ROLLOUT_JOB, "one")


async def test_where_the_watches_live_nothing_is_missed(bench: Bench) -> None:
    bench.watch()
    await bench.api.create(named(ROLLOUT_JOB, "space", spec={}))
    made = await bench.api.create(named(JOB, "space", metadata=OURS, spec={}))
    await bench.api.delete(JOB, "space", made["metadata"]["name"])
    await bench.resync.check()
    assert bench.missed == []
    assert bench.due == [Key("RolloutJob", "space", "one")]


async def test_a_dead_watch_is_noticed_and_what_it_missed_is_repaired(bench: Bench) -> None:
    bench.watch()
    await bench.api.create(named(ROLLOUT_JOB, "space", spec={}))
    await bench.api.create(named(JOB, "space", "changed", metadata=OURS, spec={}))
    await bench.api.create(named(JOB, "space", "deleted", metadata=OURS, spec={}))
    heard: list[str] = []
    bench.cache.listen(lambda change: heard.append(change.key.name))
    bench.deafen()
    await bench.api.create(named(JOB, "space", "made", metadata=OURS, spec={}))
    await bench.api.patch(JOB, "space", "changed", {"spec": {"suspend": True}})
    await bench.api.delete(JOB, "space", "deleted")
    await bench.resync.check()
    assert bench.missed == [("Job", 3)]
    assert sorted(heard) == ["changed", "deleted", "made"]
    changed = bench.cache.get(JOB, "space", "changed")
    assert changed is not None
    assert changed["spec"]["suspend"] is True
    assert not bench.knows(JOB, "deleted")
    await bench.resync.check()
    assert len(bench.missed) == 1


async def test_a_watch_that_is_only_slow_has_missed_nothing(bench: Bench) -> None:
    late: list[Object] = []
    bench.api.watch(lambda event, obj: late.append(obj))
    await bench.api.create(named(JOB, "space", metadata=OURS, spec={}))
    check = asyncio.create_task(bench.resync.check())
    await asyncio.sleep(1)
    for obj in late:
        bench.cache.put(obj)
    await check
    assert bench.missed == []


async def test_a_child_that_lost_its_label_is_forgotten(bench: Bench) -> None:
    bench.watch()
    await bench.api.create(named(JOB, "space", metadata=OURS, spec={}))
    bench.deafen()
    await bench.api.patch(JOB, "space", "one", {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}})
    await bench.resync.check()
    assert not bench.knows(JOB, "one")


async def test_a_crd_that_was_removed_takes_its_objects_along(bench: Bench) -> None:
    bench.watch()
    await bench.api.create(named(ROLLOUT_JOB, "space", spec={}))
    bench.deafen()
    bench.api.uninstall(ROLLOUT_JOB)
    await bench.resync.check()
    assert not bench.knows(ROLLOUT_JOB, "one")


async def test_it_comes_back_every_period_and_survives_trouble(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    await bench.api.create(named(ROLLOUT_JOB, "space", spec={}))
    task = asyncio.create_task(bench.resync.run())
    await asyncio.sleep(0.75 * bench.resync.period)
    assert bench.due == []
    bench.api.fail(Unavailable("away"), verb="list", times=3)
    bench.api.fail(Gone("too old"), verb="list")
    await asyncio.sleep(10 * bench.resync.period)
    task.cancel()
    assert "resync: ServiceUnavailable" in caplog.text
    assert 4 <= bench.due.count(Key("RolloutJob", "space", "one")) <= 11
