"""Batch runs over the in-memory store: resume, growth, retry, groups, budgets, stops."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from kubegym.core.errors import OutputInUse, PlanConflict
from kubegym.core.outcomes import Failure
from kubegym.core.protocols import Assignment, Attempt
from kubegym.rollout import BatchRun, FailureBudgetExceeded, IncompleteRun, open_plan, open_retry, read_run
from kubegym.storage import MemoryStore
from testbed.episodes import Rows, ScriptedEpisodes, draft, mixed, scored
from testbed.runs import QUICK, access, assert_exactly_once, collect, rows_of

pytestmark = [pytest.mark.unit, pytest.mark.looptime]


async def test_every_planned_rollout_has_one_result() -> None:
    store = MemoryStore()
    manifest = await collect(store, draft(10, 3), ScriptedEpisodes(mixed))
    rows = await assert_exactly_once(store)
    assert manifest.complete
    assert len(rows) == manifest.planned == 30
    assert {row["kubegym"]["outcome"] for row in rows} == {"scored", "unscored", "failed"}
    assert all((row["reward"] is None) == (row["kubegym"]["outcome"] != "scored") for row in rows)


async def test_finished_run_does_nothing_again() -> None:
    store = MemoryStore()
    first = await collect(store, draft(5, 2), ScriptedEpisodes())
    episodes = ScriptedEpisodes()
    again = await collect(store, draft(5, 2), episodes)
    assert again == first
    assert episodes.started == []


async def test_stop_saves_what_is_finished_and_resume_does_the_rest() -> None:
    store = MemoryStore()
    slow = ScriptedEpisodes(pause=lambda a: 1.0 if a.task_index < 4 else 1000.0)
    mine = access(store)
    run = BatchRun(mine, await open_plan(store, draft(8, 2), mine.clock), slow, Rows(), QUICK)
    task = asyncio.create_task(run.run())
    await asyncio.sleep(5)
    run.stop()
    manifest = await task
    assert not manifest.complete
    assert manifest.totals.scored == 8
    assert (await read_run(store)).manifest.totals.scored == 8
    rest = ScriptedEpisodes()
    finished = await collect(store, draft(8, 2), rest, worker="pod-1")
    assert finished.complete
    assert len(rest.started) == 8
    await assert_exactly_once(store)


async def test_growth_adds_rollouts_and_tasks_and_changes_no_old_id() -> None:
    store = MemoryStore()
    await collect(store, draft(5, 2), ScriptedEpisodes())
    before = {row["kubegym"]["rollout_id"]: row for row in await rows_of(store)}
    episodes = ScriptedEpisodes()
    manifest = await collect(store, draft(11, 3), episodes)
    rows = await assert_exactly_once(store)
    assert manifest.generation == 2
    assert len(rows) == 33
    assert len(episodes.started) == 33 - 10
    after = {row["kubegym"]["rollout_id"]: row for row in rows}
    assert all(after[rollout] == row for rollout, row in before.items())
    assert [row["number"] for row in rows if row["_ng_rollout_index"] == 0] == list(range(11))


@pytest.mark.parametrize(("tasks", "rollouts"), [(4, 2), (5, 1)])
async def test_shrinking_is_a_conflict(tasks: int, rollouts: int) -> None:
    store = MemoryStore()
    await collect(store, draft(5, 2), ScriptedEpisodes())
    with pytest.raises(PlanConflict, match="cannot shrink"):
        await collect(store, draft(tasks, rollouts), ScriptedEpisodes())


async def test_other_settings_are_a_conflict_that_names_the_field() -> None:
    store = MemoryStore()
    await collect(store, draft(5, 2, sampling={"temperature": 1.0}), ScriptedEpisodes())
    with pytest.raises(PlanConflict, match=r"settings\.sampling\.temperature: stored 1\.0, asked for 0\.5"):
        await collect(store, draft(5, 2, sampling={"temperature": 0.5}), ScriptedEpisodes())


async def test_retry_runs_failed_rollouts_of_a_reason_again() -> None:
    store = MemoryStore()

    def fails(assignment: Assignment) -> Attempt:
        if assignment.task_index == 1:
            return Attempt("failed", failure=Failure("model", "ModelUnauthorized", "no", False, assignment.attempt))
        if assignment.task_index == 6:
            return Attempt("failed", failure=Failure("tool", "ToolCrashed", "no", False, assignment.attempt))
        return scored(assignment)

    await collect(store, draft(10, 2), ScriptedEpisodes(fails))
    mine = access(store)
    opened = await open_retry(store, ["ModelUnauthorized"], mine.clock)
    assert opened is not None
    episodes = ScriptedEpisodes()
    manifest = await BatchRun(mine, opened, episodes, Rows(), QUICK).run()
    rows = await assert_exactly_once(store)
    assert manifest.generation == 2
    assert sorted(r.split("-", 1)[1] for r in episodes.started) == ["1-0-a1", "1-1-a1"]
    assert Counter(row["kubegym"]["outcome"] for row in rows) == {"scored": 18, "failed": 2}
    assert manifest.totals.failures == {"ToolCrashed": 2}
    retried = [row for row in rows if row["kubegym"]["task_index"] == 1]
    assert all(row["_ng_attempt_index"] == 1 for row in retried)
    assert await open_retry(store, ["ModelUnauthorized"], mine.clock) is None


async def test_retry_of_an_unfinished_run_is_refused() -> None:
    store = MemoryStore()
    mine = access(store)
    await open_plan(store, draft(3, 1), mine.clock)
    with pytest.raises(IncompleteRun):
        await open_retry(store, [], mine.clock)


async def test_retryable_failures_are_tried_up_to_the_bound_and_kept_as_history() -> None:
    store = MemoryStore()

    def unavailable(assignment: Assignment) -> Attempt:
        return Attempt("failed", failure=Failure("model", "ModelUnavailable", "away", True, assignment.attempt))

    episodes = ScriptedEpisodes(unavailable)
    await collect(store, draft(1, 1), episodes)
    rows = await assert_exactly_once(store)
    assert [r.split("-", 1)[1] for r in episodes.started] == ["0-0", "0-0-a1", "0-0-a2"]
    assert rows[0]["kubegym"]["attempt"] == 2
    assert (await read_run(store)).manifest.totals.attempts == 3


async def test_group_verification_sees_whole_groups_before_anything_of_them_commits() -> None:
    store = MemoryStore()
    episodes = ScriptedEpisodes(groups=True, pause=lambda a: 1.0 + a.rollout_index)
    await collect(store, draft(6, 3), episodes)
    rows = await assert_exactly_once(store)
    assert len(episodes.verified) == 6
    assert all(len(group) == 3 for group in episodes.verified)
    assert [row["reward"] for row in rows] == [0.0, 1.0, 2.0] * 6


async def test_another_live_holder_is_not_robbed() -> None:
    store = MemoryStore()
    slow = ScriptedEpisodes(pause=lambda _: 1000.0)
    mine = access(store, uid="first")
    run = BatchRun(mine, await open_plan(store, draft(4, 1), mine.clock), slow, Rows(), QUICK)
    task = asyncio.create_task(run.run())
    await asyncio.sleep(3)
    with pytest.raises(OutputInUse, match="first"):
        await collect(store, draft(4, 1), ScriptedEpisodes(), uid="second")
    run.stop()
    await task
    assert (await collect(store, draft(4, 1), ScriptedEpisodes(), uid="second")).complete


async def test_failure_budget_halts_the_run_and_saves_it() -> None:
    store = MemoryStore()

    def broken(assignment: Assignment) -> Attempt:
        return Attempt("failed", failure=Failure("verifier", "VerifierCrashed", "boom", False, assignment.attempt))

    settings = replace(QUICK, max_failed_fraction=0.05)
    with pytest.raises(FailureBudgetExceeded, match="VerifierCrashed"):
        await collect(store, draft(400, 1), ScriptedEpisodes(broken), settings=settings)
    run = await read_run(store)
    assert not run.manifest.complete
    assert 20 <= run.manifest.totals.failed < 100


async def test_concurrency_is_kept_and_used() -> None:
    store = MemoryStore()
    episodes = ScriptedEpisodes(pause=lambda _: 1.0)
    await collect(store, draft(40, 1), episodes)
    assert episodes.most_in_flight == QUICK.concurrency


async def test_two_workers_share_a_run() -> None:
    store = MemoryStore()
    workers = [ScriptedEpisodes(pause=lambda _: 1.0) for _ in range(2)]
    await asyncio.gather(
        *(collect(store, draft(40, 2), episodes, worker=f"pod-{n}", start=n / 2) for n, episodes in enumerate(workers))
    )
    await assert_exactly_once(store)
    assert all(len(episodes.started) >= 20 for episodes in workers)
    assert sum(len(episodes.started) for episodes in workers) == 80


async def test_rows_of_values_json_has_no_word_for_fail_alone() -> None:
    store = MemoryStore()

    def odd(assignment: Assignment) -> Attempt:
        attempt = scored(assignment)
        if assignment.task_index == 2:
            attempt.fields = {"value": object()}
        return attempt

    await collect(store, draft(4, 1), ScriptedEpisodes(odd))
    rows = await assert_exactly_once(store)
    assert rows[2]["kubegym"]["failure"]["reason"] == "VerifierInvalidVerdict"
    assert rows[2]["reward"] is None
