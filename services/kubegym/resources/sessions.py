"""The sessions that a resources server has: where they are, how long they live, who waits for whom."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from kubegym.core.errors import AgentError
from kubegym.core.messages import Item
from kubegym.core.protocols import Assignment
from kubegym.core.usage import add_response_usage
from kubegym.resources.session import LocalSession

MOST_SESSIONS = 65_536
"""Live sessions of one process."""

MOST_FINISHED = 4_096
"""Verdicts kept for a repeated ``/verify``, and bytes of them."""
MOST_FINISHED_BYTES = 64 << 20

MOST_STEPS = 64
"""Answers kept for repeated ``/step`` requests, of one session."""

SWEEP_SECONDS = 10.0


class Turnstile:
    """Calls of one session: exclusive ones run alone, shared ones beside each other, in order of arrival."""

    __slots__ = ("_drained", "_lock", "_shared")

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._shared = 0
        self._drained: asyncio.Future[None] | None = None

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Nothing else runs inside of the block."""
        async with self._lock:
            if self._shared:
                self._drained = asyncio.get_running_loop().create_future()
                await self._drained
            yield

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Others that share may run inside of the block."""
        async with self._lock:
            self._shared += 1
        try:
            yield
        finally:
            self._shared -= 1
            if not self._shared and self._drained is not None and not self._drained.done():
                self._drained.set_result(None)


@dataclass(slots=True)
class Conversation:
    """What a session remembers for callers of ``/step`` that never call ``/verify`` (contract 1.6).

    Attributes:
        input: items that the policy was first given.
        output: everything after.
        response: the last model call's Responses object.
        usage: the sum of all calls'.
    """

    input: list[Item]
    output: list[Item]
    response: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None

    def add(self, response: dict[str, Any]) -> None:
        """A model call was made."""
        self.output += response["output"]
        self.response = response
        self.usage = add_response_usage(self.usage, response.get("usage"))


class ServedSession:
    """One session.

    Attributes:
        id: its name, within this process.
        assignment: what the caller said about its rollout.
        local: the environment.
        idle_seconds: how long it lives without a request.
        expires: when it is over, unless somebody calls; by the table's clock.
        bucket: where the sweeper will find it.
        busy: requests in it now.
        closed: it is over; who waited for it must not go on.
        running: the requests at work in it; those that ``interrupt`` has told to stop are False.
        turnstile: see ``Turnstile``.
        replies: replies of the environment so far (``Turn.index``).
        steps: answers of ``/step`` by request id.
        conversation: of callers that never verify; None for all others.
    """

    __slots__ = (
        "assignment",
        "bucket",
        "busy",
        "closed",
        "conversation",
        "expires",
        "id",
        "idle_seconds",
        "local",
        "replies",
        "running",
        "steps",
        "turnstile",
    )

    def __init__(self, session_id: bytes, assignment: Assignment, local: LocalSession, idle_seconds: float) -> None:
        self.id = session_id
        self.assignment = assignment
        self.local = local
        self.idle_seconds = idle_seconds
        self.expires = 0.0
        self.bucket = 0
        self.busy = 0
        self.closed = False
        self.running: dict[asyncio.Task[object], bool] = {}
        self.turnstile = Turnstile()
        self.replies = 0
        self.steps: dict[str, bytes] = {}
        self.conversation: Conversation | None = None

    def interrupt(self) -> None:
        """Stop the requests at work in it; they fail as "SessionLost"."""
        for task in self.running:
            self.running[task] = False
            task.cancel()

    def remember_step(self, request_id: str, answer: bytes) -> None:
        """Keep an answer for who asks again."""
        if len(self.steps) >= MOST_STEPS:
            del self.steps[next(iter(self.steps))]
        self.steps[request_id] = answer


@dataclass(frozen=True, slots=True)
class Finished:
    """A session that has its verdict: which request got it, and what was answered."""

    request: int
    answer: bytes


class SessionTable:
    """All live sessions of a process, and the last verdicts.

    A request costs the same however many sessions there are: it only notes a new time of expiry. Sessions stand in
    buckets by the time they were to expire when the sweeper last looked; those that were used since move on then.

    Args:
        clock: seconds, monotonic.
        most: live sessions; more are refused.
        most_finished: verdicts kept.
        most_finished_bytes: bytes of verdicts kept.
        sweep_seconds: width of a bucket; a session may live that much longer than it must.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        most: int = MOST_SESSIONS,
        most_finished: int = MOST_FINISHED,
        most_finished_bytes: int = MOST_FINISHED_BYTES,
        sweep_seconds: float = SWEEP_SECONDS,
    ) -> None:
        self._clock = clock
        self._most = most
        self._most_finished = most_finished
        self._most_finished_bytes = most_finished_bytes
        self._width = sweep_seconds
        self._live: dict[bytes, ServedSession] = {}
        self._buckets: dict[int, dict[bytes, ServedSession]] = {}
        self._swept = math.floor(clock() / sweep_seconds)
        self._finished: OrderedDict[bytes, Finished] = OrderedDict()
        self._finished_bytes = 0

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[ServedSession]:
        return iter(list(self._live.values()))

    def add(self, session: ServedSession) -> None:
        """Begin a session's life. Raises AgentError "TooManySessions"."""
        if len(self._live) >= self._most:
            raise AgentError(
                f"the server has {self._most} sessions, as many as it may", reason="TooManySessions", retryable=True
            )
        self._live[session.id] = session
        session.expires = self._clock() + session.idle_seconds
        self._place(session)

    def get(self, session_id: bytes) -> ServedSession | None:
        """A live session."""
        return self._live.get(session_id)

    @asynccontextmanager
    async def using(self, session: ServedSession, *, alone: bool = True) -> AsyncIterator[None]:
        """Run a request in a session; it does not expire meanwhile. Raises AgentError "SessionLost"."""
        task = asyncio.current_task()
        assert task is not None
        session.busy += 1
        try:
            async with session.turnstile.exclusive() if alone else session.turnstile.shared():
                if session.closed:
                    raise session_lost("the session is over")
                session.running[task] = True
                try:
                    yield
                except asyncio.CancelledError:
                    if session.running[task]:
                        raise
                    task.uncancel()
                    raise session_lost("the session was closed") from None
                finally:
                    del session.running[task]
        finally:
            session.busy -= 1
            session.expires = self._clock() + session.idle_seconds

    def remove(self, session: ServedSession) -> bool:
        """End a session's life; whether it was alive."""
        session.closed = True
        if self._live.pop(session.id, None) is None:
            return False
        bucket = self._buckets.get(session.bucket)
        if bucket is not None and bucket.pop(session.id, None) is not None and not bucket:
            del self._buckets[session.bucket]
        return True

    def finish(self, session: ServedSession, finished: Finished) -> None:
        """End a session's life with a verdict, which is kept for a while."""
        self.remove(session)
        self._finished[session.id] = finished
        self._finished_bytes += len(finished.answer)
        while len(self._finished) > self._most_finished or self._finished_bytes > self._most_finished_bytes:
            _, oldest = self._finished.popitem(last=False)
            self._finished_bytes -= len(oldest.answer)

    def verdict(self, session_id: bytes) -> Finished | None:
        """The verdict of a session that has ended with one."""
        return self._finished.get(session_id)

    def sweep(self) -> list[ServedSession]:
        """Remove the sessions that have expired, and return them."""
        now = self._clock()
        expired = []
        last = math.floor(now / self._width)
        for bucket in range(self._swept, last):
            for session in self._buckets.pop(bucket, {}).values():
                if session.busy:
                    session.expires = now + session.idle_seconds
                if session.expires <= now:
                    self.remove(session)
                    expired.append(session)
                else:
                    self._place(session, last)
        self._swept = last
        return expired

    def _place(self, session: ServedSession, earliest: int = 0) -> None:
        session.bucket = max(math.floor(session.expires / self._width), earliest)
        self._buckets.setdefault(session.bucket, {})[session.id] = session


def session_lost(why: str) -> AgentError:
    """The attempt's failure when its session is not to be had; another attempt may have better luck."""
    return AgentError(why, reason="SessionLost", retryable=True)
