"""``kubegym.Collector``: groups of rollouts for tasks that come while the run goes on (DESIGN section 6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kubegym.core.clock import SystemClock
from kubegym.core.errors import InvalidRows, InvalidSpec, RowProblem
from kubegym.core.ids import new_run_id, task_id
from kubegym.core.protocols import ModelClient
from kubegym.data.rowcheck import check_row
from kubegym.local.episodes import LocalEpisodes, build_episodes, of_class
from kubegym.local.python import AnswerFunction, as_client
from kubegym.local.runspec import Entry, RunSpec
from kubegym.resources import Environment, LoadedEnvironment, load_environment
from kubegym.rollout import (
    Group,
    GroupPolicy,
    Holder,
    Plan,
    StoreAccess,
    StreamPool,
    TaskRow,
    Worker,
    WorkerMetrics,
    WorkerSettings,
    local_holder,
)
from kubegym.rollout.plan import plan_key, require_same
from kubegym.rollout.reader import stream_heads
from kubegym.storage import MemoryStore, ObjectStore, open_store, probe_conditional_writes

Tasks = Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]]
"""Rows, possibly without end: a list, a generator, an async iterator (epochs and curricula are iterators)."""


class Collector:
    """Collects rollouts of one environment, for a trainer or a script that asks for tasks as it goes.

    ::

        async with Collector("environments/arithmetic", client, "runs/mine") as collector:
            async for group in collector.collect(tasks, rollouts_per_task=8):
                train(group.rollouts)

    What is collected is committed to the store exactly as a batch run's, and can be read by ``kubegym.load`` at any
    time. ``collect`` may be called again; numbering goes on.

    Args:
        environment: an Environment class, a folder or a name.
        models: a ModelClient for the policy, clients by role, or a function from a chat completions request to text.
        store: a store, folder or URL; None keeps the record in memory only, until the Collector is closed.
        concurrency: rollouts in flight.
        config: the environment's configuration.
        sampling: Responses create-params over the tasks' own.
        seed: sampling seed; None sends none.
        max_attempts: tries of a rollout whose failure is retryable.
        max_policy_version_lag: policy versions that may pass while a rollout runs; an older one is recorded as
            stale, and not delivered.
        group: which groups are delivered; the record keeps all.
        metrics: Prometheus instruments.
    """

    def __init__(
        self,
        environment: type[Environment] | str | Path,
        models: ModelClient | AnswerFunction | Mapping[str, ModelClient],
        store: ObjectStore | str | Path | None = None,
        *,
        concurrency: int = 32,
        config: Mapping[str, Any] | None = None,
        sampling: Mapping[str, Any] | None = None,
        seed: int | None = None,
        max_attempts: int = 3,
        max_policy_version_lag: int | None = None,
        group: GroupPolicy | None = None,
        metrics: WorkerMetrics | None = None,
    ) -> None:
        self._loaded = of_class(environment) if isinstance(environment, type) else load_environment(environment)
        self._clients = dict(models) if isinstance(models, Mapping) else {"policy": as_client(models)}
        self._owns_store = store is None or isinstance(store, str | Path)
        self._store: ObjectStore = (
            MemoryStore() if store is None else open_store(store) if isinstance(store, str | Path) else store
        )
        self._entry = Entry(
            name=self._loaded.name,
            environment=str(self._loaded.folder or self._loaded.name),
            models={},
            config=dict(config or {}),
            sampling=dict(sampling or {}),
            seed=seed,
        )
        self._settings = WorkerSettings(
            concurrency=concurrency,
            max_attempts=max_attempts,
            flush_seconds=1.0,
            max_failed_fraction=1.0,
            max_policy_version_lag=max_policy_version_lag,
        )
        self._policy = group or GroupPolicy()
        self._metrics = metrics
        self._episodes: LocalEpisodes | None = None
        self._plan: Plan | None = None
        self._next = 0
        self._current: _Collection | None = None
        self._holding = ExitStack()
        self._holder: Holder

    @property
    def run_id(self) -> str:
        """Id of the run; known inside of the ``async with`` block."""
        return self._started().run_id

    async def __aenter__(self) -> Self:
        spec = RunSpec(self._loaded.name, (self._entry,), concurrency=self._settings.concurrency)
        classes: dict[str, LoadedEnvironment] = {self._entry.name: self._loaded}
        self._episodes = build_episodes(spec, classes=classes, clients=self._clients)
        try:
            self._holder = self._holding.enter_context(local_holder())
            await self._episodes.start()
            await self._open()
        except BaseException:
            self._holding.close()
            await self._episodes.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            try:
                await self._end()
            finally:
                await self._working().close()
        finally:
            self._holding.close()
            if self._owns_store:
                await self._store.close()

    async def _open(self) -> None:
        """Begin the stream's record, or go on with it."""
        entry = self._entry
        asked = Plan(
            run_id=new_run_id(),
            name=entry.name,
            environments=({"name": entry.name, "source": self._loaded.source_digest, "config": entry.config},),
            settings={"sampling": entry.sampling, "seed": entry.seed},
            segments=(),
            created=SystemClock().time(),
            extra={"stream": True},
        )
        stored = await self._store.get(plan_key(1))
        if stored is None:
            await probe_conditional_writes(self._store)
            await self._store.create(plan_key(1), asked.to_json())
            self._plan = asked
            return
        plan = Plan.from_json(stored.data)
        if not plan.extra.get("stream"):
            raise InvalidSpec(f"{self._store.url} holds a batch run; a Collector needs an output of its own")
        require_same(plan, asked, self._store.url)
        self._next = len(await stream_heads(self._store))
        self._plan = plan

    def _started(self) -> Plan:
        if self._plan is None:
            raise RuntimeError("use the Collector in an `async with` block")
        return self._plan

    async def collect(self, tasks: Tasks, rollouts_per_task: int = 8) -> AsyncIterator[Group]:
        """Groups as they finish, in no promised order.

        Tasks are taken only when there is room for them, and work pauses while finished groups wait to be taken, so
        memory stays bounded with an endless iterator. Leaving the loop early gives up what is in flight.

        Raises:
            InvalidRows: a task cannot be run; groups of earlier tasks were delivered or are committed.
            StoreError: the store went away; what is finished is saved.
        """
        plan = self._started()
        await self._end()
        ready: asyncio.Queue[Group] = asyncio.Queue(maxsize=self._settings.concurrency)
        pool = self._pool(plan, tasks, rollouts_per_task)
        worker = Worker(
            pool,
            self._working(),
            self._settings,
            run_id=plan.run_id,
            on_group=ready.put,
            metrics=self._metrics,
        )
        mine = self._current = _Collection(worker, pool, asyncio.create_task(worker.run(), name="collect"))
        try:
            async for group in _until(mine.task, ready):
                if (delivered := self._policy.delivered(group)) is not None:
                    yield delivered
        finally:
            if self._current is mine:
                await self._end()

    async def _end(self) -> None:
        """End what is being collected, or raise what keeps it from being saved.

        A loop that was left early does not say so before it is collected as garbage.
        """
        current, self._current = self._current, None
        if current is not None:
            current.worker.stop()
            try:
                await current.task
            finally:
                self._next = current.pool.next_index

    def _pool(self, plan: Plan, tasks: Tasks, rollouts_per_task: int) -> StreamPool:
        return StreamPool(
            StoreAccess(self._store, self._holder, SystemClock()),
            self._rows(tasks),
            run_id=plan.run_id,
            rollouts_per_task=rollouts_per_task,
            environment=self._entry.name,
            first=self._next,
        )

    def _working(self) -> LocalEpisodes:
        if self._episodes is None:
            raise RuntimeError("use the Collector in an `async with` block")
        return self._episodes

    async def _rows(self, tasks: Tasks) -> AsyncIterator[TaskRow]:
        """The tasks, checked one by one as they are taken."""
        part = self._working().parts[self._entry.name]
        number = 0
        async for given in _each(tasks):
            number += 1
            row: dict[str, Any] = dict(given)
            problem = check_row(row) or part.runtime.validate_row(row)
            try:
                identity = task_id(part.info.name, row)
            except TypeError as error:
                problem = f"not JSON: {error}"
            if problem is not None:
                raise InvalidRows([RowProblem("task", number, problem)], 1)
            yield TaskRow(self._entry.name, row, identity)


@dataclass(frozen=True, slots=True)
class _Collection:
    """A ``collect`` at work."""

    worker: Worker
    pool: StreamPool
    task: asyncio.Task[None]


async def _each(tasks: Tasks) -> AsyncIterator[Mapping[str, Any]]:
    if isinstance(tasks, AsyncIterable):
        async for task in tasks:
            yield task
    else:
        for task in tasks:
            yield task


async def _until(work: asyncio.Task[None], ready: asyncio.Queue[Group]) -> AsyncIterator[Group]:
    """What arrives until the work ends; then its error, if it has one."""
    while not (work.done() and ready.empty()):
        arrival = asyncio.ensure_future(ready.get())
        try:
            await asyncio.wait({arrival, work}, return_when=asyncio.FIRST_COMPLETED)
            if arrival.done():
                yield arrival.result()
        finally:
            arrival.cancel()
    work.result()
