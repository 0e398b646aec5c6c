"""The chassis of our servers: plain ASGI routes, health, metrics, OpenAPI, shutdown.

Hot routes go from the ASGI scope to their handler by one dict look-up. A general framework costs several times more a
request (DESIGN section 8); it serves the documentation here, and is imported when somebody first looks at that.

Every server answers (contract 1.1 and operator conventions): ``GET /`` and ``/healthz`` (alive), ``/readyz`` (503 with
a reason until ready and while shutting down), ``/metrics``, ``/openapi.json``, ``/docs``. Any path may be prefixed with
``/ng-rollout/<rollout id>/`` or ``/ng-rollout/<rollout id>/training-token-capture/``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import orjson

from kubegym.core import cycles
from kubegym.core.errors import InputError
from kubegym.http.presence import ClientGone, Receive, WhileConnected

if TYPE_CHECKING:
    import socket

    import uvicorn
    from prometheus_client import CollectorRegistry

log = logging.getLogger("kubegym.http")

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"
_PREFIX = re.compile(r"^/ng-rollout/([A-Za-z0-9][A-Za-z0-9._-]*)(?:/training-token-capture)?(/.*)$")
_CLOSED = object()
_OPERATIONS = frozenset({"/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"})
QUIET_SECONDS = 3.0
"""Without a request for so long, a server that drains has no more clients."""


@dataclass(slots=True)
class Request:
    """A request with its whole body.

    Attributes:
        method, path: path without a rollout prefix.
        headers: by lower-case name; of repeated ones the last, cookies joined.
        body: the bytes.
        rollout: the rollout id of the prefix, if there was one.
        receive: ASGI's channel, which has nothing more to say than that the client is gone; see ``WhileConnected``.
        query: the query string.
        pairs: the header lines as they came, names in lower case.
    """

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes
    rollout: str | None = None
    receive: Receive | None = None
    query: bytes = b""
    pairs: list[tuple[bytes, bytes]] = field(default_factory=list)

    def parameters(self) -> dict[str, str]:
        """The query's parameters; of repeated ones the last."""
        return dict(parse_qsl(self.query.decode("latin-1"), keep_blank_values=True))

    def json(self) -> Any:
        """The body as JSON. Raises Problem (422) where it is none."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise Problem.invalid(["body"], f"not JSON: {error}", "json_invalid") from None

    def object(self) -> dict[str, Any]:
        """The body as a JSON object. Raises Problem (422)."""
        value = self.json()
        if not isinstance(value, dict):
            raise Problem.invalid(["body"], "must be a JSON object", "dict_type")
        return value


@dataclass(slots=True)
class Reply:
    """An answer: a body, or a stream of pieces, whose ``aclose`` is called at its end, whatever that is.

    A stream with ``into`` is told where pieces may go while nobody waits for one (``StreamedReply.sink``).
    """

    body: bytes = b""
    status: int = 200
    content_type: bytes = JSON
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    stream: AsyncIterator[bytes] | None = None

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> Reply:
        """A JSON answer."""
        return cls(orjson.dumps(value), status, JSON, headers or [])


class Problem(Exception):
    """An answer that is an error, in FastAPI's words, which NeMo Gym's clients know: ``{"detail": ...}``."""

    def __init__(self, status: int, detail: Any, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or []

    def reply(self) -> Reply:
        """The answer. What was given may be JSON that orjson cannot write: integers beyond 64 bits, lone surrogates."""
        value = {"detail": self.detail}
        try:
            body = orjson.dumps(value)
        except TypeError:
            body = json.dumps(value).encode()
        return Reply(body, self.status, JSON, self.headers)

    @classmethod
    def invalid(cls, where: list[str | int], message: str, kind: str = "value_error", given: Any = None) -> Problem:
        """422 as for a request that does not validate (contract 1.1)."""
        return cls(422, [{"type": kind, "loc": where, "msg": message, "input": given}])


def crashed(error: Exception) -> Reply:
    """The contract's answer after an unhandled exception (1.1): its ``repr`` as a JSON string."""
    return Reply.json(repr(error).encode(errors="replace").decode(), 500)


Handler = Callable[[Request], Awaitable[Reply]]


