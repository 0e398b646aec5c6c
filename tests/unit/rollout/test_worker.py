"""The worker's edges: trouble in the background, stops wherever slots wait, rows that cannot be written, memory."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from typing import Any

import pytest

from kubegym.core.errors import InvalidSpec
from kubegym.core.outcomes import Failure
from kubegym.core.protocols import Assignment, Attempt
from kubegym.core.retry import Backoff
from kubegym.rollout import (
    BatchRun,
    FailureBudgetExceeded,
    Fenced,
    Group,
    StreamPool,
    TaskRow,
    Worker,
    open_plan,
    read_run,
)
from kubegym.rollout.head import Head, claimed, head_key
from kubegym.rollout.reader import plan_heads
from kubegym.storage import MemoryStore
from kubegym.storage.faults import Fault, FaultyStore, Rule, Script
from testbed.episodes import Rows, ScriptedEpisodes, draft, scored
from testbed.runs import QUICK, access, assert_exactly_once, collect, rows_of

pytestmark = [pytest.mark.unit, pytest.mark.looptime]

FOREVER = 1e9


async def started(
    store: MemoryStore | FaultyStore, episodes: ScriptedEpisodes, asked: Any, **settings: Any
) -> BatchRun:
    mine = access(store)
    opened = await open_plan(store, asked, mine.clock)
    return BatchRun(mine, opened, episodes, Rows(), replace(QUICK, **settings))


async def rob(store: MemoryStore, shard: int) -> None:
    """Take a shard as another worker would after this one's lease."""
    stored = await store.get(head_key(shard))
    assert stored is not None
    head = Head.from_json(stored.data)
    taken = claimed(
        head,
        run_id=head.run_id,
        shard=shard,
        generation=1,
        size=head.size,
        holder=replace(head.holder, worker="robber"),
        nonce="robber",
        lease_expires=0.0,
        ceiling=head.size,
    )
    await store.swap(head_key(shard), taken.to_json(), stored.etag)


@pytest.mark.parametrize("what", ["flush", "renewal"])
async def test_a_shard_lost_in_the_background_ends_the_run_with_that_error(what: str) -> None:
    """Its slots are in rollouts that never end: only the ticker notices."""
    store = MemoryStore()
    pause = {"flush": lambda a: 3.0 if a.task_index == 0 else FOREVER, "renewal": lambda a: FOREVER}[what]
    episodes = ScriptedEpisodes(pause=pause)
    run = await started(store, episodes, draft(8, 1))
    task = asyncio.create_task(run.run())
    await asyncio.sleep(2.0)
    await rob(store, 0)
    with pytest.raises(Fenced, match="shard 0 was taken over"):
        await asyncio.wait_for(task, 100.0)
    assert episodes.in_flight == 0
    heads = await plan_heads(store, 2)
    assert (heads[0].nonce, heads[1].state) == ("robber", "Released")
    assert (await collect(store, draft(8, 1), ScriptedEpisodes(), worker="heir")).complete
    await assert_exactly_once(store)


async def test_a_stop_does_not_wait_for_a_retrys_pause() -> None:
    def away(assignment: Assignment) -> Attempt:
        return Attempt("failed", failure=Failure("model", "ModelUnavailable", "away", True, assignment.attempt))

    store = MemoryStore()
    run = await started(store, ScriptedEpisodes(away), draft(4, 1), retry_delay=Backoff(base=FOREVER, maximum=FOREVER))
    task = asyncio.create_task(run.run())
    await asyncio.sleep(5.0)
    assert run.progress.retries == 4
    before = asyncio.get_running_loop().time()
    run.stop()
    manifest = await task
    assert asyncio.get_running_loop().time() - before < 1.0
    assert (manifest.complete, manifest.totals.attempts) == (False, 0), "an unsettled rollout leaves no attempts"
    assert (await plan_heads(store, 1))[0].state == "Released"


