"""A store that misbehaves on purpose, for tests and chaos runs of whatever rests on a store.

``FaultyStore`` wraps another store and asks a schedule before every operation whether it goes wrong. ``Script`` names
single operations; ``RandomFaults`` draws them from a seed. Both give the same faults to the same sequence of calls.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Protocol, TypeVar

from kubegym.core.errors import StoreError
from kubegym.storage.protocol import ObjectStore, ObjectWriter, Stored

T = TypeVar("T")

READS = frozenset({"get", "get_range", "list"})
WRITES = frozenset({"put", "create", "swap", "delete", "writer"})


class Fault(StrEnum):
    """What goes wrong with one operation."""

    LOSE_REQUEST = "lose-request"
    """The store never hears of it (refused, throttled, lost on the way); the caller gets a retryable StoreError."""
    LOSE_REPLY = "lose-reply"
    """It takes effect, and the caller gets a retryable StoreError."""
    REPEAT = "repeat"
    """It is delivered twice, and the caller gets the second answer: a create or swap conflicts with itself."""
    REPEAT_LATE = "repeat-late"
    """The caller gets the first answer; the same write arrives once more ``seconds`` later."""
    DELAY = "delay"
    """It takes ``seconds`` longer to reach the store."""
    CRASH_BEFORE = "crash-before"
    """The caller dies before the store hears of it."""
    CRASH_AFTER = "crash-after"
    """It takes effect, and the caller dies before it learns."""


@dataclass(frozen=True, slots=True)
class Injected:
    """One fault for one operation; ``seconds`` for those that take time."""

    fault: Fault
    seconds: float = 0.0


class Schedule(Protocol):
    """Decides which operations go wrong, asked once for each in order."""

    def next(self, operation: str, key: str) -> Injected | None:
        """The fault for this operation; None to let it be."""
        ...


@dataclass(slots=True)
class Rule:
    """The ``nth`` to ``nth + times - 1``-th operation (counted from 1) that matches goes wrong.

    Attributes:
        fault: what happens to it.
        key: a shell pattern (``shards/*/head.json``; ``*`` also matches ``/``).
        operations: method names of ``ObjectStore``.
        seconds: for DELAY and REPEAT_LATE.
    """

    fault: Fault
    key: str = "*"
    operations: frozenset[str] = WRITES
    nth: int = 1
    times: int = 1
    seconds: float = 0.0
    seen: int = field(default=0, init=False)

    def applies(self, operation: str, key: str) -> bool:
        """Count the operation if it matches, and say whether its turn has come."""
        if operation not in self.operations or not fnmatchcase(key, self.key):
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


class Script:
    """Faults at named operations. Every rule counts every operation; where several apply the first wins."""

    def __init__(self, *rules: Rule) -> None:
        self._rules = rules

    def next(self, operation: str, key: str) -> Injected | None:
        """See ``Schedule.next``."""
        applying = [rule for rule in self._rules if rule.applies(operation, key)]
        return Injected(applying[0].fault, applying[0].seconds) if applying else None


class RandomFaults:
    """Faults drawn from a seed.

    Args:
        seed: the same seed and sequence of calls give the same faults.
        rates: probability of each fault, for any one operation; their sum is at most 1.
        seconds: longest DELAY and REPEAT_LATE; drawn uniformly.
        operations: which may go wrong.
    """

    def __init__(
        self,
        seed: int,
        rates: Mapping[Fault, float],
        *,
        seconds: float = 1.0,
        operations: frozenset[str] = READS | WRITES,
    ) -> None:
        if sum(rates.values()) > 1.0 + 1e-9 or any(rate < 0 for rate in rates.values()):
            raise ValueError(f"rates are probabilities of one draw, not {dict(rates)}")
        self._rng = random.Random(seed)
        self._rates: Sequence[tuple[Fault, float]] = sorted(rates.items())
        self._seconds = seconds
        self._operations = operations

    def next(self, operation: str, key: str) -> Injected | None:
        """See ``Schedule.next``."""
        drawn, seconds = self._rng.random(), self._rng.random() * self._seconds  # always both: the sequence stays put
        if operation not in self._operations:
            return None
        for fault, rate in self._rates:
            if drawn < rate:
                return Injected(fault, seconds)
            drawn -= rate
        return None


class SimulatedCrash(BaseException):
    """The process is to be taken for dead. Not an Exception, so that no handler carries on."""


def _crash() -> None:
    raise SimulatedCrash


class FaultyStore:
    """A client's view of ``inner``, with faults in between.

    One FaultyStore stands for one process's connection: after a crash every further call of it crashes, too, as a dead
    process asks for nothing, while what was under way towards the store (a late repeat) still arrives.

    Reads cannot be repeated; REPEAT and REPEAT_LATE leave them as they are. A writer's fault strikes when the finished
    object is put in place.

    Args:
        inner: the store that has the objects.
        schedule: which operations go wrong.
        crash: called at a crash point; raises (SimulatedCrash by default) or ends the process.

    Attributes:
        log: the operations asked for so far, as (method name, key): its length numbers the crash points of a run.
    """

    def __init__(self, inner: ObjectStore, schedule: Schedule, *, crash: Callable[[], None] = _crash) -> None:
        self.url = inner.url
        self.log: list[tuple[str, str]] = []
        self._inner = inner
        self._schedule = schedule
        self._crash = crash
        self._dead = False
        self._late: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"FaultyStore({self._inner!r})"

    async def get(self, key: str) -> Stored | None:
        """See ``ObjectStore.get``."""
        return await self._run("get", key, lambda: self._inner.get(key))

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """See ``ObjectStore.get_range``."""
        return await self._run("get_range", key, lambda: self._inner.get_range(key, start, length))

    async def put(self, key: str, data: bytes) -> str:
        """See ``ObjectStore.put``."""
        return await self._run("put", key, lambda: self._inner.put(key, data))

    async def create(self, key: str, data: bytes) -> str:
        """See ``ObjectStore.create``."""
        return await self._run("create", key, lambda: self._inner.create(key, data))

    async def swap(self, key: str, data: bytes, etag: str) -> str:
        """See ``ObjectStore.swap``."""
        return await self._run("swap", key, lambda: self._inner.swap(key, data, etag))

    async def delete(self, key: str) -> None:
        """See ``ObjectStore.delete``."""
        await self._run("delete", key, lambda: self._inner.delete(key))

    async def list(self, prefix: str = "") -> AsyncIterator[str]:
        """See ``ObjectStore.list``. A fault strikes before the first key."""

        async def collect() -> list[str]:
            return [key async for key in self._inner.list(prefix)]

        for key in await self._run("list", prefix, collect):
            yield key

    @asynccontextmanager
    async def writer(self, key: str) -> AsyncIterator[ObjectWriter]:
        """See ``ObjectStore.writer``. Holds the object in memory until it is put in place."""
        pieces = _Pieces()
        yield pieces
        await self._run("writer", key, lambda: self._publish(key, pieces.data))

    async def close(self) -> None:
        """Deliver what is still on its way, then close the inner store."""
        while self._late:
            await asyncio.wait(self._late)
        await self._inner.close()

    async def _publish(self, key: str, data: Sequence[bytes]) -> None:
        async with self._inner.writer(key) as writer:
            for piece in data:
                await writer.write(piece)

    async def _run(self, operation: str, key: str, act: Callable[[], Awaitable[T]]) -> T:
        if self._dead:
            self._crash()
        self.log.append((operation, key))
        injected = self._schedule.next(operation, key)
        if injected is None:
            return await act()
        fault = injected.fault
        if fault is Fault.CRASH_BEFORE:
            self._die()
        if fault is Fault.LOSE_REQUEST:
            raise StoreError(f"injected: {operation} {key} did not reach the store")
        if fault is Fault.DELAY:
            await asyncio.sleep(injected.seconds)
        if fault is Fault.REPEAT_LATE and operation in WRITES:
            self._repeat_later(injected.seconds, act)
        try:
            result = await act()
            if fault is Fault.REPEAT and operation in WRITES:
                result = await act()
        except StoreError:
            if fault is not Fault.LOSE_REPLY and fault is not Fault.CRASH_AFTER:
                raise  # a refusal is an answer, too, and those two lose it
        if fault is Fault.CRASH_AFTER:
            self._die()
        if fault is Fault.LOSE_REPLY:
            raise StoreError(f"injected: the answer to {operation} {key} was lost")
        return result

    def _die(self) -> None:
        self._dead = True
        self._crash()
        raise SimulatedCrash("the crash callback returned")

    def _repeat_later(self, seconds: float, act: Callable[[], Awaitable[object]]) -> None:
        async def repeat() -> None:
            await asyncio.sleep(seconds)
            with suppress(StoreError):  # nobody waits for this answer
                await act()

        task = asyncio.create_task(repeat())
        self._late.add(task)
        task.add_done_callback(self._late.discard)


class _Pieces:
    def __init__(self) -> None:
        self.data: list[bytes] = []

    async def write(self, data: bytes) -> None:
        self.data.append(bytes(data))
