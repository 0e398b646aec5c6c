"""A batch run from plan to manifest: the same on a laptop and in a Job's pods (DESIGN 3.5)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import orjson

from kubegym.core.clock import Clock
from kubegym.core.errors import OutputInUse, PlanConflict, StoreError
from kubegym.core.ids import new_run_id
from kubegym.core.protocols import Episodes
from kubegym.core.retry import Backoff
from kubegym.rollout.errors import IncompleteRun
from kubegym.rollout.head import Head, Totals, judge_claim
from kubegym.rollout.isolate import ChildSpec, Quarantine
from kubegym.rollout.manifest import Manifest, build_manifest, finalise, manifest_key, write_incomplete
from kubegym.rollout.metrics import WorkerMetrics
from kubegym.rollout.plan import (
    Plan,
    Retry,
    Segment,
    Wanted,
    first_segments,
    grown_segments,
    plan_key,
    require_same,
)
from kubegym.rollout.pool import PlanPool, TaskSource
from kubegym.rollout.reader import StoredRun, newest_plan, plan_heads, read_heads, read_run
from kubegym.rollout.shard import StoreAccess, require_own
from kubegym.rollout.worker import Progress, Worker, WorkerSettings
from kubegym.storage.errors import Conflict
from kubegym.storage.protocol import ObjectStore

log = logging.getLogger("kubegym.rollout")


@dataclass(frozen=True)
class Draft:
    """What is asked for: a plan that has no run id and no generation yet. Fields as in ``Plan``."""

    name: str
    environments: tuple[dict[str, Any], ...]
    settings: dict[str, Any]
    wanted: tuple[Wanted, ...]
    tasks_per_shard: int = 32
    extra: dict[str, Any] | None = None

    def plan(self, run_id: str, generation: int, segments: Sequence[Segment], created: float) -> Plan:
        """The draft as a generation's plan."""
        return Plan(
            run_id=run_id,
            name=self.name,
            environments=self.environments,
            settings=self.settings,
            segments=tuple(segments),
            tasks_per_shard=self.tasks_per_shard,
            generation=generation,
            created=created,
            extra=self.extra or {},
        )


@dataclass(frozen=True)
class Opened:
    """A plan to work on. ``fresh``: it was written just now. ``manifest``: it is finished already."""

    plan: Plan
    fresh: bool
    manifest: Manifest | None = None


async def open_plan(store: ObjectStore, draft: Draft, clock: Clock) -> Opened:
    """The generation to work on for what is asked: resumes, finds finished, grows, or begins.

    A generation that is not finished comes first, whatever growth is asked for beyond it.

    Raises:
        PlanConflict: the store holds a run of something else, or something would shrink.
    """
    while True:
        stored = await newest_plan(store)
        if stored is None:
            segments = first_segments(draft.wanted, draft.tasks_per_shard)
            plan = draft.plan(new_run_id(), 1, segments, clock.time())
        else:
            require_same(stored, draft.plan(stored.run_id, stored.generation, stored.segments, 0), store.url)
            manifest = await read_manifest(store, stored.generation)
            if manifest is None:
                return Opened(stored, fresh=False)
            try:
                grown = grown_segments(stored.segments, draft.wanted, stored.tasks_per_shard)
            except ValueError as error:
                raise PlanConflict(store.url, {"size": ("the stored run", str(error))}) from error
            if grown is None:
                return Opened(stored, fresh=False, manifest=manifest)
            plan = draft.plan(stored.run_id, stored.generation + 1, grown, clock.time())
            plan = replace(plan, tasks_per_shard=stored.tasks_per_shard)
        if await _create_plan(store, plan):
            return Opened(plan, fresh=plan.generation == 1)