async def test_a_stop_at_any_moment_of_the_start_ends_the_run() -> None:
    for turns in range(40):
        store = MemoryStore()
        run = await started(store, ScriptedEpisodes(pause=lambda _: FOREVER), draft(8, 1))
        task = asyncio.create_task(run.run())
        for _ in range(turns):
            await asyncio.sleep(0)
        run.stop()
        run.stop()
        await asyncio.wait_for(task, 10.0)
        heads = await plan_heads(store, 2)
        assert {head.state for head in heads.values()} <= {"Released"}, f"after {turns} turns"


async def test_a_cancelled_run_gives_its_shards_back() -> None:
    store = MemoryStore()
    run = await started(store, ScriptedEpisodes(pause=lambda a: 1.0 if a.task_index % 2 else FOREVER), draft(8, 1))
    task = asyncio.create_task(run.run())
    await asyncio.sleep(1.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {head.state for head in (await plan_heads(store, 2)).values()} == {"Released"}
    assert (await read_run(store)).manifest.totals.scored == 4


async def test_results_are_durable_within_the_flush_time_while_others_go_on() -> None:
    store = MemoryStore()
    episodes = ScriptedEpisodes(pause=lambda a: 1.0 if a.task_index < 3 else FOREVER)
    run = await started(store, episodes, draft(8, 1), flush_seconds=2.0)
    task = asyncio.create_task(run.run())
    await asyncio.sleep(1.0 + 2.0 + 2 * QUICK.tick_seconds)
    assert (await read_run(store)).manifest.totals.scored == 3
    run.stop()
    await task


async def test_many_bytes_are_flushed_before_their_time() -> None:
    def long(assignment: Assignment) -> Attempt:
        attempt = scored(assignment)
        attempt.fields = {"text": "x" * 10_000}
        return attempt

    store = FaultyStore(MemoryStore(), Script())
    run = await started(
        store,
        ScriptedEpisodes(long, pause=lambda a: float(a.task_index)),
        draft(32, 1, tasks_per_shard=32),
        flush_seconds=FOREVER,
        flush_bytes=50_000,
    )
    await run.run()
    assert sum(operation == "put" and key.endswith(".zst") for operation, key in store.log) >= 6


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        ({"fields": {"value": object()}}, "VerifierInvalidVerdict"),
        ({"fields": {"value": "\ud800"}}, "VerifierInvalidVerdict"),
        ({"components": {"value": 1 << 70}}, "VerifierInvalidVerdict"),
        ({"response": {"output": [{"text": "\ud800"}]}}, "InvalidText"),
        ({"params": {"input": "\udfff"}}, "InvalidText"),
        ({"turns": [{"policy_version": None, "note": {1, 2}}]}, "InvalidText"),
    ],
)
@pytest.mark.parametrize("failed", [False, True])
async def test_what_json_cannot_hold_fails_one_rollout(spoilt: dict[str, Any], reason: str, failed: bool) -> None:
    def odd(assignment: Assignment) -> Attempt:
        attempt = scored(assignment)
        if assignment.task_index == 2:
            for name, value in spoilt.items():
                setattr(attempt, name, value)
            if failed:
                attempt.outcome, attempt.reward = "failed", None
                attempt.failure = Failure("model", "Away", "no", True, assignment.attempt)
        return attempt

    store = MemoryStore()
    await collect(store, draft(4, 1), ScriptedEpisodes(odd))
    rows = await assert_exactly_once(store)
    assert [row["kubegym"]["outcome"] for row in rows] == ["scored", "scored", "failed", "scored"]
    assert rows[2]["kubegym"]["failure"]["reason"] == reason
    assert rows[2]["reward"] is None
    assert rows[2]["number"] == 2


async def test_a_spent_budget_saves_all_that_was_in_flight() -> None:
    store = MemoryStore()

    def broken(assignment: Assignment) -> Attempt:
        return Attempt("failed", failure=Failure("tool", "ToolCrashed", "no", False, assignment.attempt))

    episodes = ScriptedEpisodes(broken, pause=lambda a: 1.0 + a.task_index % 7)
    run = await started(store, episodes, draft(400, 1), max_failed_fraction=0.01)
    with pytest.raises(FailureBudgetExceeded):
        await run.run()
    stored = await read_run(store)
    assert stored.manifest.totals.failed == len(episodes.started) == run.progress.totals.failed
    assert {head.state for head in (await plan_heads(store, 100)).values()} <= {"Released", "Committed"}
    assert store.objects.keys() >= {"manifest.incomplete.json"}


