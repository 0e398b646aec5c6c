"""Noticing that the client of a request is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]
"""ASGI's channel from the server to the application."""


PATIENCE = 0.02
"""Seconds before a client is watched: what is over sooner is not worth watching."""


class ClientGone(Exception):
    """The client closed its connection before it had its answer. Nobody is left to answer."""


class WhileConnected:
    """``async with``: cancels the block when the client goes away, and raises ClientGone then.

    For work worth stopping, such as a generation that nobody will read. Costs a task, but only where the block takes
    longer than ``PATIENCE``.
    """

    __slots__ = ("_gone", "_receive", "_task", "_timer", "_watch")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watch: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._begin)

    def _begin(self) -> None:
        self._watch = asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if not self._gone:
            return
        remaining = self._task.uncancel()
        if kind is None:  # It ended just before; the cancellation is still to come.
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                if remaining:
                    raise
        elif kind is not asyncio.CancelledError or remaining:
            return  # an error of its own, or others want the task to end, too
        raise ClientGone from None
