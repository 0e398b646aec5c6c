"""One HTTP/1.1 connection as an asyncio protocol: an exchange at a time, then back into its pool."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple, Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from kubegym.http.errors import BodyTooLarge, ConnectionLost, HttpError, ProtocolError, ReadTimeout
from kubegym.http.streamed import StreamedReply


class Origin(NamedTuple):
    """Where connections go."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class Response:
    """A whole reply.

    Attributes:
        status: the status code.
        headers: names and values as they came, in order.
        body: the body, complete.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def header(self, name: bytes) -> bytes | None:
        """The first header of that name; ``name`` in lower case."""
        for key, value in self.headers:
            if len(key) == len(name) and key.lower() == name:
                return value
        return None

    def __repr__(self) -> str:
        return f"Response({self.status}, {len(self.body)} bytes)"


class Pool(Protocol):
    """What a connection needs of the pool it belongs to."""

    origin: Origin
    max_body: int
    closed: bool

    def made(self, connection: Connection) -> None:
        """The connection stands."""
        ...

    def give(self, connection: Connection | None) -> None:
        """Take the connection back; None: it is lost, and its place is free."""
        ...

    def forget(self, connection: Connection) -> None:
        """An idle connection is of no use any more; frees its place if it was idle."""
        ...

    def gone(self, connection: Connection) -> None:
        """The connection is closed for good."""
        ...


class Connection(asyncio.Protocol):
    """One connection: at most one exchange at a time, then back into its pool.

    Whoever ends the exchange (the reply, the timer, the loss of the connection, a cancelled caller) gives the
    connection back or its place up, exactly once: ``_reply`` is not None while a request is out. Where the caller wants
    a stream, ``_reply`` is done when the head has come, and the exchange goes on until the body has.
    """

    __slots__ = (
        "_body",
        "_complete",
        "_headers",
        "_headers_complete",
        "_keep",
        "_length",
        "_loop",
        "_parser",
        "_pool",
        "_received",
        "_reply",
        "_stream",
        "_timer",
        "_transport",
        "exchanges",
        "idle_since",
    )

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        self._pool = pool
        self._loop = loop
        self._transport: Any = None
        self._parser: HttpResponseParser | None = None
        self._reply: asyncio.Future[Any] | None = None
        self._stream: StreamedReply | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.exchanges = 0
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._length = 0
        self._headers_complete = False
        self._complete = False
        self._keep = False
        self._received = False

    async def exchange(self, data: bytes, deadline: float) -> Response:
        """Send a request and wait for its reply. Raises HttpError."""
        response: Response = await self._ask(data, deadline, None)
        return response

    async def open(self, data: bytes, deadline: float) -> StreamedReply:
        """Send a request and wait for the head of its reply; the deadline holds for the body, too. Raises HttpError."""
        stream: StreamedReply = await self._ask(data, deadline, StreamedReply(self))
        return stream

    async def _ask(self, data: bytes, deadline: float, stream: StreamedReply | None) -> Any:
        self.exchanges += 1
        transport = self._transport
        if transport is None or transport.is_closing():  # Closed between being given and being used.
            self._pool.give(None)
            raise ConnectionLost(f"{self._pool.origin} closed the connection", before_reply=True)
        reply: asyncio.Future[Any] = self._loop.create_future()
        self._reply = reply
        self._stream = stream
        self._timer = self._loop.call_at(deadline, self._expire)
        transport.write(data)
        try:
            return await reply
        except asyncio.CancelledError:
            if self._reply is reply:
                self._drop()
            raise

    def _drop(self) -> None:
        """Nobody wants the reply any more; closing tells the server so."""
        self._end()
        self._pool.give(None)
        self.abort()

    # streamed.Source

    def pause(self) -> None:
        """The reader of the stream is slower than the server: read no more."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """The reader has caught up."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def leave(self, reply: StreamedReply) -> None:
        """The stream is read no further: close, unless the exchange is over and the connection another's."""
        if self._stream is reply and self._reply is not None:
            self._drop()
            reply.end(ConnectionLost("the reply was closed by its reader", before_reply=False))
            self._stream = None

    def _end(self) -> asyncio.Future[Any] | None:
        """Take the exchange off this connection; its future, or None where there is none (any more)."""
        reply, self._reply = self._reply, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return reply

    def fail(self, error: HttpError) -> None:
        """End the exchange, if there is one, with an error, and this connection with it."""
        reply = self._end()
        if reply is None:
            return
        self._pool.give(None)
        if not reply.done():
            reply.set_exception(error)
        elif self._stream is not None:
            self._stream.end(error)
        self._stream = None
        self.abort()

    def abort(self) -> None:
        """Close now, without flushing. The caller has settled the place in the pool."""
        if self._transport is not None:
            self._transport.abort()

    def _expire(self) -> None:
        self.fail(ReadTimeout(f"no whole reply from {self._pool.origin} in time"))

    def _finish(self) -> None:
        """The reply is whole: give the connection back, then the reply to who waits for it."""
        sent_all = self._transport is None or self._transport.get_write_buffer_size() == 0
        reply = self._end()
        assert reply is not None
        assert self._parser is not None
        stream, self._stream = self._stream, None
        wanted = not reply.done()
        if stream is None:
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            result: Any = Response(self._parser.get_status_code(), self._headers, body)
        else:
            result = stream
            wanted = wanted or not reply.cancelled()
            stream.end()  # Before the connection becomes another's: it is read again.
        keep = self._keep
        self._reset()
        if keep and sent_all and wanted and not self._pool.closed:
            self.idle_since = self._loop.time()
            self._pool.give(self)
        else:
            self._pool.give(None)
            self.abort()
        if not reply.done():
            reply.set_result(result)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start parsing."""
        self._transport = transport
        self._parser = HttpResponseParser(self)
        self._pool.made(self)

    def data_received(self, data: bytes) -> None:
        """Parse what came; end the exchange when the reply is whole."""
        if self._reply is None:
            self._leave_pool()  # Unasked-for bytes: the next reply could not be told from them.
            return
        assert self._parser is not None
        self._received = True
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self.fail(ProtocolError(f"{self._pool.origin} does not answer in HTTP/1.1: {error}"))
            return
        if self._complete and self._reply is not None:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange: by success when the end of the connection is the end of the body."""
        if self._reply is None:
            self._leave_pool()
        elif exc is None and self._headers_complete and self._ends_with_connection():
            self._finish()
        else:
            where = "within its reply" if self._received else "without a reply"
            cause = f" ({exc})" if exc is not None else ""
            message = f"{self._pool.origin} closed the connection {where}{cause}"
            self.fail(ConnectionLost(message, before_reply=not self._received))
        self._transport = None
        self._parser = None  # The parser holds our bound methods: without this the two wait for the collector.
        self._pool.gone(self)

    def _leave_pool(self) -> None:
        self._pool.forget(self)
        self.abort()

    def _ends_with_connection(self) -> bool:
        return not any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self._headers)

    # httptools callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or trailer."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The body follows. A second reply to one request breaks the framing."""
        if self._complete:
            self.fail(ProtocolError(f"{self._pool.origin} sent two replies to one request"))
        self._headers_complete = True
        assert self._parser is not None
        if self._stream is not None and self._reply is not None and self._parser.get_status_code() >= 200:
            self._stream.status = self._parser.get_status_code()
            self._stream.headers = self._headers
            if not self._reply.done():
                self._reply.set_result(self._stream)

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        if self._stream is not None:
            self._stream.feed(data)
            return
        self._length += len(data)
        if self._length > self._pool.max_body:
            self.fail(BodyTooLarge(f"{self._pool.origin}: reply above {self._pool.max_body} bytes"))
        else:
            self._body.append(data)

    def on_message_complete(self) -> None:
        """A reply is whole, unless it is an interim one (100, 103)."""
        assert self._parser is not None
        if self._parser.get_status_code() < 200:
            self._headers = []
            self._headers_complete = False
        else:
            self._complete = True
            self._keep = self._parser.should_keep_alive()  # Not later: the parser forgets the message.