async def test_a_group_is_committed_whole_or_not_at_all() -> None:
    """Stops at many moments: of a task whose group is verified together never a part is on record."""
    for tenths in range(1, 60, 3):
        store = MemoryStore()
        episodes = ScriptedEpisodes(
            groups=True, pause=lambda a: 0.3 + (a.task_index * 7 + a.rollout_index * 3) % 11 / 4
        )
        run = await started(store, episodes, draft(12, 3), flush_seconds=0.3)
        task = asyncio.create_task(run.run())
        await asyncio.sleep(tenths / 10)
        run.stop()
        await task
        found: dict[int, int] = {}
        for row in await rows_of(store):
            found[row["kubegym"]["task_index"]] = found.get(row["kubegym"]["task_index"], 0) + 1
        assert set(found.values()) <= {3}


def in_memory() -> list[object]:
    """What a run makes for each of its rollouts and shards, and somebody still holds."""
    return [one for one in gc.get_objects() if isinstance(one, Assignment | Attempt | Head)]


async def test_memory_holds_what_is_in_flight_not_what_was() -> None:
    """With groups handed out: members, rows and shards of finished groups are let go of."""
    store = MemoryStore()
    live: list[int] = []
    others = in_memory()  # those of earlier tests, held so that they stay as many

    async def tasks() -> Any:
        for n in range(300):
            yield TaskRow("e", {"number": n}, f"t{n}")

    async def take(group: Group) -> None:
        assert len(group.rollouts) == 4
        if group.task_index % 50 == 25:
            live.append(len(in_memory()) - len(others))

    pool = StreamPool(access(store), tasks(), run_id="r" * 32, rollouts_per_task=4, environment="e")
    episodes = ScriptedEpisodes(pause=lambda a: 0.1 + a.rollout_index)
    worker = Worker(pool, episodes, QUICK, run_id="r" * 32, on_group=take)
    await worker.run()
    assert len(live) == 6
    assert max(live) < 200, live
    assert worker._groups.pending == 0
    assert not worker._open


async def test_trouble_with_the_store_that_passes_is_not_noticed() -> None:
    inner = MemoryStore()
    store = FaultyStore(
        inner, Script(Rule(Fault.LOSE_REQUEST, nth=5, times=3), Rule(Fault.LOSE_REPLY, nth=20, times=3))
    )
    run = await started(store, ScriptedEpisodes(), draft(20, 2))
    assert (await run.run()).complete
    await assert_exactly_once(inner)


class Unreadable(Rows):
    """Only the first shard's rows can be read."""

    async def tasks(self, environment: str, first_row: int, count: int) -> list[TaskRow]:
        if first_row:
            await asyncio.sleep(3.0)
            raise InvalidSpec("the dataset has changed while it was read")
        return await super().tasks(environment, first_row, count)


async def test_what_goes_wrong_after_an_error_does_not_hide_it(caplog: pytest.LogCaptureFixture) -> None:
    """Results that wait for their flush cannot be saved any more; why the run ended is still what is told."""
    inner = MemoryStore()
    store = FaultyStore(inner, Script(Rule(Fault.LOSE_REQUEST, key="*.zst", times=1000)))
    mine = access(store)
    opened = await open_plan(store, draft(8, 1, tasks_per_shard=7), mine.clock)
    episodes = ScriptedEpisodes(pause=lambda a: 1.0 if a.task_index < 3 else FOREVER)
    run = BatchRun(mine, opened, episodes, Unreadable(), replace(QUICK, flush_seconds=FOREVER))
    with pytest.raises(InvalidSpec, match="has changed"):
        await run.run()
    assert "a shard could not be given back" in caplog.text
    assert (await collect(inner, draft(8, 1, tasks_per_shard=7), ScriptedEpisodes())).totals.settled >= 1