class App:
    """An ASGI application of exact routes.

    Args:
        title: in the documentation.
        routes: (method, path) -> handler.
        fallback: takes every POST that no route takes; None answers 404.
        start, stop: run before the first request, and after the last.
        unready: why the server is not ready, or None.
        registry: what ``/metrics`` shows.
        document: OpenAPI paths of the routes, made when asked for.
        max_body: bytes a request may have; more is 413.
        body_seconds: how long a request's body may take; 408 after that.

    Attributes:
        stopping: whether the server is about to end: not ready.
        working: requests at work, those for the operator of the server (probes, metrics) left out.
        worked_at: when one last began or ended, on the monotonic clock.
    """

    def __init__(
        self,
        title: str,
        routes: Mapping[tuple[str, str], Handler],
        *,
        fallback: Handler | None = None,
        start: Callable[[], Awaitable[None]] | None = None,
        stop: Callable[[], Awaitable[None]] | None = None,
        unready: Callable[[], str | None] = lambda: None,
        registry: CollectorRegistry | None = None,
        document: Callable[[], dict[str, Any]] = dict,
        max_body: int = 256 << 20,
        body_seconds: float = 120.0,
    ) -> None:
        self.title = title
        self.stopping = False
        self.working = 0
        self.worked_at = 0.0
        self._fallback = fallback
        self._start = start
        self._stop = stop
        self._unready = unready
        self._registry = registry
        self._document = document
        self._max_body = max_body
        self._body_seconds = body_seconds
        self._routes: dict[tuple[str, str], Handler] = {
            ("GET", "/"): self._alive,
            ("GET", "/healthz"): self._alive,
            ("GET", "/readyz"): self._ready,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/openapi.json"): self._openapi,
            ("GET", "/docs"): self._docs,
            **routes,
        }
        self._paths = {path for _, path in self._routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:  # a WebSocket: refuse
            await send({"type": "websocket.close", "code": 1008})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            try:
                if message["type"] == "lifespan.startup":
                    if self._start is not None:
                        await self._start()
                    await send({"type": "lifespan.startup.complete"})
                else:
                    if self._stop is not None:
                        await self._stop()
                    await send({"type": "lifespan.shutdown.complete"})
                    return
            except Exception as error:
                log.exception("%s: %s failed", self.title, message["type"])
                step = message["type"].removeprefix("lifespan.")
                await send({"type": f"lifespan.{step}.failed", "message": str(error)})
                return

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path, rollout = scope["method"], scope["path"], None
        if path.startswith("/ng-rollout/"):
            match = _PREFIX.match(path)
            if match is not None:
                rollout, path = match.groups()
        handler = self._routes.get((method, path))
        if path in _OPERATIONS:
            await self._answer(scope, receive, send, method, path, rollout, handler)
            return
        self.working += 1
        self.worked_at = time.monotonic()
        try:
            await self._answer(scope, receive, send, method, path, rollout, handler)
        finally:
            self.working -= 1
            self.worked_at = time.monotonic()

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        method: str,
        path: str,
        rollout: str | None,
        handler: Handler | None,
    ) -> None:
        try:
            if handler is None:
                handler = self._other(method, path)
            body = await self._body(scope, receive)
            if body is _CLOSED:
                return
            pairs, query = scope["headers"], scope.get("query_string", b"")
            reply = await handler(Request(method, path, _headers(pairs), body, rollout, receive, query, pairs))
        except Problem as problem:
            reply = problem.reply()
        except ClientGone:
            return
        except Exception as error:
            log.exception("%s %s failed", method, path)
            reply = crashed(error)
        await _send(reply, receive, send)

    def _other(self, method: str, path: str) -> Handler:
        if self._fallback is not None and method == "POST":
            return self._fallback
        if path in self._paths:
            raise Problem(405, "Method Not Allowed")
        raise Problem(404, "Not Found")

    async def _body(self, scope: Scope, receive: Receive) -> Any:
        """The request's body; ``_CLOSED`` when the client went away."""
        message = await receive()
        if not message.get("more_body"):
            return message["body"] if message["type"] == "http.request" else _CLOSED
        pieces, size = [message["body"]], len(message["body"])
        try:
            async with asyncio.timeout(self._body_seconds):
                while message.get("more_body"):
                    message = await receive()
                    if message["type"] != "http.request":
                        return _CLOSED
                    pieces.append(message["body"])
                    size += len(message["body"])
                    if size > self._max_body:
                        raise Problem(
                            413, f"the body is larger than {self._max_body} bytes", [(b"connection", b"close")]
                        )
        except TimeoutError:
            raise Problem(408, "the body did not arrive in time", [(b"connection", b"close")]) from None
        return b"".join(pieces)

    async def _alive(self, request: Request) -> Reply:
        return Reply(b'{"status":"ok"}')

    async def _ready(self, request: Request) -> Reply:
        reason = "shutting down" if self.stopping else self._unready()
        return Reply.json({"status": "ready"}) if reason is None else Reply.json({"status": reason}, 503)

    async def _metrics(self, request: Request) -> Reply:
        from prometheus_client import REGISTRY, generate_latest

        return Reply(
            generate_latest(self._registry or REGISTRY), content_type=b"text/plain; version=0.0.4; charset=utf-8"
        )

    async def _openapi(self, request: Request) -> Reply:
        from kubegym import __version__

        return Reply.json(
            {
                "openapi": "3.1.0",
                "info": {"title": self.title, "version": __version__},
                **self._document(),
            }
        )

    async def _docs(self, request: Request) -> Reply:
        from fastapi.openapi.docs import get_swagger_ui_html

        page = get_swagger_ui_html(openapi_url="openapi.json", title=self.title)
        return Reply(bytes(page.body), content_type=b"text/html; charset=utf-8")


