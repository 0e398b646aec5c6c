"""Kills, lost and doubled store replies, and rival workers: every rollout has exactly one result.

A "process" is a BatchRun over its own FaultyStore; killing it means that from some store operation on it gets nothing
through any more, whatever it still tries, and its lease runs out on the virtual clock.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from kubegym.core.errors import KubeGymError
from kubegym.rollout import BatchRun, Manifest, open_plan, read_run
from kubegym.storage import MemoryStore
from kubegym.storage.faults import Fault, FaultyStore, RandomFaults, Rule, Schedule, Script, SimulatedCrash
from kubegym.storage.protocol import ObjectStore
from testbed.episodes import Rows, ScriptedEpisodes, draft, lognormal, mixed, of_versions, with_tokens
from testbed.runs import QUICK, access, assert_exactly_once, collect

pytestmark = [pytest.mark.chaos, pytest.mark.looptime]

ASKED = draft(10, 3, tasks_per_shard=3)
# Policy versions pass while rollouts run: some are stale when they end, and have their one result all the same.
SETTINGS = replace(QUICK, concurrency=6, flush_seconds=0.5, tokens="Samples", max_policy_version_lag=2)
BEHAVIOUR = of_versions(with_tokens(mixed))


async def _process(store: ObjectStore, worker: str, start: float = 0.0) -> Manifest | None:
    """One worker's life; None if it died or gave up, which is its own affair."""
    try:
        mine = access(store, worker=worker)
        opened = await open_plan(store, ASKED, mine.clock)
        episodes = ScriptedEpisodes(BEHAVIOUR, pause=lognormal(1.0, 0.7))
        return await BatchRun(mine, opened, episodes, Rows(), SETTINGS, start=start).run()
    except SimulatedCrash:
        return None
    except KubeGymError:  # fenced, or the store stayed away: exits, the Job starts another
        return None


async def _finish(store: ObjectStore) -> None:
    """Honest workers, until the run is complete (leases of the dead have to run out first)."""
    for n in range(20):
        manifest = await _process(store, f"finisher-{n}")
        if manifest is not None and manifest.complete:
            return
        await asyncio.sleep(31)
    raise AssertionError("the run does not come to an end")


async def _count_operations() -> int:
    store = FaultyStore(MemoryStore(), Script())
    await collect(store, ASKED, ScriptedEpisodes(BEHAVIOUR, pause=lognormal(1.0, 0.7)), settings=SETTINGS)
    return len(store.log)


@pytest.mark.parametrize("fault", [Fault.CRASH_BEFORE, Fault.CRASH_AFTER])
async def test_kill_at_every_store_operation(fault: Fault) -> None:
    """Every step of the protocol is a store operation; die before and after each of them, once."""
    operations = frozenset({"get", "put", "create", "swap", "delete"})
    for nth in range(1, await _count_operations() + 1):
        inner = MemoryStore()
        schedule = Script(Rule(fault, nth=nth, operations=operations))
        await _process(FaultyStore(inner, schedule), "victim")
        await _finish(inner)
        await assert_exactly_once(inner)


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.REPEAT, Fault.REPEAT_LATE])
async def test_trouble_at_every_store_operation(fault: Fault) -> None:
    for nth in range(1, await _count_operations() + 1):
        inner = MemoryStore()
        schedule = Script(Rule(fault, nth=nth, seconds=3.0))
        await _process(FaultyStore(inner, schedule), "victim")
        await _finish(inner)
        await assert_exactly_once(inner)


def _chaos(seed: int) -> Schedule:
    rates = {
        Fault.LOSE_REQUEST: 0.03,
        Fault.LOSE_REPLY: 0.05,
        Fault.REPEAT: 0.04,
        Fault.REPEAT_LATE: 0.04,
        Fault.DELAY: 0.05,
        Fault.CRASH_BEFORE: 0.01,
        Fault.CRASH_AFTER: 0.01,
    }
    return RandomFaults(seed, rates, seconds=40.0)


@pytest.mark.parametrize("seed", range(200))
async def test_seeded_chaos_with_rival_workers(seed: int) -> None:
    """Three workers at a time on the same shards, all of them faulty, in waves, some stalled past their lease."""
    rng = random.Random(seed)
    inner = MemoryStore()
    for wave in range(3):
        rivals = [
            asyncio.create_task(
                _process(FaultyStore(inner, _chaos(seed * 100 + wave * 10 + n)), f"w{wave}-{n}", rng.random())
            )
            for n in range(3)
        ]
        done, _ = await asyncio.wait(rivals, timeout=3000)
        assert len(done) == 3, "a worker hangs"
        await asyncio.sleep(rng.choice([0, 5, 35]))
    await _finish(inner)
    rows = await assert_exactly_once(inner)
    assert (await read_run(inner)).manifest.complete
    assert 0 < sum(row["kubegym"]["stale"] for row in rows) < len(rows)
