"""A stop in the middle of a write: what is finished is saved, and the shard is given back."""

from __future__ import annotations

import asyncio

import pytest

from kubegym.rollout import BatchRun, open_plan, read_run
from kubegym.rollout.reader import plan_heads
from kubegym.storage import MemoryStore
from testbed.episodes import Rows, ScriptedEpisodes, draft
from testbed.runs import QUICK, access, assert_exactly_once, collect

pytestmark = [pytest.mark.unit, pytest.mark.looptime]


class LateStore(MemoryStore):
    """Swaps take effect at once and answer later, as those of a thread or a far server do."""

    async def swap(self, key: str, data: bytes, etag: str) -> str:
        new = await super().swap(key, data, etag)
        await asyncio.sleep(0.3)
        return new


@pytest.mark.parametrize("stop_after", [0.05 + 0.1 * step for step in range(30)])
async def test_a_stop_waits_for_the_write_it_falls_into(stop_after: float) -> None:
    store = LateStore()
    mine = access(store)
    run = BatchRun(
        mine, await open_plan(store, draft(100, 2), mine.clock), ScriptedEpisodes(pause=lambda _: 0.2), Rows(), QUICK
    )
    task = asyncio.create_task(run.run())
    await asyncio.sleep(stop_after)
    run.stop()
    manifest = await task
    assert manifest.totals.settled == run.progress.totals.settled
    heads = await plan_heads(store, (await read_run(store)).plan.shards)
    assert {head.state for head in heads.values()} <= {"Released", "Committed"}
    await collect(store, draft(100, 2), ScriptedEpisodes(), worker="pod-1")
    await assert_exactly_once(store)