def _headers(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for name, value in pairs:
        headers[name] = headers[name] + b"; " + value if name == b"cookie" and name in headers else value
    return headers


async def _send(reply: Reply, receive: Receive, send: Send) -> None:
    headers = [(b"content-type", reply.content_type), *reply.headers]
    if reply.stream is None:
        headers.append((b"content-length", b"%d" % len(reply.body)))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})
        return
    try:
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        async with WhileConnected(receive):
            if (into := getattr(reply.stream, "into", None)) is not None:
                into(_sink(send))
            async for piece in reply.stream:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
    except ClientGone:
        return
    except Exception as error:
        # Returning without an end of the body makes the server cut the connection: half a stream must not look whole.
        log.warning("a streamed reply broke off: %s: %s", type(error).__name__, error)
        return
    finally:
        if (close := getattr(reply.stream, "aclose", None)) is not None:
            await close()
    await send({"type": "http.response.body", "body": b""})


def _sink(send: Send) -> Callable[[bytes], bool]:
    """Sends a piece at once where the client reads fast enough: waking a task would cost more than all the rest.

    uvicorn's ``send`` waits for a slow client before it writes anything, so that giving up there loses nothing.
    """
    cycle: Any = getattr(send, "__self__", None)
    if getattr(cycle, "chunked_encoding", False) is True:  # uvicorn's: its coroutine costs more than the write
        flow = cycle.flow

        def write(piece: bytes) -> bool:
            if flow.write_paused or cycle.disconnected or not piece:
                return False
            cycle.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            return True

        return write

    def sink(piece: bytes) -> bool:
        sending = send({"type": "http.response.body", "body": piece, "more_body": True}).__await__()
        try:
            next(sending)
        except StopIteration:
            return True
        sending.close()
        return False

    return sink


def parse_listen(text: str) -> tuple[str, int]:
    """``HOST:PORT``. Raises InputError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise InputError(f"--listen is HOST:PORT, such as 127.0.0.1:8000, not {text!r}")
    return host.strip("[]"), int(port)


def serve(
    app: App,
    host: str,
    port: int,
    *,
    grace_seconds: float = 30.0,
    drain_seconds: float = 0.0,
    on_listening: Callable[[str], None] | None = None,
    sockets: Sequence[socket.socket] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; then answer what is in flight, for at most ``grace_seconds``, and return.

    With ``drain_seconds`` requests are taken for a while longer, although ``/readyz`` says 503: whoever sends them has
    not heard of it yet, as clients of a Service. It ends early where nobody asks any more; a second signal ends it.

    Args:
        app: what to serve.
        host: the address to listen on.
        port: the port; 0 picks a free one.
        grace_seconds: for requests in flight at shutdown; ``/readyz`` says 503 meanwhile.
        drain_seconds: the longest that requests are still taken.
        on_listening: told the URL when the server accepts connections.
        sockets: bound ones to listen on, in place of host and port; for several processes that share a port.

    Raises:
        InputError: uvicorn is not installed, or the address cannot be had.
    """
    config = server_config(app, host, port, grace_seconds)
    import uvicorn

    class Server(uvicorn.Server):
        drain_until = float("inf")

        async def startup(self, sockets: list[Any] | None = None) -> None:
            await super().startup(sockets)
            if on_listening is not None and self.servers and self.servers[0].sockets:
                address = self.servers[0].sockets[0].getsockname()
                on_listening(f"http://{address[0]}:{address[1]}")

        def handle_exit(self, sig: int, frame: Any) -> None:
            # Not uvicorn's own, which raises the signal again at the end, so that the process would die of it.
            draining, app.stopping = app.stopping, True
            if self.should_exit and sig == signal.SIGINT:
                self.force_exit = True
            if drain_seconds and not draining:
                app.worked_at = time.monotonic()
                self.drain_until = app.worked_at + drain_seconds
            else:
                self.should_exit = True

        async def on_tick(self, counter: int) -> bool:
            if app.stopping and not self.should_exit:
                now = time.monotonic()
                quiet = not app.working and now - app.worked_at >= QUIET_SECONDS
                self.should_exit = quiet or now >= self.drain_until
            return await super().on_tick(counter)

    server = Server(config)
    cycles.settle()
    try:
        server.run(list(sockets) if sockets else None)
    except SystemExit as error:  # uvicorn's word for an address that is taken
        if error.code:
            raise InputError(f"cannot listen on {host}:{port}, or could not start; see the log above") from None


def server_config(app: App, host: str, port: int, grace_seconds: float) -> uvicorn.Config:
    """How uvicorn serves our applications. Raises InputError where it is not installed."""
    try:
        import uvicorn

        from kubegym.http.protocol import BoundedHead
    except ImportError:
        raise InputError("serving needs uvicorn: pip install 'kubegym[server]'") from None
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=BoundedHead,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        date_header=False,
        backlog=4096,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=round(grace_seconds),
    )
