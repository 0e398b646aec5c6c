"""The HTTP/1.1 client of the hot path.

General clients cost 0.2 to 25 ms of CPU a request at 16 to 1,024 connections; this one costs tens of microseconds and
does not grow with the number of connections, because it does only what calls between servers need: one request and one
reply, whole or streamed, a connection at a time, keep-alive, TLS, deadlines. No redirects, cookies, proxies, content
codings or HEAD.

Pools are per origin and hand out the connection that was used last; taking one is O(1). Beyond ``limit`` connections
requests wait in order of arrival.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from kubegym.core.errors import InvalidSpec
from kubegym.http.connection import Connection, Origin, Response
from kubegym.http.errors import ConnectFailed, ConnectionLost, ConnectTimeout, ReadTimeout
from kubegym.http.streamed import StreamedReply

if TYPE_CHECKING:
    import ssl

__all__ = ["HttpClient", "Origin", "Response", "Url"]

_CLOSED = "the HTTP client is closed"


class Url:
    """A URL, parsed once.

    Attributes:
        origin: where to connect.
        target: path and query, as the request line says them.
        authority: value of the Host header.
        authorization: value of the Authorization header for a URL with ``user:password@``, else None.
        shown: the URL without credentials and query, for messages.
    """

    __slots__ = ("authority", "authorization", "origin", "shown", "target")

    def __init__(self, text: str) -> None:
        """Parse. Raises InvalidSpec, which never repeats credentials."""
        try:
            parts = urlsplit(text.strip())
            port = parts.port
        except ValueError as error:
            raise InvalidSpec(f"not a URL: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidSpec(f"a URL like http://host:8000/v1 is needed, not {text.rpartition('@')[2]!r}")
        host = parts.hostname
        self.origin = Origin(parts.scheme, host, port or (443 if parts.scheme == "https" else 80))
        netloc = parts.netloc.rpartition("@")[2]
        query = f"?{parts.query}" if parts.query else ""
        try:
            self.target = f"{parts.path or '/'}{query}".encode("ascii")
            self.authority = netloc.encode("idna" if not netloc.isascii() else "ascii")
        except UnicodeError:
            raise InvalidSpec(f"the URL {netloc}{parts.path} has characters that must be percent-encoded") from None
        if any(byte <= 0x20 or byte == 0x7F for byte in self.target + self.authority):
            raise InvalidSpec(f"the URL {netloc}{parts.path!r} has spaces or control characters")
        self.authorization: bytes | None = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self.authorization = b"Basic " + base64.b64encode(pair.encode())
        self.shown = f"{parts.scheme}://{netloc}{parts.path}"

    def __truediv__(self, path: str) -> Url:
        """The URL one path below, its query kept: ``Url("http://h/v1?a=1") / "models"``."""
        child = object.__new__(Url)
        base, mark, query = self.target.partition(b"?")
        child.origin, child.authority, child.authorization = self.origin, self.authority, self.authorization
        child.target = base.rstrip(b"/") + b"/" + path.encode() + mark + query
        child.shown = f"{self.shown.rstrip('/')}/{path}"
        return child

    @property
    def parent(self) -> Url:
        """The URL one path above, its query kept: the inverse of ``/``."""
        above = object.__new__(Url)
        base, mark, query = self.target.partition(b"?")
        above.origin, above.authority, above.authorization = self.origin, self.authority, self.authorization
        path = base.rstrip(b"/")
        above.target = (path.rpartition(b"/")[0] or b"/") + mark + query
        above.shown = self.shown.rstrip("/").rpartition("/")[0] if path else self.shown
        return above

    def asking(self, query: bytes) -> Url:
        """The same URL with a query."""
        asked = object.__new__(Url)
        asked.origin, asked.authority, asked.authorization = self.origin, self.authority, self.authorization
        asked.target = self.target + (b"&" if b"?" in self.target else b"?") + query
        asked.shown = self.shown
        return asked

    def __repr__(self) -> str:
        return f"Url({self.shown!r})"


class HttpClient:
    """Keep-alive HTTP/1.1 connections, shared by all calls of one event loop.

    Args:
        limit: most connections an origin may have; further requests wait in order.
        connect_timeout: seconds for name resolution, connect and TLS handshake together.
        keep_alive: seconds an idle connection is kept. The default stays below uvicorn's and vLLM's 5 s, so that our
            side closes first and no request meets a connection the server is just closing.
        max_body: bytes of the largest reply accepted.
        ssl_context: for https; by default the system's trust store.

    Attributes:
        repeated: requests sent a second time because a kept connection turned out to be closed.
    """

    def __init__(
        self,
        *,
        limit: int = 16384,
        connect_timeout: float = 10.0,
        keep_alive: float = 4.0,
        max_body: int = 64 << 20,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if limit < 1:
            raise ValueError("limit must be at least 1")
        self.repeated = 0
        self._limit = limit
        self._connect_timeout = connect_timeout
        self._keep_alive = keep_alive
        self._max_body = max_body
        self._ssl_context = ssl_context
        self._pools: dict[Origin, _Pool] = {}
        self._closed = False

    @property
    def opened(self) -> int:
        """Connections made so far."""
        return sum(pool.opened for pool in self._pools.values())

    async def request(
        self, method: bytes, url: Url, headers: bytes, body: bytes, timeout: float, *, repeatable: bool = True
    ) -> Response:
        """Send one request and read its whole reply.

        Args:
            method: ``b"POST"``.
            url: where to.
            headers: header lines, each ended by CRLF, beside Host and Content-Length.
            body: the body, complete.
            timeout: seconds for everything: waiting for a connection, connecting, sending, reading.
            repeatable: the request may be sent again if a *kept* connection is lost before any byte of the reply.
                Generation has no side effects, so that model calls may (``repeated`` counts it).

        Raises:
            HttpError: see ``model.errors``. After one nothing of the exchange is left open.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        pool = self._pools.get(url.origin) or self._new_pool(url.origin)
        data = _request_bytes(method, url, headers, body)
        connection = pool.take() or await pool.acquire(deadline)
        try:
            return await connection.exchange(data, deadline)
        except ConnectionLost as error:
            if not (repeatable and error.before_reply and connection.exchanges > 1) or self._closed:
                raise
        self.repeated += 1
        connection = await pool.acquire(deadline, fresh=True)
        return await connection.exchange(data, deadline)

    @asynccontextmanager
    async def stream(
        self, method: bytes, url: Url, headers: bytes, body: bytes, timeout: float, *, repeatable: bool = True
    ) -> AsyncIterator[StreamedReply]:
        """Send one request; inside the block the reply's body comes piece by piece.

        ``async with client.stream(...) as reply: async for piece in reply: ...``. A reader slower than the server holds
        the server back: at most ``streamed.HIGH_WATER`` bytes (and what one read brings) wait. Leaving the block before
        the end closes the connection, which tells the server to stop.

        Args:
            method: as ``request``.
            url: as ``request``.
            headers: as ``request``.
            body: as ``request``.
            timeout: seconds until the end of the reply's body.
            repeatable: as ``request``.

        Raises:
            HttpError: before the head; inside the block from the iteration, also when the body is cut off.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        pool = self._pools.get(url.origin) or self._new_pool(url.origin)
        data = _request_bytes(method, url, headers, body)
        connection = pool.take() or await pool.acquire(deadline)
        try:
            reply = await connection.open(data, deadline)
        except ConnectionLost as error:
            if not (repeatable and error.before_reply and connection.exchanges > 1) or self._closed:
                raise
            self.repeated += 1
            connection = await pool.acquire(deadline, fresh=True)
            reply = await connection.open(data, deadline)
        try:
            yield reply
        finally:
            reply.close()

    def _new_pool(self, origin: Origin) -> _Pool:
        if self._closed:
            raise ConnectFailed(_CLOSED)
        context: ssl.SSLContext | None = None
        if origin.scheme == "https":
            if self._ssl_context is None:
                import ssl

                self._ssl_context = ssl.create_default_context()
            context = self._ssl_context
        pool = _Pool(origin, self._limit, self._connect_timeout, self._keep_alive, self._max_body, context)
        self._pools[origin] = pool
        return pool

    async def close(self) -> None:
        """Close every connection, also those in use (their requests get ConnectionLost). May be called twice."""
        self._closed = True
        for pool in self._pools.values():
            await pool.close()


def _request_bytes(method: bytes, url: Url, headers: bytes, body: bytes) -> bytes:
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%bContent-Length: %d\r\n\r\n%b" % (
        *(method, url.target, url.authority, headers, len(body), body),
    )


class _Pool:
    """Connections of one origin. ``open`` counts those that stand or are being made; it is never above ``limit``."""

    def __init__(
        self,
        origin: Origin,
        limit: int,
        connect_timeout: float,
        keep_alive: float,
        max_body: int,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self.origin = origin
        self.max_body = max_body
        self.closed = False
        self.opened = 0
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._connect_timeout = connect_timeout
        self._keep_alive = keep_alive
        self._ssl_context = ssl_context
        self._open = 0
        # Insertion order is order of release: last in, first out at one end, the stalest at the other.
        self._idle: dict[Connection, None] = {}
        self._waiters: dict[asyncio.Future[Connection | None], None] = {}
        self._connections: set[Connection] = set()
        self._none_left: asyncio.Future[None] | None = None
        self._sweep: asyncio.TimerHandle | None = None

    def take(self) -> Connection | None:
        """The connection used last, unless even that one has been idle for too long (then all have)."""
        if not self._idle:
            return None
        connection, _ = self._idle.popitem()
        if self._loop.time() - connection.idle_since < self._keep_alive:
            return connection
        self._idle[connection] = None
        self._close_stale()
        return None

    async def acquire(self, deadline: float, *, fresh: bool = False) -> Connection:
        """A new connection, or the next one given back when there are ``limit`` already.

        Args:
            deadline: on the loop's clock.
            fresh: rather close an idle connection to make room than take it: it would be closed by the server, too.
        """
        if self.closed:
            raise ConnectFailed(_CLOSED)
        if self._open < self._limit:
            self._open += 1
            return await self._connect(deadline)
        if fresh and self._idle:
            stalest = next(iter(self._idle))
            del self._idle[stalest]
            stalest.abort()  # Its place is ours now.
            return await self._connect(deadline)
        waiter: asyncio.Future[Connection | None] = self._loop.create_future()
        self._waiters[waiter] = None
        try:
            async with asyncio.timeout_at(deadline):
                given = await waiter
        except BaseException as error:
            self._waiters.pop(waiter, None)
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.give(waiter.result())  # It came too late for us.
            if isinstance(error, TimeoutError):
                raise ReadTimeout(f"no free connection to {self.origin}: all {self._limit} are in use") from None
            raise
        return await self._connect(deadline) if given is None else given

    async def _connect(self, deadline: float) -> Connection:
        """Connect; the place in ``_open`` is taken already, and given up on failure."""
        secure = self._ssl_context is not None
        try:
            async with asyncio.timeout_at(min(deadline, self._loop.time() + self._connect_timeout)):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self, self._loop),
                    self.origin.host,
                    self.origin.port,
                    ssl=self._ssl_context,
                    server_hostname=self.origin.host if secure else None,
                )
        except BaseException as error:
            self.give(None)
            if isinstance(error, TimeoutError):
                raise ConnectTimeout(f"no connection to {self.origin} in time") from None
            if isinstance(error, OSError | UnicodeError):
                raise ConnectFailed(f"cannot connect to {self.origin}: {error}") from error
            raise
        self.opened += 1
        return connection

    def made(self, connection: Connection) -> None:
        """The connection stands."""
        self._connections.add(connection)

    def give(self, connection: Connection | None) -> None:
        """Hand a connection, or (None) the place to make one, to who waits longest; else keep it."""
        while self._waiters:
            waiter = self._next_waiter()
            if not waiter.done():
                waiter.set_result(connection)
                return
        if connection is None:
            self._open -= 1
            return
        self._idle[connection] = None
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._keep_alive, self._sweep_idle)

    def _next_waiter(self) -> asyncio.Future[Connection | None]:
        waiter = next(iter(self._waiters))
        del self._waiters[waiter]
        return waiter

    def forget(self, connection: Connection) -> None:
        """Take a connection out of the idle ones, if it is there, and free its place."""
        if connection in self._idle:
            del self._idle[connection]
            self.give(None)

    def gone(self, connection: Connection) -> None:
        """The connection is closed for good."""
        self._connections.discard(connection)
        if self._none_left is not None and not self._connections and not self._none_left.done():
            self._none_left.set_result(None)

    def _sweep_idle(self) -> None:
        self._close_stale()
        self._sweep = self._loop.call_later(self._keep_alive, self._sweep_idle) if self._idle else None

    def _close_stale(self) -> None:
        now = self._loop.time()
        while self._idle:
            stalest = next(iter(self._idle))
            if now - stalest.idle_since < self._keep_alive:
                return
            self.forget(stalest)
            stalest.abort()

    async def close(self) -> None:
        """Close every connection and refuse who waits for one."""
        self.closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        while self._waiters:
            waiter = self._next_waiter()
            if not waiter.done():
                waiter.set_exception(ConnectFailed(_CLOSED))
        if not self._connections:
            return
        self._none_left = self._loop.create_future()
        for connection in list(self._connections):
            self.forget(connection)
            connection.fail(ConnectionLost(_CLOSED, before_reply=False))
            connection.abort()
        await asyncio.wait([self._none_left], timeout=5.0)
