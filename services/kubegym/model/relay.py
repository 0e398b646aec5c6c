"""A stream on its way through: broken where it breaks, and never ended as if it were whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AsyncExitStack

from kubegym.http import HttpError, StreamedReply
from kubegym.model.errors import ModelAborted, ModelUnavailable

DONE = b"[DONE]"
_KEPT = 4096
"""Of the last two pieces: the end of the stream, and the usage before it."""
_WORDS = 40
"""Enough for ``"finish_reason": "abort"``."""
_GAVE_UP = re.compile(rb'"finish_reason":\s*"(?:abort|error)"')
_USAGE = {
    "input": re.compile(rb'"prompt_tokens":\s*(\d+)'),
    "output": re.compile(rb'"completion_tokens":\s*(\d+)'),
}

Used = Callable[[int, int], None]
"""Told the input and output tokens of a whole reply."""


class Relay:
    """The pieces of an upstream's reply, as they come.

    Args:
        source: the upstream's reply, whose head is read.
        first: its first piece.
        stack: closes it.
        broke: told that the upstream broke off.
        used: told the tokens, where the stream ends with its usage.
        events: whether it has to end with ``[DONE]``, and to be looked at for generations given up.

    Attributes:
        on_end: told once how it ended: "200", "cut" (the upstream broke off, or gave up), "gone" (the client did).
    """

    __slots__ = (
        *("_before", "_broke", "_events", "_first", "_last", "_outcome", "_source", "_stack", "_used", "on_end"),
    )

    def __init__(
        self,
        source: StreamedReply,
        first: bytes,
        stack: AsyncExitStack,
        *,
        broke: Callable[[], None],
        used: Used | None = None,
        events: bool = True,
    ) -> None:
        self.on_end: Callable[[str], None] | None = None
        self._source = source
        self._first: bytes | None = first
        self._stack = stack
        self._broke = broke
        self._used = used
        self._events = events
        self._outcome = "gone"
        self._before = self._last = b""

    def __aiter__(self) -> Relay:
        return self

    async def __anext__(self) -> bytes:
        """The next piece. Raises HttpError or ModelUnavailable where the upstream broke off or gave up."""
        if self._first is not None:
            piece, self._first = self._first, None
        else:
            try:
                piece = await anext(self._source)
            except StopAsyncIteration:
                self._end()
                raise
            except HttpError:
                self._cut()
                raise
        if self._events and self._given_up(piece):
            self._outcome = "cut"
            raise ModelAborted("the upstream gave the request up within a stream")
        return piece

    def into(self, sink: Callable[[bytes], bool]) -> None:
        """Hand pieces to ``sink`` as soon as they come (``http.server.Reply``)."""

        def checked(piece: bytes) -> bool:
            before, last = self._before, self._last
            if not self._given_up(piece) and sink(piece):
                return True
            self._before, self._last = before, last  # it is looked at again when it is read
            return False

        self._source.sink = checked if self._events else sink

    def _given_up(self, piece: bytes) -> bool:
        """What is given up must not look finished. In what the model says quotes are escaped."""
        last = self._last
        fresh = piece if last[-1:] == b"\n" else last[-_WORDS:] + piece  # the words may come in two pieces
        self._before, self._last = last, piece
        return (b'"abort"' in fresh or b'"error"' in fresh) and _GAVE_UP.search(fresh) is not None

    def _end(self) -> None:
        tail = (self._before + self._last)[-_KEPT:]
        if self._events and DONE not in tail[-len(DONE) * 4 :]:
            self._cut()
            raise ModelUnavailable("the upstream ended a stream before its end") from None
        self._outcome = "200"
        if self._used is not None:
            found = [pattern.findall(tail) for pattern in _USAGE.values()]
            if all(found):
                self._used(int(found[0][-1]), int(found[1][-1]))

    def _cut(self) -> None:
        self._outcome = "cut"
        self._broke()

    async def aclose(self) -> None:
        """Let go of the upstream. May be called twice."""
        await self._stack.aclose()
        told, self.on_end = self.on_end, None
        if told is not None:
            told(self._outcome)