async def open_retry(store: ObjectStore, reasons: Sequence[str], clock: Clock) -> Opened | None:
    """Open a generation that runs failed rollouts of a finished run again; None where none failed so.

    Args:
        store: the run's store.
        reasons: failure reasons to retry; empty for all.
        clock: for the plan's time stamp.

    Raises:
        IncompleteRun: the run is not finished; running it again comes first.
    """
    run = await read_run(store)
    if not run.manifest.complete:
        raise IncompleteRun(f"{store.url} is not finished; run it again to finish it, then retry what failed")
    retries = [retry async for retry in _failed(run, frozenset(reasons))]
    if not retries:
        return None
    segments = tuple(replace(s, rollouts=(s.rollouts[1], s.rollouts[1])) for s in run.plan.segments)
    plan = replace(
        run.plan,
        generation=run.plan.generation + 1,
        segments=segments,
        retries=tuple(retries),
        created=clock.time(),
    )
    if not await _create_plan(store, plan):
        raise OutputInUse(f"{store.url}: another generation was opened at the same time; look at it and try again")
    return Opened(plan, fresh=False)


async def _failed(run: StoredRun, reasons: frozenset[str]) -> AsyncIterator[Retry]:
    async for lines in run.tasks():
        for line in lines:
            row = orjson.loads(line)
            ours = row["kubegym"]
            failure = ours["failure"]
            if ours["outcome"] == "failed" and failure and (not reasons or failure["reason"] in reasons):
                yield Retry(ours["task_index"], row["_ng_rollout_index"], ours["attempt"] + 1, failure["reason"])


async def _create_plan(store: ObjectStore, plan: Plan) -> bool:
    body = plan.to_json()
    try:
        await store.create(plan_key(plan.generation), body)
    except Conflict:
        stored = await store.get(plan_key(plan.generation))
        return stored is not None and stored.data == body  # our own write, whose reply was lost
    return True


async def read_manifest(store: ObjectStore, generation: int) -> Manifest | None:
    """The manifest of a generation, if it is finished."""
    stored = await store.get(manifest_key(generation))
    return Manifest.from_json(stored.data) if stored else None


