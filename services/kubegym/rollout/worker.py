"""The worker: runs the rollouts of claimed shards in slots and commits their rows (DESIGN section 6, steps 2 to 6)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from kubegym.core.errors import AgentError, VerifierError
from kubegym.core.ids import rollout_id
from kubegym.core.protocols import Assignment, Attempt, EnvironmentInfo, Episodes
from kubegym.core.retry import Backoff
from kubegym.core.rows import build_row, encode_row
from kubegym.core.tokens import Tokens
from kubegym.rollout.errors import FailureBudgetExceeded
from kubegym.rollout.groups import Group, GroupAssembly, Member
from kubegym.rollout.head import Totals
from kubegym.rollout.isolate import Quarantine
from kubegym.rollout.lag import PolicyLag
from kubegym.rollout.metrics import WorkerMetrics
from kubegym.rollout.pool import ShardPool, Workload
from kubegym.rollout.samples import Sampled, record_of
from kubegym.rollout.scheduler import Scheduler, Work

log = logging.getLogger("kubegym.rollout")

Runner = Callable[[Assignment], Awaitable[Attempt]]
_RETRY_DELAY = Backoff(base=0.5, maximum=15.0)


@dataclass(frozen=True)
class WorkerSettings:
    """How a worker works; nothing here changes what is collected.

    Attributes:
        concurrency: rollouts in flight.
        max_attempts: tries of a rollout whose failure is retryable (``maxRolloutAttempts``).
        retry_delay: wait between them.
        flush_seconds, flush_bytes: a result is durable at most this long, or this many bytes, after it ended.
        max_failed_fraction: the failure budget, as a share of ``expected``.
        min_failures: the budget halts a run only after this many failures of this process, so that a small run ends
            with its table and a resumed one gets on.
        tick_seconds: how often age and leases are looked at.
        tokens: what becomes of token ids: nothing, a file beside each part, or fields of the rows (contract 2.7).
        max_policy_version_lag: see ``rollout.lag``.
    """

    concurrency: int = 32
    max_attempts: int = 3
    retry_delay: Backoff = _RETRY_DELAY
    flush_seconds: float = 10.0
    flush_bytes: int = 8 << 20
    max_failed_fraction: float = 0.05
    min_failures: int = 20
    tick_seconds: float = 0.2
    tokens: Tokens = "None"
    max_policy_version_lag: int | None = None

    @property
    def ceiling_step(self) -> int:
        """How far ahead of admission shards are marked as possibly in flight."""
        return max(64, 2 * self.concurrency)


@dataclass(slots=True)
class Progress:
    """What a run has done and is doing.

    Attributes:
        expected: rollouts of the whole run; 0 where that is not known (a stream).
        totals: results, those that were committed before this process started included.
        resumed: how many were.
        in_flight: rollouts running now.
        retries: attempts of this process that were made again.
    """

    expected: int = 0
    totals: Totals = field(default_factory=Totals)
    resumed: int = 0
    in_flight: int = 0
    retries: int = 0


class Worker:
    """Runs rollouts of a pool's shards until none is left, it is stopped, or the failure budget is spent.

    Args:
        pool: hands out shards.
        episodes: runs attempts.
        settings: see WorkerSettings.
        progress: shared with whoever shows it.
        run_id: the run's id, for rows.
        quarantine: where suspects of a crash run; None runs them like all others.
        on_group: told of every finished group, with its rows, where somebody wants groups; may wait, which bounds
            what is in flight.
        metrics: Prometheus instruments.
        rng: for retry jitter.
    """

    def __init__(
        self,
        pool: ShardPool,
        episodes: Episodes,
        settings: WorkerSettings,
        *,
        run_id: str,
        progress: Progress | None = None,
        quarantine: Quarantine | None = None,
        on_group: Callable[[Group], Awaitable[None]] | None = None,
        metrics: WorkerMetrics | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.progress = progress or Progress()
        self._episodes = episodes
        self._settings = settings
        self._run_id = run_id
        self._quarantine = quarantine
        self._on_group = on_group
        self._metrics = metrics or WorkerMetrics()
        self._rng = rng or random.Random()
        self._scheduler = Scheduler(pool, self._opened, settings.ceiling_step)
        self._open: dict[int, Workload] = {}
        self._suspects: list[Work] = []
        self._isolating = asyncio.Lock()
        self._groups = GroupAssembly()
        self._lag = PolicyLag(settings.max_policy_version_lag)
        self._failures = 0
        self._slots: set[asyncio.Task[None]] = set()
        self._crew: asyncio.TaskGroup | None = None
        self._concurrency = settings.concurrency
        self._stopped = False

    def resize(self, concurrency: int) -> None:
        """Have so many rollouts in flight from now on; of more that are, none is given up."""
        self._concurrency = concurrency
        self._hire()

    def stop(self) -> None:
        """Admit nothing more, give up what is in flight, and let ``run`` flush and return."""
        self._stopped = True
        self._scheduler.stop()
        for slot in self._slots:
            slot.cancel()

    async def run(self) -> None:
        """Work until nothing is left.

        Raises:
            FailureBudgetExceeded: too many rollouts failed; what is finished is committed.
            Fenced, OutputInUse, StoreError: this worker cannot go on; what is not committed is not lost, only undone.
        """
        ticker = asyncio.create_task(self._tick(), name="flush")
        try:
            await self._until_done(self._run_slots(), ticker)
            if self._suspects and self._quarantine and not self._stopped and not self._budget_spent():
                await self._until_done(self._run_last_suspects(self._quarantine), ticker)
        except BaseException as error:
            await self._release(ticker, after=error)
            raise
        await self._release(ticker)
        if self._budget_spent():
            totals = self.progress.totals
            raise FailureBudgetExceeded(
                f"{totals.failed} of {self.progress.expected} rollouts failed, more than the budget of "
                f"{self._settings.max_failed_fraction:.0%}: {_reasons(totals)}"
            )

    async def _until_done(self, work: Coroutine[Any, Any, None], ticker: asyncio.Task[None]) -> None:
        """Await the work, or raise what ended the ticker: its trouble must not stay in the background."""
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task, ticker}, return_when=asyncio.FIRST_COMPLETED)
            if ticker.done():
                ticker.result()
            try:
                await task
            except BaseExceptionGroup as group:
                raise _first(group) from None
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run_slots(self) -> None:
        try:
            async with asyncio.TaskGroup() as self._crew:
                self._slots = {self._crew.create_task(self._slot(), name="slot-0")}
                self._hire()
        finally:
            self._crew = None

    def _hire(self) -> None:
        """As many slots as are wanted. Where none is left, there is nothing left to do either."""
        wanted = min(self._concurrency, self.progress.expected or self._concurrency)
        if self._crew is None or not self._slots or self._stopped:
            return
        for number in range(len(self._slots), wanted):
            self._slots.add(self._crew.create_task(self._slot(), name=f"slot-{number}"))

    async def _slot(self) -> None:
        try:
            while len(self._slots) <= self._concurrency and (work := await self._scheduler.next()) is not None:
                if self._quarantine and (self._suspects or self._isolating.locked()):
                    await self._run_suspects(self._quarantine)
                await self._finish(work, self._episodes.run)
        except asyncio.CancelledError:
            if not self._stopped:
                raise
        finally:
            if (me := asyncio.current_task()) is not None:
                self._slots.discard(me)

    async def _run_suspects(self, quarantine: Quarantine) -> None:
        """Settle the suspects of a crash, durably, before anything new.

        Left for the end they would never have their turn where every start of the worker meets the next rollout that
        crashes it; this way each start gets on.
        """
        async with self._isolating:
            suspects, self._suspects = self._suspects, []
            if not suspects:
                return
            log.warning("run=%s: %d suspects of a crash run in isolation", self._run_id[:8], len(suspects))
            await quarantine.run(suspects, self._finish)
            for index in {workload.shard.plan.index for workload, _ in suspects} & self._open.keys():
                await self._close(self._open[index])

    async def _run_last_suspects(self, quarantine: Quarantine) -> None:
        """Suspects of shards that have nothing else to do."""
        task = asyncio.create_task(self._run_suspects(quarantine), name="quarantine")
        self._slots = {task}
        try:
            await task
        except asyncio.CancelledError:
            if not self._stopped:
                raise
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _opened(self, workload: Workload) -> list[int]:
        self._open[workload.shard.plan.index] = workload
        self._groups.expect(workload, self._assembles)
        suspected = set(workload.shard.suspects) if self._quarantine else set()
        self._suspects += [(workload, ordinal) for ordinal in sorted(suspected)]
        return [ordinal for ordinal in workload.shard.head.remaining() if ordinal not in suspected]

    def _assembles(self, environment: str) -> bool:
        """Whether rollouts of an entry wait for their group."""
        return self._on_group is not None or self._episodes.verifies_groups(environment)

    async def _finish(self, work: Work, runner: Runner) -> None:
        """Run a rollout to its result and take it."""
        workload, ordinal = work
        self.progress.in_flight += 1
        self._metrics.started()
        try:
            member = await self._settled(workload.assignment(ordinal), ordinal, runner)
            await self._take(workload, member)
        finally:
            self.progress.in_flight -= 1
            self._metrics.ended()

    async def _settled(self, assignment: Assignment, ordinal: int, runner: Runner) -> Member:
        """Attempts until one settles the rollout."""
        history: list[tuple[Assignment, Attempt]] = []
        while True:
            attempt = await runner(assignment)
            attempt.left_behind = self._lag.stale(assignment.environment, attempt.turns)
            failure = attempt.failure
            if failure is None or not failure.retryable or len(history) + 1 >= self._settings.max_attempts:
                return Member(ordinal, assignment, attempt, history)
            history.append((assignment, attempt))
            self.progress.retries += 1
            log.info("retrying rollout=%s reason=%s: %s", assignment.rollout_id, failure.reason, failure.message)
            await asyncio.sleep(self._settings.retry_delay.delay(len(history), self._rng))
            number = assignment.attempt + 1
            identity = rollout_id(self._run_id, assignment.task_index, assignment.rollout_index, number)
            assignment = replace(assignment, attempt=number, rollout_id=identity)

    async def _take(self, workload: Workload, member: Member) -> None:
        verifies = self._episodes.verifies_groups(member.assignment.environment)
        if not verifies:
            self._record(workload, member)
        if verifies or self._on_group is not None:
            members = self._groups.add(member)
            if members is not None:
                await self._complete_group(workload, members, verifies)
        if workload.shard.settled_all:
            await self._close(workload)
        elif workload.shard.pending_bytes >= self._settings.flush_bytes:
            await self._flush(workload)

    async def _complete_group(self, workload: Workload, members: list[Member], verifies: bool) -> None:
        if verifies:
            pairs = [(member.assignment, member.attempt) for member in members]
            await self._episodes.verify_group(members[0].assignment.environment, pairs)
            for member in members:
                self._record(workload, member)
        if self._on_group is not None:
            await self._on_group(self._groups.take(members))

    def _record(self, workload: Workload, member: Member) -> None:
        """Hand a result and its history to the shard; from here on it is only a matter of time until it is durable."""
        for assignment, attempt in member.history:
            self._write(workload, member.ordinal, assignment, attempt, final=False)
        row = self._write(workload, member.ordinal, member.assignment, member.attempt, final=True)
        if self._on_group is not None:
            self._groups.keep(member.assignment, row)
        failure = member.attempt.failure
        if failure is not None:
            self._failures += 1
            log.warning(
                "rollout failed: rollout=%s stage=%s reason=%s: %s",
                member.assignment.rollout_id,
                failure.stage,
                failure.reason,
                failure.message,
            )
            if self._budget_spent():
                self._scheduler.stop()

    def _write(
        self, workload: Workload, ordinal: int, assignment: Assignment, attempt: Attempt, *, final: bool
    ) -> dict[str, Any]:
        info = self._episodes.info(assignment.environment)
        sampled = self._sampled(assignment, attempt, info.agent)
        row, line = _written(assignment, attempt, info, self._run_id)
        now = asyncio.get_running_loop().time()
        workload.shard.record(ordinal, line, attempt, final=final, now=now, sampled=sampled)
        self.progress.totals.count(attempt, final)
        self._metrics.finished(attempt, final)
        return row

    def _sampled(self, assignment: Assignment, attempt: Attempt, agent: str) -> Sampled | None:
        """An attempt's token ids as the run wants them: here for the file beside the part, or in the row's response."""
        if self._settings.tokens == "Samples":
            record = record_of(attempt)
            return Sampled(assignment, attempt, agent, record.samples) if record and record.samples else None
        if attempt.tokens is not None and attempt.response is not None and self._settings.tokens == "Inline":
            attempt.tokens.place(attempt.response["output"])
        return None

    def _budget_spent(self) -> bool:
        settings = self._settings
        allowed = settings.max_failed_fraction * self.progress.expected
        known = self.progress.expected > 0  # of a stream nobody knows how much is to come
        return known and self._failures >= settings.min_failures and self.progress.totals.failed > allowed

    async def _close(self, workload: Workload) -> None:
        """The last result of a shard: commit it and let it go."""
        await self._flush(workload)
        if workload.shard.head.state == "Committed":
            self._open.pop(workload.shard.plan.index, None)

    async def _flush(self, workload: Workload) -> None:
        started = asyncio.get_running_loop().time()
        await workload.shard.flush()
        self._metrics.flushed(asyncio.get_running_loop().time() - started)

    async def _tick(self) -> None:
        """Flush what is old and renew leases. An error ends the run."""
        settings = self._settings
        while True:
            await asyncio.sleep(settings.tick_seconds)
            now = asyncio.get_running_loop().time()
            for workload in list(self._open.values()):
                if workload.shard.needs_flush(now, settings.flush_seconds, settings.flush_bytes):
                    await self._close(workload)
                elif workload.shard.needs_renewal():
                    await workload.shard.renew()

    async def _release(self, ticker: asyncio.Task[None], after: BaseException | None = None) -> None:
        """Flush and give back every shard. The first error is raised after all were tried, unless it came after one."""
        ticker.cancel()
        await asyncio.gather(ticker, return_exceptions=True)
        self._slots = set()
        shards = [workload.shard for workload in self._open.values()]
        self._open.clear()
        results = await asyncio.gather(*(shard.release() for shard in shards), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                if after is None:
                    raise result
                log.warning("after %r a shard could not be given back: %r", after, result)


def _written(
    assignment: Assignment, attempt: Attempt, info: EnvironmentInfo, run_id: str
) -> tuple[dict[str, Any], bytes]:
    """The row of an attempt and its line. What JSON has no word for fails this attempt alone, and is left out."""
    row = build_row(assignment, attempt, info, run_id)
    try:
        return row, encode_row(row)
    except TypeError as error:
        verdict = VerifierError(f"the row cannot be written as JSON: {error}", reason="VerifierInvalidVerdict")
    attempt.outcome, attempt.reward, attempt.failure = "failed", None, verdict.failure(assignment.attempt)
    attempt.fields, attempt.components = {}, {}
    row = build_row(assignment, attempt, info, run_id)
    try:
        return row, encode_row(row)
    except TypeError as error:  # a lone surrogate in a tool's output
        said = AgentError(f"the conversation cannot be written as JSON: {error}", reason="InvalidText")
    attempt.failure = said.failure(assignment.attempt)
    attempt.response, attempt.params, attempt.turns = None, {}, []
    row = build_row(assignment, attempt, info, run_id)
    return row, encode_row(row)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended a task group; the others followed from it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _reasons(totals: Totals) -> str:
    ordered = sorted(totals.failures.items(), key=lambda item: -item[1])
    return ", ".join(f"{reason} {count}" for reason, count in ordered)
