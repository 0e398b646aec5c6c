"""Several workers of one run: each stays until everything is settled, and the pace may change meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from kubegym.core.errors import OutputInUse
from kubegym.core.protocols import Assignment
from kubegym.core.retry import Backoff
from kubegym.rollout import BatchRun, Holder, StoreAccess, open_plan, read_run
from kubegym.rollout.job import read_manifest
from kubegym.rollout.manifest import INCOMPLETE_KEY
from kubegym.rollout.shard import claim_shard
from kubegym.storage import MemoryStore, ObjectStore
from testbed.episodes import Rows, ScriptedEpisodes, draft, lognormal, mixed
from testbed.runs import QUICK, access, rows_of

pytestmark = [pytest.mark.unit, pytest.mark.looptime]

ASKED = draft(20, 3, tasks_per_shard=4)
PATIENCE = Backoff(base=0.5, maximum=5.0)


async def worker(
    store: ObjectStore, name: str, episodes: ScriptedEpisodes | None = None, *, mine: StoreAccess | None = None
) -> BatchRun:
    mine = mine or access(store, worker=name)
    opened = await open_plan(store, ASKED, mine.clock)
    busy = episodes or ScriptedEpisodes(mixed, pause=lognormal(1.0, 0.7))
    return BatchRun(mine, opened, busy, Rows(), QUICK, start=0.5 if name.endswith("1") else 0.0)


async def test_every_worker_ends_when_everything_is_settled() -> None:
    store = MemoryStore()
    runs = [await worker(store, f"pod-{n}") for n in range(3)]
    assert await asyncio.gather(*(run.share(PATIENCE) for run in runs)) == [True] * 3
    run = await read_run(store)
    assert run.manifest.complete
    assert len(await rows_of(store)) == 60
    assert await read_manifest(store, 1) is None, "that is the finaliser's"
    assert await store.get(INCOMPLETE_KEY) is None
    assert await (await worker(store, "late")).share(PATIENCE), "nothing is left for it"


async def test_what_a_dead_worker_held_is_taken_when_its_lease_is_over() -> None:
    store = MemoryStore()
    dead = access(store, worker="dead")
    plan = (await open_plan(store, ASKED, dead.clock)).plan
    for index in (0, 3):
        await claim_shard(dead, plan.shard(index), run_id=plan.run_id, generation=1, ceiling=4)
    started = asyncio.get_running_loop().time()
    runs = [await worker(store, f"pod-{n}") for n in range(2)]
    assert await asyncio.gather(*(run.share(PATIENCE) for run in runs)) == [True, True]
    assert dead.lease_seconds <= asyncio.get_running_loop().time() - started < 2 * dead.lease_seconds
    assert len(await rows_of(store)) == 60


async def test_a_holder_known_to_be_gone_is_not_waited_for() -> None:
    store = MemoryStore()
    other = access(store, worker="0/pod/1")
    held = await worker(store, "", ScriptedEpisodes(pause=lambda _: 1e9), mine=other)
    working = asyncio.create_task(held.share(PATIENCE))
    await asyncio.sleep(1)

    def gone(holder: Holder) -> bool:
        return holder.worker == "0/pod/1"

    mine = replace(access(store, worker="0/pod/2"), gone=gone)
    started = asyncio.get_running_loop().time()
    assert await (await worker(store, "", mine=mine)).share(PATIENCE)
    assert asyncio.get_running_loop().time() - started < other.lease_seconds
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


async def test_a_stop_ends_it_also_while_it_waits() -> None:
    store = MemoryStore()
    slow = await worker(store, "slow", ScriptedEpisodes(pause=lambda _: 1e5))
    working = asyncio.create_task(slow.share(PATIENCE))
    await asyncio.sleep(1)
    waiting = await worker(store, "pod-1", ScriptedEpisodes(pause=lambda _: 1.0))
    task = asyncio.create_task(waiting.share(PATIENCE))
    await asyncio.sleep(60)
    assert not task.done(), "the other may die yet"
    waiting.stop()
    assert await task is False
    slow.stop()
    assert await working is False
    stored = await read_run(store)
    assert not stored.manifest.complete


async def test_another_job_s_live_lease_is_not_taken() -> None:
    store = MemoryStore()
    mine = access(store, uid="first")
    held = await worker(store, "", ScriptedEpisodes(pause=lambda _: 1e9), mine=mine)
    working = asyncio.create_task(held.share(PATIENCE))
    await asyncio.sleep(1)
    with pytest.raises(OutputInUse, match="first"):
        await (await worker(store, "", mine=access(store, uid="second"))).share(PATIENCE)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


async def test_the_pace_changes_while_it_works() -> None:
    store = MemoryStore()
    seen: list[int] = []

    def pause(_: Assignment) -> float:
        seen.append(episodes.in_flight)
        return 1.0

    episodes = ScriptedEpisodes(pause=pause)
    run = await worker(store, "pod-0", episodes)
    task = asyncio.create_task(run.share(PATIENCE))
    for wanted in (8, 2, 15):
        run.resize(wanted)
        await asyncio.sleep(1.5)  # those beyond finish first
        assert episodes.in_flight == wanted
    assert await task
    assert max(seen) == 15
    assert len(await rows_of(store)) == 60
