"""Where a worker's next shard comes from: a plan's table, or tasks as they are handed in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kubegym.core.errors import OutputInUse
from kubegym.core.ids import rollout_id
from kubegym.core.protocols import Assignment
from kubegym.rollout.plan import Plan, ShardPlan
from kubegym.rollout.shard import OpenShard, StoreAccess, claim_shard


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task ready to run: the entry its row goes to, the row, and its id."""

    environment: str
    row: dict[str, Any]
    task_id: str


class TaskSource(Protocol):
    """Reads the rows of a run."""

    async def tasks(self, environment: str, first_row: int, count: int) -> list[TaskRow]:
        """``count`` tasks of an entry's dataset from ``first_row``, routed to the entries they go to."""
        ...


@dataclass(slots=True)
class Workload:
    """A held shard with its tasks."""

    shard: OpenShard
    tasks: Sequence[TaskRow]
    run_id: str

    def assignment(self, ordinal: int) -> Assignment:
        """The first attempt (of this generation) of an ordinal."""
        planned = self.shard.plan.planned(ordinal)
        task = self.tasks[planned.task_index - self.shard.plan.first_task]
        return Assignment(
            environment=task.environment,
            row=task.row,
            task_id=task.task_id,
            task_index=planned.task_index,
            rollout_index=planned.rollout_index,
            rollout_id=rollout_id(self.run_id, planned.task_index, planned.rollout_index, planned.attempt),
            attempt=planned.attempt,
        )

    def group_size(self, task_index: int) -> int:
        """How many rollouts of a task belong to this generation."""
        return self.shard.plan.group_size(task_index)


class ShardPool(Protocol):
    """Hands out shards, one claim at a time."""

    async def claim(self) -> Workload | None:
        """The next shard for this worker, or None when there is none left for it."""
        ...


def interleave(plan: Plan, weights: dict[str, float], start: float = 0.0) -> Iterator[ShardPlan]:
    """The plan's shards in claiming order: entries share by weight, each entry's shards in order.

    Smooth weighted round-robin over shards (every dataset is used whole; a weight says how soon). ``start`` in [0, 1)
    rotates each entry's order, so that workers of one run begin at different places.
    """
    queues: dict[str, list[ShardPlan]] = {}
    for shard in plan.work():
        queues.setdefault(shard.environment, []).append(shard)
    credit = dict.fromkeys(queues, 0.0)
    turn = {name: int(len(shards) * start) for name, shards in queues.items()}
    left = {name: len(shards) for name, shards in queues.items()}
    while left:
        total = sum(weights.get(name, 1.0) for name in left)
        for name in left:
            credit[name] += weights.get(name, 1.0) / total
        name = max(left, key=lambda entry: credit[entry])
        credit[name] -= 1.0
        shards = queues[name]
        yield shards[turn[name] % len(shards)]
        turn[name] += 1
        left[name] -= 1
        if not left[name]:
            del left[name]


async def _kept(claiming: Coroutine[Any, Any, OpenShard | None]) -> OpenShard | None:
    """What is claimed. A claim that a stop falls into is made and given back: nobody else would know of it."""
    task = asyncio.ensure_future(claiming)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and task.exception() is None and (shard := task.result()) is not None:
            await shard.release()
        raise


class PlanPool:
    """Claims the shards of a plan.

    Args:
        access: the store and who claims.
        plan: the plan, of the generation to work on.
        source: its rows.
        ceiling_step: how far ahead of admission the ceiling is set.
        weights: share of each entry (default 1).
        fresh: whether the plan was made just now by this process, so that no head can exist.
        start: where in the order this worker begins, in [0, 1).
    """

    def __init__(
        self,
        access: StoreAccess,
        plan: Plan,
        source: TaskSource,
        *,
        ceiling_step: int,
        weights: dict[str, float] | None = None,
        fresh: bool = False,
        start: float = 0.0,
        skip: Callable[[int], bool] | None = None,
    ) -> None:
        self._access = access
        self._plan = plan
        self._source = source
        self._step = ceiling_step
        self._fresh = fresh
        self._skip = skip
        self._order = interleave(plan, weights or {}, start)

    async def claim(self) -> Workload | None:
        """The next shard nobody else holds and that is not done."""
        for shard_plan in self._order:
            if self._skip and self._skip(shard_plan.index):
                continue
            shard = await _kept(
                claim_shard(
                    self._access,
                    shard_plan,
                    run_id=self._plan.run_id,
                    generation=self._plan.generation,
                    ceiling=min(shard_plan.size, self._step),
                    expect_absent=self._fresh,
                    retried=self._retried,
                )
            )
            if shard is not None:
                return Workload(shard, await self._rows(shard), self._plan.run_id)
        return None

    async def _rows(self, shard: OpenShard) -> list[TaskRow]:
        plan = shard.plan
        try:
            return await self._source.tasks(plan.environment, plan.first_row, plan.tasks)
        except BaseException:
            await shard.release()  # nobody else knows that it is ours
            raise

    def _retried(self, shard: ShardPlan) -> dict[str, int]:
        if shard.retries is None:
            return {}
        counts: dict[str, int] = {}
        for retry in shard.retries:
            counts[retry.reason] = counts.get(retry.reason, 0) + 1
        return counts


class StreamPool:
    """Makes a shard of each task that is handed in while the run goes on, so task and shard have one number.

    A task is asked for when a slot is free, not before: a curriculum decides on what is known by then.

    Args:
        access: the store and who claims.
        tasks: the tasks, possibly without end.
        run_id: the run's id.
        rollouts_per_task: size of a group.
        environment: the entry.
        first: where the stream's numbering goes on.
    """

    def __init__(
        self,
        access: StoreAccess,
        tasks: AsyncIterator[TaskRow],
        *,
        run_id: str,
        rollouts_per_task: int,
        environment: str,
        first: int = 0,
    ) -> None:
        self.next_index = first
        self._access = access
        self._tasks = tasks
        self._run_id = run_id
        self._rollouts = rollouts_per_task
        self._environment = environment

    async def claim(self) -> Workload | None:
        """A new shard with the next task, or None when the stream has ended."""
        task = await anext(self._tasks, None)
        if task is None:
            return None
        index = self.next_index
        plan = ShardPlan(index, self._environment, index, 1, index, (0, self._rollouts))
        shard = await _kept(
            claim_shard(self._access, plan, run_id=self._run_id, generation=1, ceiling=plan.size, expect_absent=True)
        )
        if shard is not None and shard.head.parts:  # numbered by another, who has let go of it since
            await shard.release()
            shard = None
        if shard is None:
            raise OutputInUse(f"{self._access.store.url}: another process collects into this stream")
        self.next_index += 1
        return Workload(shard, [task], self._run_id)
