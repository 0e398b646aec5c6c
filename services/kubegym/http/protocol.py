"""uvicorn's HTTP protocol with a bound on a request's head, which it lacks: nobody may fill our memory with one."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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
