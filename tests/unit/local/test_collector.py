"""The Collector: tasks as they come, groups as they finish, everything on record."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from kubegym.core.errors import InvalidRows, InvalidSpec, OutputInUse, PlanConflict
from kubegym.core.trajectory import Rollout, Verdict
from kubegym.local.collector import Collector
from kubegym.local.python import as_client
from kubegym.local.results import load, read_results
from kubegym.resources import Environment, Row
from kubegym.rollout import GroupPolicy, read_run
from kubegym.rollout.reader import stream_heads
from kubegym.storage import MemoryStore
from kubegym.storage.errors import StoreFull
from testbed.echo import rows

pytestmark = pytest.mark.unit


class Echo(Environment):
    """The answer has to be the row's word."""

    class Task(Row):
        word: str

    def verify(self, rollout: Rollout) -> Verdict:
        return Verdict(reward=float(rollout.final_text == self.task.word))


def right(request: dict[str, Any]) -> str:
    return str(request["messages"][-1]["content"]).removeprefix("say ")


def endless(taken: list[int]) -> Iterator[dict[str, Any]]:
    for n in itertools.count():
        taken.append(n)
        yield rows(1, first=n)[0]


async def test_groups_come_whole_and_are_on_record() -> None:
    store = MemoryStore()
    async with Collector(Echo, right, store) as collector:
        groups = [group async for group in collector.collect(rows(7), rollouts_per_task=3)]
        run_id = collector.run_id
    assert sorted(group.task_index for group in groups) == list(range(7))
    for group in groups:
        assert [row["_ng_rollout_index"] for row in group.rollouts] == [0, 1, 2]
        assert {row["word"] for row in group.rollouts} == {f"word{group.task_index}"}
        assert group.rewards == [1.0] * 3
        assert {row["kubegym"]["task_id"] for row in group.rollouts} == {group.task_id}
    run = await read_run(store)
    assert (run.plan.run_id, run.open_ended, run.manifest.complete) == (run_id, True, True)
    assert run.manifest.totals.scored == run.manifest.planned == 21


async def test_an_endless_iterator_is_asked_only_for_what_there_is_room_for() -> None:
    taken: list[int] = []
    async with Collector(Echo, right, concurrency=4) as collector:
        seen = 0
        async for _ in collector.collect(endless(taken), rollouts_per_task=2):
            seen += 1
            assert len(taken) <= seen + 4 + 4 + 1, "more tasks were taken than are in flight or wait to be taken"
            for _ in range(20):
                await asyncio.sleep(0)
            if seen == 50:
                break


async def test_work_pauses_while_nobody_takes_groups() -> None:
    taken: list[int] = []
    async with Collector(Echo, right, concurrency=4) as collector:
        groups = collector.collect(endless(taken), rollouts_per_task=2)
        await anext(groups)
        for _ in range(500):
            await asyncio.sleep(0)
        stopped_at = len(taken)
        assert stopped_at <= 12
        for _ in range(500):
            await asyncio.sleep(0)
        assert len(taken) == stopped_at


async def test_a_loop_left_early_is_saved_and_the_next_one_goes_on_numbering(tmp_path: Path) -> None:
    async with Collector(Echo, right, tmp_path / "run", concurrency=4) as collector:
        first: list[int] = []
        async for group in collector.collect(endless([]), rollouts_per_task=2):
            first.append(group.task_index)
            if len(first) == 5:
                break
        second = [group.task_index async for group in collector.collect(rows(3), rollouts_per_task=2)]
        gc.collect()
        third = [group.task_index async for group in collector.collect(rows(2), rollouts_per_task=2)]
    assert min(second) > max(first)
    assert min(third) > max(second)
    results = await read_results(tmp_path / "run")
    assert set(first + second + third) <= {group.task_index for group in results.groups if len(group.rollouts) == 2}


async def test_the_next_iterator_may_begin_before_the_last_is_collected_as_garbage() -> None:
    store = MemoryStore()
    async with Collector(Echo, right, store, concurrency=4) as collector:
        left = collector.collect(endless([]), rollouts_per_task=2)
        await anext(left)
        second = [group.task_index async for group in collector.collect(rows(3), rollouts_per_task=2)]
        await left.aclose()  # type: ignore[attr-defined]
        third = [group.task_index async for group in collector.collect(rows(1), rollouts_per_task=2)]
    assert len({*second, *third}) == 4
    assert {head.state for head in (await stream_heads(store)).values()} <= {"Released", "Committed"}


async def test_another_collector_goes_on_with_a_store(tmp_path: Path) -> None:
    async with Collector(Echo, right, tmp_path) as collector:
        first = [group.task_index async for group in collector.collect(rows(3), rollouts_per_task=1)]
        run_id = collector.run_id
    async with Collector(Echo, right, tmp_path) as collector:
        assert collector.run_id == run_id
        second = [group.task_index async for group in collector.collect(rows(2), rollouts_per_task=4)]
    assert (sorted(first), sorted(second)) == ([0, 1, 2], [3, 4])
    assert len(await read_results(tmp_path)) == 3 + 8


async def test_another_environment_or_sampling_needs_a_store_of_its_own(tmp_path: Path) -> None:
    class Other(Echo):
        """Another verifier under another name."""

    async with Collector(Echo, right, tmp_path):
        pass
    with pytest.raises(PlanConflict, match="environments"):
        async with Collector(Other, right, tmp_path):
            pass
    with pytest.raises(PlanConflict, match=r"settings\.sampling\.temperature"):
        async with Collector(Echo, right, tmp_path, sampling={"temperature": 0.0}):
            pass


