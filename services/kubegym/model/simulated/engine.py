"""The simulated engine in process, and the slots that it and the server share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from kubegym.model.errors import ModelReplyInvalid, ModelUnavailable
from kubegym.model.simulated.answer import Answerer, overloaded
from kubegym.model.simulated.config import SimulatedConfig


class Slots:
    """At most so many requests at work, so many waiting; first come, first served. No tasks: starting is a call.

    Args:
        limit: at work; None: no limit.
        queue: waiting; None: no limit.
    """

    def __init__(self, limit: int | None, queue: int | None) -> None:
        self.running = 0
        self._limit = float("inf") if limit is None else limit
        self._queue = float("inf") if queue is None else queue
        self._waiting: dict[Callable[[], None], None] = {}
        self._held = False

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    def enter(self, start: Callable[[], None]) -> bool:
        """Call ``start`` now or when it is its turn; False when the queue is full."""
        if self.running < self._limit and not self._held:
            self.running += 1
            start()
        elif len(self._waiting) < self._queue:
            self._waiting[start] = None
        else:
            return False
        return True

    def leave(self, start: Callable[[], None]) -> None:
        """The request is done, or gave up; while it waits or after it was started."""
        if start in self._waiting:
            del self._waiting[start]
            return
        self.running -= 1
        self._follow()

    def hold(self, held: bool) -> None:
        """Let nobody in, or let in those who waited."""
        self._held = held
        for _ in range(len(self._waiting)):
            self._follow()

    def _follow(self) -> None:
        if self._waiting and self.running < self._limit and not self._held:
            following = next(iter(self._waiting))
            del self._waiting[following]
            self.running += 1
            following()


class SimulatedEngine:
    """Answers chat completions in this process, by the same rules as the server.

    Args:
        config: what it does.

    Attributes:
        name: the model's.
        context_tokens: its context window; None: it has no limit.
    """

    def __init__(self, config: SimulatedConfig | None = None) -> None:
        self.config = config or SimulatedConfig()
        self.name = self.config.model
        self.context_tokens = self.config.context_window
        self._answerer = Answerer(self.config)
        self._slots = Slots(self.config.max_concurrency, self.config.max_queue)
        self._closed = False

    async def chat(self, body: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Answer a chat completion, or an ``error`` object with the HTTP status as its ``code``.

        Raises:
            TimeoutError: no answer in ``timeout`` seconds, queue included.
            ConnectionResetError: a simulated disconnect.
            ModelReplyInvalid: a simulated page in HTML.
            ModelUnavailable: the engine is closed.
        """
        if self._closed:
            raise ModelUnavailable("the simulated engine is closed", retryable=False)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def start() -> None:
            if not turn.done():
                turn.set_result(None)

        if not self._slots.enter(start):
            return overloaded().reply
        try:
            async with asyncio.timeout(timeout):
                await turn
                return await self._work(body)
        finally:
            self._slots.leave(start)

    async def _work(self, body: dict[str, Any]) -> dict[str, Any]:
        plan = self._answerer.plan(body, int(time.time()))
        if plan.fault == "hang":
            await asyncio.get_running_loop().create_future()  # The caller's timeout ends it.
        if plan.total > 0:
            await asyncio.sleep(plan.total)
        if plan.fault == "disconnect":
            raise ConnectionResetError("simulated disconnect")
        if plan.fault == "html":
            raise ModelReplyInvalid("simulated: a page in HTML instead of a completion", retryable=True)
        return plan.reply

    def close(self) -> None:
        """Refuse further requests. May be called twice."""
        self._closed = True
