"""Where the next shard comes from: shares, order, and what becomes of claims that go wrong half-way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym.core.errors import InvalidSpec, OutputInUse, PlanConflict, StoreError
from kubegym.rollout import BatchRun, StreamPool, TaskRow, open_plan, read_run
from kubegym.rollout.head import Head, head_key
from kubegym.rollout.plan import Plan, Segment
from kubegym.rollout.pool import PlanPool, interleave
from kubegym.rollout.reader import plan_heads, stream_heads
from kubegym.storage import MemoryStore
from kubegym.storage.faults import Fault, FaultyStore, Rule, Script
from testbed.episodes import Rows, ScriptedEpisodes, draft
from testbed.runs import QUICK, access, assert_exactly_once, collect

pytestmark = [pytest.mark.unit, pytest.mark.looptime]

SWAPS = frozenset({"swap"})


def plan(*shards: int) -> Plan:
    """One entry a number, with so many shards of one task."""
    segments: list[Segment] = []
    first = 0
    for n, count in enumerate(shards):
        segments.append(Segment(f"e{n}", first, 0, count, first, (0, 1)))
        first += count
    return Plan("r", "n", (), {}, tuple(segments), tasks_per_shard=1)


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=4),
    st.lists(st.integers(1, 9), min_size=4, max_size=4),
    st.floats(0, 1, exclude_max=True),
)
def test_every_shard_comes_exactly_once(shards: list[int], weights: list[int], start: float) -> None:
    one = plan(*shards)
    order = [shard.index for shard in interleave(one, {f"e{n}": float(w) for n, w in enumerate(weights)}, start)]
    assert sorted(order) == list(range(one.shards))


@given(st.lists(st.integers(1, 9), min_size=2, max_size=4))
def test_while_all_have_shards_each_entry_gets_its_share(weights: list[int]) -> None:
    total = sum(weights)
    one = plan(*(10 * weight for weight in weights))
    order = [shard.environment for shard in interleave(one, {f"e{n}": float(w) for n, w in enumerate(weights)})]
    for rounds in range(1, 10):
        shares = Counter(order[: rounds * total])
        assert shares == {f"e{n}": rounds * weight for n, weight in enumerate(weights)}
    for end in range(1, len(order)):
        shares = Counter(order[:end])
        for n, weight in enumerate(weights):
            assert abs(shares[f"e{n}"] - end * weight / total) < len(weights), "an entry ran ahead"


def test_start_rotates_the_order_of_each_entry() -> None:
    one = plan(4, 2)
    assert [shard.index for shard in interleave(one, {}, 0.5) if shard.environment == "e0"] == [2, 3, 0, 1]
    assert [shard.index for shard in interleave(one, {}, 0.5) if shard.environment == "e1"] == [5, 4]
    assert [shard.index for shard in interleave(one, {})] == [0, 4, 1, 5, 2, 3]


async def states(store: MemoryStore, shards: int = 20) -> list[str]:
    return [head.state for head in (await plan_heads(store, shards)).values()]


class BrokenRows(Rows):
    """The dataset cannot be read from some row on."""

    async def tasks(self, environment: str, first_row: int, count: int) -> list[TaskRow]:
        if first_row >= 8:
            raise InvalidSpec("the dataset has changed while it was read")
        return await super().tasks(environment, first_row, count)


async def test_rows_that_cannot_be_read_end_the_run_and_leave_no_shard_claimed() -> None:
    store = MemoryStore()
    mine = access(store)
    run = BatchRun(mine, await open_plan(store, draft(20, 1), mine.clock), ScriptedEpisodes(), BrokenRows(), QUICK)
    with pytest.raises(InvalidSpec, match="has changed"):
        await run.run()
    found = await states(store)
    assert len(found) >= 3
    assert "Claimed" not in found
    manifest = await collect(store, draft(20, 1), ScriptedEpisodes(), uid="another")
    assert manifest.complete
    await assert_exactly_once(store)


class SlowStore(MemoryStore):
    """Every write takes effect at once and answers a second later."""

    async def create(self, key: str, data: bytes) -> str:
        etag = await super().create(key, data)
        await asyncio.sleep(1.0)
        return etag


async def test_a_stop_in_the_middle_of_a_claim_gives_the_shard_back() -> None:
    store = SlowStore()
    mine = access(store)
    opened = await open_plan(store, draft(8, 1), mine.clock)
    run = BatchRun(mine, opened, ScriptedEpisodes(pause=lambda _: 50.0), Rows(), QUICK)
    task = asyncio.create_task(run.run())
    await asyncio.sleep(0.5)
    assert await states(store) == ["Claimed"]
    run.stop()
    await task
    assert await states(store) == ["Released"]
    assert (await collect(store, draft(8, 1), ScriptedEpisodes(), uid="another")).complete


class SlowRows(Rows):
    async def tasks(self, environment: str, first_row: int, count: int) -> list[TaskRow]:
        await asyncio.sleep(100.0)
        return await super().tasks(environment, first_row, count)


async def test_a_stop_while_rows_are_read_gives_the_shard_back() -> None:
    store = MemoryStore()
    mine = access(store)
    run = BatchRun(mine, await open_plan(store, draft(8, 1), mine.clock), ScriptedEpisodes(), SlowRows(), QUICK)
    task = asyncio.create_task(run.run())
    await asyncio.sleep(50.0)
    run.stop()
    assert not (await task).complete
    assert await states(store) == ["Released"]


async def test_shards_of_another_run_are_refused_not_counted() -> None:
    """A folder whose plan was deleted still holds the shards of the run before."""
    store = MemoryStore()
    await collect(store, draft(8, 1), ScriptedEpisodes())
    for key in ("plan.json", "manifest.json"):
        await store.delete(key)
    episodes = ScriptedEpisodes()
    with pytest.raises(PlanConflict, match=r"run_id of shards/0/head\.json"):
        await collect(store, draft(8, 1), episodes)
    assert episodes.started == []
    with pytest.raises(PlanConflict, match=r"run_id of shards/0/head\.json"):  # the plan is there now: resumed
        await collect(store, draft(8, 1), episodes)
    stored = await read_run(store)
    assert (stored.manifest.complete, stored.manifest.totals.settled) == (False, 0)


async def test_a_worker_of_an_earlier_generation_finds_nothing_to_do() -> None:
    store = MemoryStore()
    await collect(store, draft(8, 1), ScriptedEpisodes())
    old = await open_plan(store, draft(8, 1), access(store).clock)
    mine = access(store)
    grown = await open_plan(store, draft(8, 2), mine.clock)
    assert grown.plan.generation == 2
    later = PlanPool(mine, grown.plan, Rows(), ceiling_step=64)
    assert await later.claim() is not None
    stale = PlanPool(access(store, worker="stale"), old.plan, Rows(), ceiling_step=64)
    assert await stale.claim() is None


async def test_raising_the_ceiling_is_one_write_for_all_slots() -> None:
    inner = SlowSwaps()
    store = FaultyStore(inner, Script())
    mine = access(store)
    opened = await open_plan(store, draft(300, 1, tasks_per_shard=300), mine.clock)
    await BatchRun(mine, opened, ScriptedEpisodes(pause=lambda _: 0.05), Rows(), QUICK).run()
    await assert_exactly_once(inner)
    heads = sum(key == head_key(0) for operation, key in store.log if operation in ("create", "swap"))
    assert heads <= 1 + 300 // 64 + 12, "more than one write a step of the ceiling, besides the claim and the flushes"


class SlowSwaps(MemoryStore):
    async def swap(self, key: str, data: bytes, etag: str) -> str:
        await asyncio.sleep(0.3)
        return await super().swap(key, data, etag)


async def rows(count: int) -> AsyncIterator[TaskRow]:
    for n in range(count):
        yield TaskRow("e", {"number": n}, f"t{n}")


def stream(store: MemoryStore | FaultyStore, tasks: AsyncIterator[TaskRow], first: int = 0) -> StreamPool:
    return StreamPool(access(store), tasks, run_id="r" * 32, rollouts_per_task=3, environment="e", first=first)


async def test_a_stream_numbers_its_tasks_as_they_come() -> None:
    store = MemoryStore()
    pool = stream(store, rows(2), first=5)
    first, second = await pool.claim(), await pool.claim()
    assert first is not None
    assert second is not None
    assert [work.shard.plan.index for work in (first, second)] == [5, 6]
    assert [first.assignment(n).rollout_id for n in range(3)] == [f"rrrrrrrr-5-{n}" for n in range(3)]
    assert second.assignment(0).row == {"number": 1}
    assert await pool.claim() is None
    assert pool.next_index == 7


async def test_two_streams_do_not_share_a_number() -> None:
    store = MemoryStore()
    first = stream(store, rows(1))
    await first.claim()
    with pytest.raises(OutputInUse, match="another process collects"):
        await stream(store, rows(1)).claim()


async def test_a_number_another_stream_has_used_and_let_go_of_is_not_taken() -> None:
    store = MemoryStore()
    work = await stream(store, rows(1)).claim()
    assert work is not None
    member = work.assignment(0)
    work.shard.record(0, b"{}\n", await ScriptedEpisodes().run(member), final=True, now=0.0)
    await work.shard.release()
    with pytest.raises(OutputInUse, match="another process collects"):
        await stream(store, rows(1)).claim()
    assert (await stream_heads(store))[0].state == "Released"


async def test_a_stop_in_the_middle_of_a_streams_claim_leaves_the_number_usable() -> None:
    store = SlowStore()
    pool = stream(store, rows(5))
    task = asyncio.create_task(pool.claim())
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pool.next_index == 0
    assert (await stream_heads(store))[0].state == "Released"
    again = await pool.claim()
    assert again is not None
    assert again.shard.plan.index == 0


async def test_a_store_that_stays_away_ends_the_claim() -> None:
    inner = MemoryStore()
    store = FaultyStore(inner, Script(Rule(Fault.LOSE_REQUEST, times=1000)))
    with pytest.raises(StoreError, match="did not reach the store"):
        await stream(store, rows(5)).claim()
    assert inner.objects == {}


async def test_long_rollouts_keep_their_shard() -> None:
    """Rollouts of an hour under a lease of half a minute: nobody else gets the shard, and renewals are few."""
    inner = MemoryStore()
    store = FaultyStore(inner, Script())
    mine = access(store)
    opened = await open_plan(store, draft(4, 1), mine.clock)
    run = asyncio.create_task(BatchRun(mine, opened, ScriptedEpisodes(pause=lambda _: 3600.0), Rows(), QUICK).run())
    for _ in range(10):
        await asyncio.sleep(355.0)
        stored = await inner.get(head_key(0))
        assert stored is not None
        head = Head.from_json(stored.data)
        assert head.epoch == 1
        assert head.lease_expires > mine.clock.time()
        with pytest.raises(OutputInUse):
            await collect(inner, draft(4, 1), ScriptedEpisodes(), uid="rival")
        assert not (await collect(inner, draft(4, 1), ScriptedEpisodes(), worker="pod-1")).complete
    assert (await run).complete
    await assert_exactly_once(inner)
    swaps = sum(operation == "swap" for operation, _ in store.log)
    assert swaps < 3600 / (30 / 3) * 1.1 + 5