async def test_a_batch_runs_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(
        b'{"schema":1,"run_id":"r","name":"n","generation":1,"created":0,"environments":[],"settings":{},'
        b'"segments":[],"tasks_per_shard":1,"retries":null,"extra":{}}'
    )
    with pytest.raises(InvalidSpec, match="holds a batch run"):
        async with Collector(Echo, right, tmp_path):
            pass


async def test_two_collectors_at_once_do_not_mix() -> None:
    store = MemoryStore()
    async with Collector(Echo, right, store) as one, Collector(Echo, right, store) as two:
        assert len([group async for group in one.collect(rows(2), rollouts_per_task=1)]) == 2
        with pytest.raises(OutputInUse):
            [group async for group in two.collect(rows(2), rollouts_per_task=1)]
    assert (await read_run(store)).manifest.totals.scored == 2


async def test_policies_filter_what_is_delivered_not_what_is_recorded() -> None:
    def model(request: dict[str, Any]) -> str:
        word = right(request)
        return word if word in ("word0", "word2") else "no"

    store = MemoryStore()
    policy = GroupPolicy(drop_zero_variance=True)
    async with Collector(Echo, model, store, group=policy) as collector:
        assert [group async for group in collector.collect(rows(4), rollouts_per_task=2)] == []
    assert (await read_run(store)).manifest.totals.scored == 8


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"word": "x"}, "responses_create_params is missing"),
        ({"responses_create_params": {"input": "x"}}, "word"),
        ({"responses_create_params": {"input": "x"}, "word": "x", "when": object()}, "not JSON"),
    ],
)
async def test_a_task_that_cannot_be_run_ends_the_collection_and_loses_nothing(
    bad: dict[str, Any], message: str
) -> None:
    store = MemoryStore()
    async with Collector(Echo, right, store, concurrency=1) as collector:
        with pytest.raises(InvalidRows, match=f"task:4: .*{message}"):
            async for _ in collector.collect([*rows(3), bad, *rows(3)], rollouts_per_task=2):
                pass
        assert len([group async for group in collector.collect(rows(2), rollouts_per_task=2)]) == 2
    run = await read_run(store)
    assert run.manifest.totals.scored == 10


async def test_an_iterator_that_raises_raises_here() -> None:
    async def curriculum() -> AsyncIterator[dict[str, Any]]:
        yield rows(1)[0]
        raise LookupError("no more tasks")

    async with Collector(Echo, right) as collector:
        with pytest.raises(LookupError, match="no more tasks"):
            async for _ in collector.collect(curriculum()):
                pass


async def test_a_consumer_that_raises_gets_its_own_error() -> None:
    store = MemoryStore()

    async def train() -> None:
        async with Collector(Echo, right, store) as collector:
            async for group in collector.collect(endless([]), rollouts_per_task=2):
                assert group.rollouts
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await train()
    assert {head.state for head in (await stream_heads(store)).values()} <= {"Released", "Committed"}


async def test_trouble_of_the_store_reaches_whoever_collects() -> None:
    """At the part of the third task."""
    async with Collector(Echo, right, FullAfter(), concurrency=1) as collector:
        with pytest.raises(StoreFull, match="no space"):
            async for _ in collector.collect(endless([]), rollouts_per_task=1):
                pass


class FullAfter(MemoryStore):
    """Takes two parts, then says what a disk says."""

    parts = 0

    async def put(self, key: str, data: bytes) -> str:
        self.parts += 1
        if self.parts > 2:
            raise StoreFull("no space left on device")
        return await super().put(key, data)


async def test_what_could_not_be_saved_after_an_early_leave_is_told() -> None:
    store = FullAfter()
    store.parts = 2

    async def train() -> None:
        async with Collector(Echo, right, store, concurrency=1) as collector:
            groups = collector.collect(endless([]), rollouts_per_task=2)
            await anext(groups)

    with pytest.raises(StoreFull, match="no space"):
        await train()


async def test_results_are_read_while_it_goes_on(tmp_path: Path) -> None:
    seen: list[int] = []
    async with Collector(Echo, right, tmp_path, concurrency=2) as collector:
        async for _ in collector.collect(rows(30), rollouts_per_task=2):
            results = load(tmp_path)  # from inside the running loop
            seen.append(len(results))
            assert all(group.rewards == [1.0] * len(group.rollouts) for group in results.groups)
    assert seen == sorted(seen)
    assert len(load(tmp_path)) == 60


async def test_models_by_role_and_a_model_that_fails() -> None:
    def broken(request: dict[str, Any]) -> str:
        raise ValueError("the function broke")

    async with Collector(Echo, {"policy": as_client(broken)}, max_attempts=1) as collector:
        (group,) = [group async for group in collector.collect(rows(1), rollouts_per_task=2)]
    assert [row["kubegym"]["outcome"] for row in group.rollouts] == ["failed", "failed"]
    assert group.rewards == []


async def test_outside_of_its_block_it_says_how_to_use_it() -> None:
    collector = Collector(Echo, right)
    with pytest.raises(RuntimeError, match="async with"):
        await anext(collector.collect(rows(1)))
    with pytest.raises(RuntimeError, match="async with"):
        collector.run_id  # noqa: B018
