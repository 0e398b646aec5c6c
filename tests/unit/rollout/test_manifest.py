"""The manifest: written once, when all is settled; before that only a replaceable account of what there is."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import orjson
import pytest

from kubegym.core.errors import StoreError
from kubegym.core.outcomes import Failure
from kubegym.core.protocols import Assignment, Attempt
from kubegym.rollout import BatchRun, FailureBudgetExceeded, IncompleteRun, Manifest, open_plan, read_run
from kubegym.rollout.head import Totals
from kubegym.rollout.manifest import INCOMPLETE_KEY, build_manifest, finalise, manifest_key, write_incomplete
from kubegym.rollout.reader import plan_heads
from kubegym.storage import MemoryStore
from kubegym.storage.errors import StoreFull
from kubegym.storage.faults import Fault, FaultyStore, Rule, Script
from testbed.episodes import Rows, ScriptedEpisodes, draft, mixed
from testbed.runs import QUICK, access, assert_exactly_once, collect

pytestmark = [pytest.mark.unit, pytest.mark.looptime]


async def settled(store: MemoryStore) -> Manifest:
    """A run whose rollouts are all there; the manifest is what a finaliser would write."""
    await collect(store, draft(10, 2), ScriptedEpisodes(mixed))
    run = await read_run(store)
    await store.delete("manifest.json")
    return build_manifest(run.plan, await plan_heads(store, run.plan.shards), 7.0)


async def test_json_round_trip() -> None:
    manifest = await settled(MemoryStore())
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.totals.attempts > manifest.totals.settled == manifest.planned == 20
    assert manifest.parts == sum(len(parts) for parts in manifest.shards.values()) > 0
    raw = orjson.loads(manifest.to_json())
    assert raw["rollouts"]["planned"] == 20
    assert list(raw)[:4] == ["schema", "run_id", "name", "generation"]


async def test_it_is_written_once_and_the_first_finaliser_wins() -> None:
    store = MemoryStore()
    manifest = await settled(store)
    written = await asyncio.gather(*(finalise(store, replace(manifest, written=float(n))) for n in range(5)))
    assert all(one == written[0] for one in written)
    stored = await store.get("manifest.json")
    assert stored is not None
    assert Manifest.from_json(stored.data) == written[0]
    assert await finalise(store, replace(manifest, written=99.0)) == written[0]


async def test_an_incomplete_one_is_replaced_and_goes_with_the_complete_one() -> None:
    store = MemoryStore()
    manifest = await settled(store)
    for n in (1.0, 2.0):
        await write_incomplete(store, replace(manifest, written=n, complete=False))
    stored = await store.get(INCOMPLETE_KEY)
    assert stored is not None
    assert Manifest.from_json(stored.data).written == 2.0
    await finalise(store, manifest)
    assert await store.get(INCOMPLETE_KEY) is None


async def test_missing_rollouts_are_no_manifest() -> None:
    store = MemoryStore()
    manifest = await settled(store)
    partial = replace(manifest, complete=False, totals=replace(manifest.totals, scored=manifest.totals.scored - 3))
    with pytest.raises(IncompleteRun, match="3 of 20 rollouts have no result yet"):
        await finalise(store, partial)
    assert await store.get("manifest.json") is None


async def test_complete_means_every_shard_committed_and_every_rollout_counted() -> None:
    store = MemoryStore()
    await collect(store, draft(10, 2), ScriptedEpisodes())
    plan = (await read_run(store)).plan
    heads = await plan_heads(store, plan.shards)
    assert build_manifest(plan, heads, 0.0).complete
    for index, head in heads.items():
        without = {n: other for n, other in heads.items() if n != index}
        assert not build_manifest(plan, without, 0.0).complete
        for changed in (
            replace(head, state="Released"),
            replace(head, run_id="another"),
            replace(head, generation=0),
            replace(head, totals=Totals()),
        ):
            assert not build_manifest(plan, {**heads, index: changed}, 0.0).complete
    assert not build_manifest(plan, {}, 0.0).complete


async def test_a_stream_is_what_its_heads_hold() -> None:
    store = MemoryStore()
    await collect(store, draft(10, 2), ScriptedEpisodes())
    plan = (await read_run(store)).plan
    heads = await plan_heads(store, plan.shards)
    empty = replace(plan, segments=())
    whole = build_manifest(empty, heads, 0.0, open_ended=True)
    assert (whole.complete, whole.planned, whole.totals.scored) == (True, 20, 20)
    going = build_manifest(empty, {**heads, 0: replace(heads[0], state="Claimed")}, 0.0, open_ended=True)
    assert not going.complete


def test_keys() -> None:
    assert [manifest_key(n) for n in (1, 2)] == ["manifest.json", "manifest-2.json"]


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.REPEAT, Fault.REPEAT_LATE])
@pytest.mark.parametrize("key", ["manifest.json", "manifest.incomplete.json", "shards/0/head.json"])
async def test_unclear_replies_at_the_end_do_not_fail_a_finished_run(fault: Fault, key: str) -> None:
    inner = MemoryStore()
    await collect(inner, draft(10, 2), ScriptedEpisodes())
    await inner.delete("manifest.json")
    operations = frozenset({"create", "delete", "get"} if key != "manifest.json" else {"create"})
    store = FaultyStore(inner, Script(Rule(fault, key=key, operations=operations, nth=1, times=2)))
    mine = access(store)
    opened = await open_plan(inner, draft(10, 2), mine.clock)
    run = BatchRun(mine, replace(opened, fresh=True), ScriptedEpisodes(), Rows(), QUICK)
    run.stop()  # only the end of it
    assert (await run.run()).complete
    await asyncio.sleep(5.0)
    await assert_exactly_once(inner)


def broken(assignment: Assignment) -> Attempt:
    return Attempt("failed", failure=Failure("verifier", "VerifierCrashed", "boom", False, assignment.attempt))


async def test_a_budget_spent_on_the_last_rollouts_still_leaves_the_manifest() -> None:
    """All is settled: the run is complete, and failed. Nothing is left to do, so nothing may have to be run again."""
    store = MemoryStore()
    settings = replace(QUICK, max_failed_fraction=0.05, concurrency=64)
    episodes = ScriptedEpisodes(broken, pause=lambda _: 1.0)
    with pytest.raises(FailureBudgetExceeded, match="30 of 30 rollouts failed"):
        await collect(store, draft(30, 1, tasks_per_shard=32), episodes, settings=settings)
    assert (await read_run(store)).manifest.complete
    assert await store.get("manifest.json") is not None
    await assert_exactly_once(store)


async def test_no_failure_at_all_may_be_the_budget() -> None:
    store = MemoryStore()
    settings = replace(QUICK, max_failed_fraction=0.0, min_failures=1)
    with pytest.raises(FailureBudgetExceeded, match=r"more than the budget of 0%: VerifierCrashed"):
        await collect(store, draft(400, 1), ScriptedEpisodes(broken), settings=settings)
    run = await read_run(store)
    assert 1 <= run.manifest.totals.failed <= QUICK.concurrency
    assert not run.manifest.complete
    assert await store.get(INCOMPLETE_KEY) is not None


class FullStore(MemoryStore):
    """Takes no more parts from the third on, and says what a disk says."""

    parts = 0

    async def put(self, key: str, data: bytes) -> str:
        if key.endswith(".zst"):
            self.parts += 1
            if self.parts > 2:
                raise StoreFull("no space left on device")
        return await super().put(key, data)


async def test_a_full_disk_ends_the_run_with_that_error_and_keeps_what_is_saved() -> None:
    store = FullStore()
    mine = access(store)
    run = BatchRun(mine, await open_plan(store, draft(40, 1), mine.clock), ScriptedEpisodes(), Rows(), QUICK)
    with pytest.raises(StoreFull, match="no space left"):
        await run.run()
    stored = await read_run(store)
    assert stored.manifest.totals.scored == 8
    store.parts = -1000
    assert (await collect(store, draft(40, 1), ScriptedEpisodes(), uid="job", worker="later")).totals.scored >= 8
    await asyncio.sleep(31)
    assert (await collect(store, draft(40, 1), ScriptedEpisodes(), worker="later")).complete
    await assert_exactly_once(store)


async def test_the_first_error_is_told_even_if_the_store_is_gone_by_then() -> None:
    """The ticker's flush fails; giving shards back and leaving a manifest fail after it, and are only logged."""
    inner = MemoryStore()
    store = FaultyStore(
        inner, Script(Rule(Fault.LOSE_REQUEST, nth=3, times=100_000, operations=frozenset({"put", "swap", "get"})))
    )
    mine = access(store)
    opened = await open_plan(inner, draft(8, 1), mine.clock)
    episodes = ScriptedEpisodes(pause=lambda a: 1.0 if a.task_index % 4 == 0 else 1e6)
    run = BatchRun(mine, opened, episodes, Rows(), QUICK)
    with pytest.raises(StoreError, match="did not reach the store"):
        await asyncio.wait_for(run.run(), 1000)
    assert episodes.in_flight == 0
