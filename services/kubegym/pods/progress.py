"""``/progress``: how far the run is, from the shard heads, and how far this worker is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from kubegym.core.clock import Clock
from kubegym.core.errors import StoreError
from kubegym.http.server import Problem, Reply, Request
from kubegym.rollout import BatchRun, Plan
from kubegym.rollout.head import Totals
from kubegym.rollout.reader import read_heads
from kubegym.storage.protocol import ObjectStore

FRESH_SECONDS = 2.0
"""How old an answer may be."""

ANSWER_SECONDS = 1.5
"""How long an answer may take; the heads are read on for the next one."""

_WINDOW_SECONDS = 300.0
_MOST_REASONS = 64
_REASON_CHARACTERS = 64


class RunProgress:
    """The whole run, as its heads tell. Heads of committed shards are read once.

    Args:
        store: of the run.
        plan: the generation worked on.
        clock: for time stamps.
    """

    def __init__(self, store: ObjectStore, plan: Plan, clock: Clock) -> None:
        self._store = store
        self._plan = plan
        self._clock = clock
        self._left = [shard.index for shard in plan.work()]
        self._shards = len(self._left)
        self._committed = Totals()
        self._samples: deque[tuple[float, int]] = deque()
        self._last_progress = plan.created
        self._answer: dict[str, Any] | None = None
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def answer(self) -> dict[str, Any]:
        """The newest figures that can be had in ``ANSWER_SECONDS``. Raises StoreError where there are none yet."""
        now = asyncio.get_running_loop().time()
        if now - self._read_at >= FRESH_SECONDS and (self._reading is None or self._reading.done()):
            self._reading = asyncio.create_task(self._read(), name="progress")
        if self._reading is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await asyncio.shield(self._reading)
        if self._answer is None:
            raise StoreError("the shard heads have not been read yet")
        return self._answer

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        try:
            heads = await read_heads(self._store, self._left)
        except StoreError:
            if self._answer is None:
                raise
            return  # the last figures have their time stamp
        generation = self._plan.generation
        totals = self._committed
        active, done = 0, set()
        for index, head in heads.items():
            if head.run_id != self._plan.run_id:
                continue
            totals = totals + head.totals
            if head.generation == generation and head.state == "Committed":
                self._committed = self._committed + head.totals
                done.add(index)
            active += head.state == "Claimed"
        self._left = [index for index in self._left if index not in done]
        self._note(totals.settled)
        self._answer = {
            "planDigest": self._plan.digest,
            "shards": {"total": self._shards, "committed": self._shards - len(self._left), "active": active},
            **figures(totals, self._plan.planned),
            "throughput": decimal(self._rate()),
            "lastProgressTime": timestamp(self._last_progress),
        }
        self._read_at = asyncio.get_running_loop().time()

    def _note(self, settled: int) -> None:
        now = time.monotonic()
        if settled and (not self._samples or settled > self._samples[-1][1]):
            self._last_progress = self._clock.time()
        self._samples.append((now, settled))
        while len(self._samples) > 2 and now - self._samples[1][0] >= _WINDOW_SECONDS:
            self._samples.popleft()

    def _rate(self) -> float:
        """Rollouts a second, since some minutes."""
        (first, before), (last, settled) = self._samples[0], self._samples[-1]
        return (settled - before) / (last - first) if last > first else 0.0


class Progress:
    """The route: ``?scope=run`` (the default) or ``?scope=worker``. Tells nothing before there is a plan."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._batch: BatchRun | None = None
        self._concurrency = 0
        self.run: RunProgress | None = None

    def began(self, run: RunProgress) -> None:
        """There is a plan."""
        self.run = run

    def works(self, batch: BatchRun, concurrency: int) -> None:
        """This worker works on it, so many rollouts at a time."""
        self._batch, self._concurrency = batch, concurrency

    async def handle(self, request: Request) -> Reply:
        """Answer ``GET /progress``."""
        scope = request.parameters().get("scope", "run")
        if scope == "worker":
            return Reply.json(self._of_worker())
        if scope != "run":
            raise Problem.invalid(["query", "scope"], "must be run or worker")
        if self.run is None:
            raise Problem(503, "there is no plan yet", [(b"retry-after", b"2")])
        try:
            return Reply.json(await self.run.answer())
        except StoreError as error:
            raise Problem(503, error.message, [(b"retry-after", b"2")]) from error

    def _of_worker(self) -> dict[str, Any]:
        if self._batch is None:
            return {"worker": self._worker, "inFlight": 0, "concurrency": 0}
        progress = self._batch.progress
        return {
            "worker": self._worker,
            "inFlight": progress.in_flight,
            "concurrency": self._concurrency,
            "retries": progress.retries,
            **figures(progress.totals, progress.expected),
        }


def figures(totals: Totals, expected: int) -> dict[str, Any]:
    """What has come of the rollouts, as the operator shows it: counts, fractions as strings."""
    mean = totals.reward / totals.scored if totals.scored else None
    return {
        "rollouts": {
            "expected": expected,
            "scored": totals.scored,
            "unscored": totals.unscored,
            "failed": totals.failed,
        },
        "failures": most_frequent(totals.failures),
        "rewardMean": None if mean is None else decimal(mean),
        "tokens": {"input": totals.input_tokens, "output": totals.output_tokens},
    }


def most_frequent(failures: Mapping[str, int], most: int = _MOST_REASONS) -> dict[str, int]:
    """Failures by reason, the rarest summed up as ``Other`` where there are many."""
    ordered = sorted(failures.items(), key=lambda item: (-item[1], item[0]))
    kept: dict[str, int] = {}
    for reason, count in ordered[:most]:
        name = reason[:_REASON_CHARACTERS]
        kept[name] = kept.get(name, 0) + count
    if rest := sum(count for _, count in ordered[most:]):
        kept["Other"] = kept.get("Other", 0) + rest
    return kept


def decimal(value: float) -> str:
    """A fraction as a string, as custom resources have it: at most four digits behind the point."""
    text = f"{value:.4f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def timestamp(seconds: float) -> str:
    """RFC 3339, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
