"""A reply whose body is read piece by piece while it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from kubegym.http.errors import BodyTooLarge, HttpError

HIGH_WATER = 256 << 10
"""Bytes that may wait for the reader; beyond, the connection is not read until all of them are taken."""


class Source(Protocol):
    """The connection a streamed reply comes from."""

    def pause(self) -> None:
        """Read no more until ``resume``."""
        ...

    def resume(self) -> None:
        """Read again."""
        ...

    def leave(self, reply: StreamedReply) -> None:
        """Nobody reads this reply any more: close the connection, if the reply is not over."""
        ...


class StreamedReply:
    """Head of a reply, and its body as an asynchronous iterator of pieces, each as large as what had come.

    Iteration ends where the body ends, and raises HttpError where it was cut off: a body that merely stops is never
    taken for a whole one. One reader.

    Attributes:
        status: the status code.
        headers: names and values as they came, in order; trailers are added when they come.
        sink: takes a piece while the reader waits, in its place, and so spares waking it; False: it could not.
    """

    __slots__ = ("_ended", "_error", "_paused", "_pieces", "_size", "_source", "_waiter", "headers", "sink", "status")

    def __init__(self, source: Source) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.sink: Callable[[bytes], bool] | None = None
        self._source = source
        self._pieces: list[bytes] = []
        self._size = 0
        self._paused = False
        self._ended = False
        self._error: HttpError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def header(self, name: bytes) -> bytes | None:
        """The first header of that name; ``name`` in lower case."""
        for key, value in self.headers:
            if len(key) == len(name) and key.lower() == name:
                return value
        return None

    def __aiter__(self) -> StreamedReply:
        return self

    async def __anext__(self) -> bytes:
        """All that has come since the last piece; waits for at least a byte. Raises HttpError."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            self._source.resume()
        return piece

    async def read(self, limit: int) -> bytes:
        """The rest of the body, at most ``limit`` bytes. Raises BodyTooLarge or another HttpError."""
        pieces: list[bytes] = []
        size = 0
        async for piece in self:
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise BodyTooLarge(f"the reply is larger than {limit} bytes")
        return b"".join(pieces)

    def close(self) -> None:
        """Read no further. May be called at any time, and twice."""
        self._source.leave(self)
        self._pieces.clear()

    # For the connection.

    def feed(self, data: bytes) -> None:
        """A piece has come."""
        waiter = self._waiter
        if self.sink is not None and waiter is not None and not waiter.done() and self.sink(data):
            return
        self._pieces.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER and not self._paused:
            self._paused = True
            self._source.pause()
        self._wake()

    def end(self, error: HttpError | None = None) -> None:
        """The body is whole, or was cut off. The connection is no longer this reply's."""
        if self._paused:
            self._paused = False
            self._source.resume()
        self._ended = True
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
