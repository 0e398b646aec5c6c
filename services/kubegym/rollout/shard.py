"""A claimed shard: its head in the store, and results on their way into it (DESIGN section 6, steps 2 to 4)."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import zstandard

from kubegym.core.clock import Clock
from kubegym.core.errors import OutputInUse, PlanConflict, StoreError
from kubegym.core.protocols import Attempt
from kubegym.core.retry import Backoff
from kubegym.rollout.errors import Fenced
from kubegym.rollout.head import (
    Compression,
    Head,
    Holder,
    Part,
    SamplesFile,
    Totals,
    claimed,
    committed,
    head_key,
    judge_claim,
    part_key,
    released,
    suspects,
)
from kubegym.rollout.holder import is_gone
from kubegym.rollout.plan import ShardPlan
from kubegym.rollout.samples import Sampled, refer, samples_key
from kubegym.rollout.samples import encode as encode_samples
from kubegym.storage.errors import Conflict
from kubegym.storage.protocol import ObjectStore

log = logging.getLogger("kubegym.rollout")

T = TypeVar("T")
_STORE_BACKOFF = Backoff(attempts=8, base=0.2, maximum=10.0)


@dataclass(frozen=True)
class StoreAccess:
    """How this worker writes: the store, who it is, and how patient it is.

    Attributes:
        lease_seconds: how long a claim lasts without a write.
        backoff: of transient store trouble; when it is spent the error is raised and the worker stops.
        conflicted: told of every compare-and-swap that did not take effect plainly.
        gone: whether a holder is known to work no longer.
        compression: of the parts that it writes.
    """

    store: ObjectStore
    holder: Holder
    clock: Clock
    lease_seconds: float = 60.0
    backoff: Backoff = _STORE_BACKOFF
    rng: random.Random = field(default_factory=random.Random)
    conflicted: Callable[[], None] = lambda: None
    gone: Callable[[Holder], bool] = is_gone
    compression: Compression = "zstd"
    compressor: zstandard.ZstdCompressor = field(default_factory=lambda: zstandard.ZstdCompressor(level=3), repr=False)

    def encode(self, rows: bytes) -> bytes:
        """A part's bytes. One compressor for all: making one costs more than a part."""
        return self.compressor.compress(rows) if self.compression == "zstd" else rows

    def lease(self) -> float:
        """When a lease taken now ends."""
        return self.clock.time() + self.lease_seconds

    async def retrying(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run an idempotent store operation, trying transient trouble again."""
        failures = 0
        while True:
            try:
                return await operation()
            except StoreError as error:
                failures += 1
                if not error.retryable or failures >= self.backoff.attempts:
                    raise
                await asyncio.sleep(self.backoff.delay(failures, self.rng))

    async def write_head(self, head: Head, etag: str | None) -> str:
        """Compare-and-swap a head (``etag`` None: create it). The new ETag.

        After a conflict or an unclear error the head is read again: the swap took effect if the nonce is ours.

        Raises:
            Fenced: the store holds somebody else's head.
            StoreError: the store stayed unreachable.
        """
        key, body = head_key(head.shard), head.to_json()
        failures = 0
        while True:
            try:
                if etag is None:
                    return await self.store.create(key, body)
                return await self.store.swap(key, body, etag)
            except StoreError as error:
                failures += 1
                self.conflicted()
                conflict = isinstance(error, Conflict)
                if not conflict and (not error.retryable or failures >= self.backoff.attempts):
                    raise
            stored = await self.retrying(lambda: self.store.get(key))
            if stored is not None and stored.etag != etag and Head.from_json(stored.data).nonce == head.nonce:
                return stored.etag
            if conflict or (stored.etag if stored else None) != etag:
                raise Fenced(f"shard {head.shard} was taken over while epoch {head.epoch} was being written")
            await asyncio.sleep(self.backoff.delay(failures, self.rng))


def fresh_nonce() -> str:
    """What makes a head unlike every other."""
    return uuid.uuid4().hex


async def _uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Await the work to its end also when the awaiting task is cancelled meanwhile; the cancellation goes on then.

    A stop cancels slots wherever they are. A write that was given up half-way may still take effect: its rows would
    be gone from memory, and the next write of the head would look as if another worker had taken the shard.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.cancelled():
            await asyncio.wait({task})
            if (error := task.exception()) is not None:
                log.warning("a write that a stop had to wait for failed: %s", error)
        raise


@dataclass(slots=True)
class _Pending:
    """Results not yet durable."""

    lines: list[bytes] = field(default_factory=list)
    sampled: list[Sampled | None] = field(default_factory=list)
    size: int = 0
    settled: list[int] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    since: float = 0.0

    def before(self, later: _Pending) -> _Pending:
        """These and, behind them, later ones."""
        return _Pending(
            self.lines + later.lines,
            self.sampled + later.sampled,
            self.size + later.size,
            self.settled + later.settled,
            self.totals + later.totals,
            self.since,
        )


class OpenShard:
    """A shard this worker holds.

    ``record`` takes results; ``flush`` makes them durable: an immutable part, then the head that names it. One flush
    runs at a time. A result leaves memory when the head that names its part is written.
    """

    def __init__(self, access: StoreAccess, plan: ShardPlan, head: Head, etag: str, suspected: list[int]) -> None:
        self.plan = plan
        self.suspects = suspected
        self._access = access
        self._head = head
        self._etag = etag
        self._lock = asyncio.Lock()
        self._pending = _Pending()
        self._part_number = 0
        self._left = sum(1 for _ in head.remaining())

    @property
    def head(self) -> Head:
        """The head as last written."""
        return self._head

    @property
    def settled_all(self) -> bool:
        """Whether every planned rollout has a result, durable or pending."""
        return self._left == 0

    @property
    def pending_bytes(self) -> int:
        """Bytes waiting for a flush."""
        return self._pending.size

    def needs_flush(self, now: float, seconds: float, size: int) -> bool:
        """Whether results are due: the shard is done, or they are ``seconds`` old, or ``size`` bytes."""
        pending = self._pending
        if not pending.lines:
            return False
        return self._left == 0 or pending.size >= size or now - pending.since >= seconds

    def needs_renewal(self) -> bool:
        """Whether a third of the lease has gone by since the last write."""
        left = self._head.lease_expires - self._access.clock.time()
        return self._head.state == "Claimed" and left < self._access.lease_seconds * 2 / 3

    def record(
        self,
        ordinal: int,
        line: bytes,
        attempt: Attempt,
        *,
        final: bool,
        now: float,
        sampled: Sampled | None = None,
    ) -> None:
        """Take the row of an attempt; ``final`` settles the ordinal, otherwise it is history of a retried one.

        ``sampled`` are its token ids, where they are kept; the row then says where (``samples_ref``).
        """
        pending = self._pending
        if not pending.lines:
            pending.since = now
        pending.lines.append(line)
        pending.sampled.append(sampled)
        pending.size += len(line) + (sampled.size if sampled is not None else 0)
        if final:
            pending.settled.append(ordinal)
            self._left -= 1
        pending.totals.count(attempt, final)

    async def raise_ceiling(self, ordinal: int, step: int) -> None:
        """Say, durably, that ``ordinal`` may be in flight, and so many after it."""
        await _uninterrupted(self._raise_ceiling(ordinal, step))

    async def renew(self) -> None:
        """Extend the lease."""
        await _uninterrupted(self._renew())

    async def flush(self) -> None:
        """Make everything recorded so far durable."""
        await _uninterrupted(self._flush())

    async def _raise_ceiling(self, ordinal: int, step: int) -> None:
        async with self._lock:
            if ordinal >= self._head.ceiling:  # else another slot's write, waited for just now, covers it
                await self._commit(None, [], Totals(), min(self._head.size, ordinal + step))

    async def _renew(self) -> None:
        async with self._lock:
            if self._head.state == "Claimed":  # else the flush waited for was the last
                await self._commit(None, [], Totals())

    async def _flush(self) -> None:
        async with self._lock:
            if not self._pending.lines:
                return
            batch, self._pending = self._pending, _Pending()
            key = part_key(self.plan.index, self._head.epoch, self._part_number, self._access.compression)
            self._part_number += 1
            try:
                lines, samples = await self._put_samples(key, batch)
                body = self._access.encode(b"".join(lines))
                await self._access.retrying(lambda: self._access.store.put(key, body))
            except BaseException:
                self._pending = batch.before(self._pending)  # nothing names the part: whoever flushes next tries again
                raise
            part = Part(key, len(lines), len(body), _sha256(body), self._head.generation, samples)
            await self._commit(part, batch.settled, batch.totals)

    async def _put_samples(self, part: str, batch: _Pending) -> tuple[list[bytes], SamplesFile | None]:
        """Write the file beside a part, if there is anything for it; the lines, which then say where."""
        sampled = [one for one in batch.sampled if one is not None]
        if not sampled:
            return batch.lines, None
        key, body = samples_key(part), encode_samples(sampled)
        await self._access.retrying(lambda: self._access.store.put(key, body))
        lines, first = [], 0
        for line, one in zip(batch.lines, batch.sampled, strict=True):
            count = len(one.samples) if one is not None else 0
            lines.append(refer(line, key, first, count) if count else line)
            first += count
        return lines, SamplesFile(first, len(body), _sha256(body))

    async def release(self) -> None:
        """Flush and give the shard back, unless it is committed."""
        await self.flush()
        async with self._lock:
            if self._head.state == "Claimed":
                head = released(self._head, fresh_nonce())
                self._etag = await self._access.write_head(head, self._etag)
                self._head = head

    async def _commit(self, part: Part | None, settled: list[int], totals: Totals, ceiling: int | None = None) -> None:
        head = committed(
            self._head,
            part=part,
            settled=settled,
            totals=totals,
            nonce=fresh_nonce(),
            lease_expires=self._access.lease(),
            ceiling=ceiling,
        )
        self._etag = await self._access.write_head(head, self._etag)
        self._head = head


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def require_own(head: Head, run_id: str, output: str) -> None:
    """Raise PlanConflict if a head is left over from another run: its parts must not count as this run's."""
    if head.run_id != run_id:
        raise PlanConflict(output, {f"run_id of {head_key(head.shard)}": (head.run_id, run_id)})


async def claim_shard(
    access: StoreAccess,
    plan: ShardPlan,
    *,
    run_id: str,
    generation: int,
    ceiling: int,
    expect_absent: bool = False,
    retried: Callable[[ShardPlan], dict[str, int]] | None = None,
) -> OpenShard | None:
    """Try to claim a shard. None where it is done, or another worker of ours has it.

    Args:
        access: the store and who claims.
        plan: the shard.
        run_id: the run's id.
        generation: the generation worked on.
        ceiling: see ``Head.ceiling``.
        expect_absent: try to create the head first, which saves a read on a fresh run.
        retried: failed rollouts, by reason, that a retry generation runs again in this shard.

    Raises:
        OutputInUse: another live holder has it.
        PlanConflict: the head belongs to another run, whose plan is gone.
        StoreError: the store stayed unreachable.
    """
    head: Head | None = None
    etag: str | None = None
    while True:
        if not expect_absent:
            stored = await access.retrying(lambda: access.store.get(head_key(plan.index)))
            head, etag = (Head.from_json(stored.data), stored.etag) if stored else (None, None)
        expect_absent = False
        if head is not None:
            require_own(head, run_id, access.store.url)
        gone = head is not None and access.gone(head.holder)
        judgement = judge_claim(head, generation, access.holder, access.clock.time(), gone)
        if judgement == "in_use" and head is not None:
            raise OutputInUse(
                f"{access.store.url} is in use: shard {plan.index} is held by {head.holder.id} "
                f"(worker {head.holder.worker}) for another {head.lease_expires - access.clock.time():.0f} s. "
                "Wait for it to end, or use another output."
            )
        if judgement != "take":
            return None
        suspected = suspects(head) if head is not None and head.generation == generation else []
        mine = claimed(
            head,
            run_id=run_id,
            shard=plan.index,
            generation=generation,
            size=plan.size,
            holder=access.holder,
            nonce=fresh_nonce(),
            lease_expires=access.lease(),
            ceiling=ceiling,
            retried=retried(plan) if retried else None,
        )
        try:
            etag = await access.write_head(mine, etag)
        except Fenced:
            head, etag = None, None
            continue  # somebody was faster: look who
        return OpenShard(access, plan, mine, etag, suspected)
