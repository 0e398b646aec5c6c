"""uvicorn's HTTP protocol with a bound on a request's head, which it lacks: nobody may fill our memory with one.

And with a reply's head written together with the beginning of its body: one system call and one packet less.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_BYTES = 128 << 10
"""Of request line and headers, beyond the first read; far above what cookies and tokens need."""


class BoundedHead(HttpToolsProtocol):
    """Refuses a head that does not end, by size with 400, by time by closing (as an idle connection)."""

    _in_head = False
    _head_bytes = 0

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """It ends."""
        self._in_head = False
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # A reply to HEAD has no body; whoever waits for 100 is written to before.
        if not cycle.waiting_for_100_continue and cycle.scope["method"] != "HEAD":
            cycle.transport = _HeadFirst(cycle)
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        """Parse; most requests come whole, so that the checks cost next to nothing."""
        if not self._in_head:
            super().data_received(data)
        else:
            # Counted before it is parsed: a head of which one piece after the other comes grows by that piece.
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.send_400_response("The request's head is too large.")
                return
            super().data_received(data)
        if self._in_head and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )


class _HeadFirst(asyncio.Transport):
    """A cycle's transport until its reply has begun: keeps the head for what follows it."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._transport = cycle.transport
        self._head: bytes | None = None

    def write(self, data: Any) -> None:
        """The head, then the first of the body."""
        if self._head is None:
            self._head = data
        else:
            self._cycle.transport = self._transport
            self._transport.write(self._head + data)

    def close(self) -> None:
        """The reply broke off with its head at most."""
        self._cycle.transport = self._transport
        if self._head is not None:
            self._transport.write(self._head)
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection ends."""
        return self._transport.is_closing()