class BatchRun:
    """One worker's part in a batch run: ``run`` for the only one, ``share`` for one of several.

    Args:
        access: the store and who works.
        opened: the generation to work on.
        episodes: runs attempts.
        source: rows.
        settings: how the worker works.
        weights: share of each entry.
        child: how isolated children are made; None runs suspects of a crash like all others.
        metrics: Prometheus instruments.
        start: where in the order of shards this worker begins, in [0, 1).
    """

    def __init__(
        self,
        access: StoreAccess,
        opened: Opened,
        episodes: Episodes,
        source: TaskSource,
        settings: WorkerSettings,
        *,
        weights: dict[str, float] | None = None,
        child: ChildSpec | None = None,
        metrics: WorkerMetrics | None = None,
        start: float = 0.0,
    ) -> None:
        self.progress = Progress()
        self._metrics = metrics or WorkerMetrics()
        self._access = replace(access, conflicted=self._metrics.conflict)
        self._opened = opened
        self._episodes = episodes
        self._source = source
        self._settings = settings
        self._weights = weights
        self._child = child
        self._start = start
        self._worker: Worker | None = None
        self._stopped = asyncio.Event()

    @property
    def plan(self) -> Plan:
        """The generation worked on."""
        return self._opened.plan

    @property
    def settings(self) -> WorkerSettings:
        """How the worker works now."""
        return self._settings

    def stop(self) -> None:
        """End soon and cleanly: what is finished is saved, what is in flight is given up."""
        self._stopped.set()
        if self._worker is not None:
            self._worker.stop()

    def resize(self, concurrency: int) -> None:
        """Have so many rollouts in flight from now on."""
        self._settings = replace(self._settings, concurrency=concurrency)
        if self._worker is not None:
            self._worker.resize(concurrency)

    async def run(self) -> Manifest:
        """Work until nothing is left; the manifest, complete or not, which this leaves in the store.

        Raises:
            FailureBudgetExceeded, OutputInUse, PlanConflict, Fenced, StoreError: as ``Worker.run``. A manifest,
                mostly an incomplete one, is left in every case where the store still answers.
        """
        if self._opened.manifest is not None:
            self._resume_from(self._opened.manifest.totals)
            return self._opened.manifest
        done = await self._begun()
        try:
            await self._work(done)
        except BaseException as error:
            try:
                await self._manifest()
            except StoreError as trouble:
                log.warning("after %r no manifest could be left: %s", error, trouble)
            raise
        return await self._access.retrying(self._manifest)

    async def share(self, patience: Backoff) -> bool:
        """Work beside others until every planned rollout is settled, by whomever; False where it was stopped before.

        What another holds is waited for: it may die, and then somebody has to be there. Leaves no manifest, which is
        for whoever comes when all workers are done.

        Args:
            patience: pauses between two looks at what others hold.

        Raises:
            FailureBudgetExceeded, OutputInUse, PlanConflict, Fenced, StoreError: as ``Worker.run``.
        """
        if self._opened.manifest is not None:
            self._resume_from(self._opened.manifest.totals)
            return True
        store, work = self._access.store, [shard.index for shard in self.plan.work()]
        done, looks = await self._begun(), 0
        while not self._stopped.is_set():
            settled = self.progress.totals.settled
            await self._work(done)
            left = [index for index in work if index not in done]
            done |= self._done(await self._access.retrying(partial(read_heads, store, left)))
            if done.issuperset(left):
                return True
            looks = 1 if self.progress.totals.settled > settled else min(looks + 1, 16)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), patience.delay(looks, self._access.rng))
        return False

    async def _begun(self) -> set[int]:
        """The shards with nothing left to do when this worker comes; counts what is committed already."""
        plan = self.plan
        heads = {} if self._opened.fresh else await plan_heads(self._access.store, plan.shards)
        done = self._done(heads)
        self._resume_from(_totals(heads, plan))
        return done

    async def _work(self, done: Set[int]) -> None:
        """Claim what can be had, and run it."""
        plan = self.plan
        self._worker = Worker(
            PlanPool(
                self._access,
                plan,
                self._source,
                ceiling_step=self._settings.ceiling_step,
                weights=self._weights,
                fresh=self._opened.fresh,
                start=self._start,
                skip=done.__contains__,
            ),
            self._episodes,
            self._settings,
            run_id=plan.run_id,
            progress=self.progress,
            quarantine=Quarantine(self._child) if self._child else None,
            metrics=self._metrics,
        )
        if not self._stopped.is_set():
            await self._worker.run()

    async def _manifest(self) -> Manifest:
        """Leave the manifest of what is committed. May be done again."""
        store, plan = self._access.store, self.plan
        manifest = build_manifest(plan, await plan_heads(store, plan.shards), self._access.clock.time())
        if manifest.complete:
            return await finalise(store, manifest)
        await write_incomplete(store, manifest)
        return manifest

    def _resume_from(self, totals: Totals) -> None:
        self.progress.expected = self.plan.planned
        self.progress.totals = self.progress.totals + totals
        self.progress.resumed = totals.settled

    def _done(self, heads: dict[int, Head]) -> set[int]:
        """Shards with nothing left to do. Says at once, not at the first claim, that somebody else works here."""
        access = self._access
        done: set[int] = set()
        for index, head in heads.items():
            require_own(head, self.plan.run_id, access.store.url)
            gone = access.gone(head.holder)
            judgement = judge_claim(head, self.plan.generation, access.holder, access.clock.time(), gone)
            if judgement == "in_use":
                raise OutputInUse(
                    f"{access.store.url} is in use by {head.holder.id}. Wait for it to end, or use another output."
                )
            if judgement == "done":
                done.add(index)
        return done


def _totals(heads: dict[int, Head], plan: Plan) -> Totals:
    """What is committed, less the failed rollouts that a retry generation has not yet begun to run again."""
    retried: dict[int, dict[str, int]] = {}
    for retry in plan.retries or ():
        counts = retried.setdefault(plan.shard_of(retry.task_index), {})
        counts[retry.reason] = counts.get(retry.reason, 0) + 1
    total = Totals()
    for index, head in heads.items():
        fresh = head.generation < plan.generation
        total = total + (head.totals.without(retried.get(index, {})) if fresh else head.totals)
    return total
