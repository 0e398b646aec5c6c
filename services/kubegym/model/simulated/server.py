"""The simulated engine as a server: raw asyncio and ``httptools``, cheap enough to be a benchmark's stub.

Routes: ``POST /v1/chat/completions`` (also streamed), ``GET /v1/models``, ``/health``, ``/healthz``, ``/readyz``,
``/metrics``. A request costs no task: it is answered from the parser's callback, or from a timer. With a ``Front``
Responses and Messages are answered, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orjson
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from kubegym.core.errors import InputError
from kubegym.model.simulated.answer import FINGERPRINT, Answerer, Plan, error_body, overloaded
from kubegym.model.simulated.config import SimulatedConfig
from kubegym.model.simulated.engine import Slots
from kubegym.model.simulated.front import Front
from kubegym.model.simulated.metrics import CONTENT_TYPE, EngineMetrics
from kubegym.model.simulated.stream import stream_events
from kubegym.model.simulated.weights import SimulatedWeights

_JSON = b"application/json"
_HTML = b"<html><head><title>502 Bad Gateway</title></head><body>simulated proxy page</body></html>"
FRONTED = (b"/v1/responses", b"/v1/messages", b"/v1/chat/completions")
"""What a ``Front`` answers, with or without a rollout's prefix. The rest it would hand back to us."""
_NOMINAL_SLOTS = 256
"""What the cache gauge takes for full where there is no limit: vLLM's default ``--max-num-seqs``."""


class SimulatedServer:
    """A running server; made by ``serve_simulated``.

    Attributes:
        config: what it does.
        url: the base URL, with ``/v1``.
        port: the port.
        requests: chat requests so far.
        front: answers other POSTs; None: 404.
        draining: whether it is about to end: not ready.
    """

    def __init__(self, config: SimulatedConfig) -> None:
        self.config = config
        self.url = ""
        self.port = 0
        self.requests = 0
        self.front: Front | None = None
        self.draining = False
        self.answerer = Answerer(config)
        self.slots = Slots(config.max_concurrency, config.max_queue)
        self.metrics = EngineMetrics(config.model)
        self.connections: set[_Connection] = set()
        self.weights: SimulatedWeights | None = None
        if config.weights is not None:
            folder, fault = Path(config.weights), config.weights_fault
            self.weights = SimulatedWeights(config.model, folder, fault, self._die, self.slots.hold, self._abort)
        policy = f"x-kubegym-policy-version: {config.policy_version}\r\n" if config.policy_version is not None else ""
        self._common = f"x-kubegym-simulated: true\r\n{policy}".encode()
        self._ok = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%bcontent-length: " % self._common
        self._listener: asyncio.Server | None = None
        self._idle: asyncio.Event | None = None

    async def listen(self, host: str, port: int) -> None:
        """Start to listen. Raises InputError when the address cannot be had."""
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(partial(_Connection, self, loop), host, port, backlog=4096)
        except OSError as error:
            raise InputError(f"cannot listen on {host}:{port}: {error}") from None
        bound = self._listener.sockets[0].getsockname()[1]
        self.port = bound
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{bound}/v1"

    async def close(self, grace: float = 0.0) -> None:
        """Stop listening, give requests at work ``grace`` seconds, then close every connection."""
        if self._listener is None:
            return
        self._listener.close()
        if grace > 0 and (self.slots.running or self.slots.waiting):
            self._idle = asyncio.Event()
            with contextlib.suppress(TimeoutError):  # What still hangs is cut off below.
                async with asyncio.timeout(grace):
                    await self._idle.wait()
        for connection in list(self.connections):
            connection.close()
        await self._listener.wait_closed()
        await asyncio.sleep(0)

    def done(self) -> None:
        """A request is no longer at work."""
        if self._idle is not None and not (self.slots.running or self.slots.waiting):
            self._idle.set()

    def ok(self, body: bytes) -> bytes:
        """A whole 200 reply with JSON."""
        return b"%b%d\r\n\r\n%b" % (self._ok, len(body), body)

    def reply(self, status: int, body: bytes, content_type: bytes = _JSON, extra: bytes = b"") -> bytes:
        """A whole reply."""
        phrase = HTTPStatus(status).phrase.encode()
        return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n%b%bcontent-length: %d\r\n\r\n%b" % (
            *(status, phrase, content_type, self._common, extra, len(body), body),
        )

    def stream_head(self) -> bytes:
        """The head of a streamed reply."""
        return (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            b"%btransfer-encoding: chunked\r\n\r\n" % self._common
        )

    def _die(self) -> None:
        """End as an engine does whose process is gone: no listener, every connection cut."""
        assert self._listener is not None
        self._listener.close()
        for connection in list(self.connections):
            connection.close()

    def _abort(self) -> int:
        """Give up what is at work; how many requests that were."""
        given_up = [one for one in self.connections if one.request is not None and one.request.plan is not None]
        for connection in given_up:
            connection.give_up()
        return len(given_up)

    def _under_way(self) -> tuple[float, float]:
        """Tokens read and made for answers that are not finished, as an engine counts them: little by little."""
        now = asyncio.get_running_loop().time()
        parts = [connection.request.progress(now) for connection in self.connections if connection.request is not None]
        return sum(read for read, _ in parts), sum(made for _, made in parts)

    def page(self, method: bytes, path: bytes) -> bytes:
        """The reply to anything but a chat request."""
        if path == b"/v1/chat/completions":
            return self.reply(405, orjson.dumps(error_body(405, "Method Not Allowed", "MethodNotAllowed")))
        if path == b"/v1/models":
            model: dict[str, Any] = {"id": self.config.model, "object": "model", "created": 0, "owned_by": FINGERPRINT}
            if self.config.context_window is not None:
                model["max_model_len"] = self.config.context_window
            return self.ok(orjson.dumps({"object": "list", "data": [model]}))
        if path in (b"/health", b"/healthz"):
            return self.reply(200, b"")
        if path == b"/readyz":
            status = {"status": "shutting down" if self.draining else "ready"}
            return self.reply(503 if self.draining else 200, orjson.dumps(status))
        if path == b"/metrics":
            running, waiting = self.slots.running, self.slots.waiting
            cache = min(1.0, running / (self.config.max_concurrency or _NOMINAL_SLOTS))
            return self.reply(200, self.metrics.render(running, waiting, cache, self._under_way()), CONTENT_TYPE)
        return self.reply(404, orjson.dumps(error_body(404, "Not Found", "NotFoundError")))


class _Connection(asyncio.Protocol):
    """One connection; one request at a time (a client that does not wait for its answer is cut off)."""

    __slots__ = ("_asking", "_body", "_keep", "_loop", "_parser", "_server", "_timer", "_transport", "_url", "request")

    def __init__(self, server: SimulatedServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._transport: Any = None
        self._parser: HttpRequestParser | None = None
        self._url = b""
        self._body: list[bytes] = []
        self._keep = True
        self.request: _Request | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._parser = HttpRequestParser(self)
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()  # The client gave up: the request frees its slot.
        if self._asking is not None:
            self._asking.cancel()
        self._parser = None
        self._server.connections.discard(self)

    def close(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            body = orjson.dumps(error_body(400, "not an HTTP request", "BadRequestError"))
            self._transport.write(self._server.reply(400, body, extra=b"connection: close\r\n"))
            self._transport.close()

    def on_message_begin(self) -> None:
        if self.request is not None or self._asking is not None:
            self.close()
        self._url = b""
        self._body = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if self.request is not None or self._asking is not None:
            return  # Being cut off.
        self._keep = self._parser.should_keep_alive()
        method, path = self._parser.get_method(), self._url.partition(b"?")[0]
        server = self._server
        raw = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        if server.weights is not None:
            query = self._url.partition(b"?")[2]
            answer = server.weights.answer(method, path, query, raw)
            if answer is not None:
                self._write(server.reply(answer[0], orjson.dumps(answer[1])))
                return
        if method != b"POST" or path != b"/v1/chat/completions":
            if method == b"POST" and server.front is not None and path.endswith(FRONTED):
                self._asking = self._loop.create_task(self._ask(server.front, path, raw))
            else:
                self._write(server.page(method, path))
            return
        server.requests += 1
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            problem = error_body(400, f"the body is not JSON: {error}", "BadRequestError")
            self._write(server.reply(400, orjson.dumps(problem)))
            return
        request = self.request = _Request(self, body, self._loop.time())
        if not server.slots.enter(request.start):
            self.request = None
            plan = overloaded()
            self._write(server.reply(plan.status, orjson.dumps(plan.reply), extra=b"retry-after: 1\r\n"))

    async def _ask(self, front: Front, path: bytes, body: bytes) -> None:
        status, content, content_type, lines = await front.answer(path, body)
        self._asking = None
        self._write(self._server.reply(status, content, content_type, lines))

    def work(self, request: _Request) -> None:
        """The request's turn has come."""
        request.began = self._loop.time()
        plan = request.plan = self._server.answerer.plan(request.body, int(time.time()))
        if (weights := self._server.weights) is not None:
            plan.reply["system_fingerprint"] = f"{FINGERPRINT}:{weights.name(request.body.get('model'))}"
            weights.asked()
        if plan.fault == "hang":
            return
        if plan.status == 200 and request.body.get("stream") and plan.fault is None:
            self._stream(request, plan)
        elif plan.total > 0:
            self._timer = self._loop.call_later(plan.total, self._answer, request)
        else:
            self._answer(request)

    def give_up(self) -> None:
        """End the request that is at work with what there is, as vLLM does: 200, and ``finish_reason: abort``."""
        request = self.request
        assert request is not None
        assert request.plan is not None
        if request.plan.status == 200 and request.plan.reply.get("choices"):
            request.plan.reply["choices"][0]["finish_reason"] = "abort"
        if self._timer is not None:
            self._timer.cancel()
        if request.body.get("stream"):
            self.close()
        else:
            self._answer(request)

    def _answer(self, request: _Request) -> None:
        plan, server = request.plan, self._server
        assert plan is not None
        if plan.status != 200:
            extra = b"retry-after: %g\r\n" % server.config.faults.retry_after if plan.status in (429, 503) else b""
            data = server.reply(plan.status, orjson.dumps(plan.reply), extra=extra)
        elif plan.fault == "html":
            data = server.reply(200, _HTML, b"text/html")
        else:
            data = server.ok(orjson.dumps(plan.reply))
        if plan.fault == "disconnect":
            self._transport.write(data[: -(len(data) // 4)])
            self._transport.close()
            self._end()
            return
        self._finish(request, plan)
        self._write(data)

    def _stream(self, request: _Request, plan: Plan) -> None:
        options = request.body.get("stream_options") or {}
        events = stream_events(plan.reply, bool(options.get("include_usage")))
        self._transport.write(self._server.stream_head())
        pause = (plan.total - plan.first) / max(1, len(events) - 1)
        if plan.total > 0:
            self._timer = self._loop.call_later(plan.first, self._send_event, request, events, 0, pause)
        else:
            self._transport.write(b"".join(events))
            self._finish(request, plan)
            self._write(b"")

    def _send_event(self, request: _Request, events: list[bytes], index: int, pause: float) -> None:
        self._transport.write(events[index])
        if index + 1 < len(events):
            self._timer = self._loop.call_later(pause, self._send_event, request, events, index + 1, pause)
        else:
            assert request.plan is not None
            self._finish(request, request.plan)
            self._write(b"")

    def _finish(self, request: _Request, plan: Plan) -> None:
        """Count the answered request and free its slot."""
        if plan.status == 200:
            choices = plan.reply["choices"]
            waited = self._loop.time() - request.arrived
            first = max(0.0, waited - (plan.total - plan.first))
            reason = choices[0]["finish_reason"] if choices else "error"
            self._server.metrics.finished(reason, plan.prompt_tokens, plan.tokens, first, waited)
        self._end()

    def _end(self) -> None:
        """Take the request off this connection and free its slot, if there is one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        request, self.request = self.request, None
        if request is not None:
            self._server.slots.leave(request.start)
            self._server.done()

    def _write(self, data: bytes) -> None:
        if data:
            self._transport.write(data)
        if not self._keep:
            self._transport.close()


class _Request:
    """A chat request: what the slots start and the connection answers."""

    __slots__ = ("_connection", "arrived", "began", "body", "plan", "start")

    def __init__(self, connection: _Connection, body: Any, arrived: float) -> None:
        self._connection = connection
        self.body = body
        self.arrived = arrived
        self.began = arrived
        self.plan: Plan | None = None
        self.start = partial(connection.work, self)

    def progress(self, now: float) -> tuple[float, float]:
        """How many tokens of its prompt are read, and how many of its answer are made; none at a fault."""
        plan = self.plan
        if plan is None or plan.fault is not None or plan.status != 200:
            return 0.0, 0.0
        spent = now - self.began
        read = min(1.0, spent / plan.first) if plan.first > 0 else 1.0
        made = max(0.0, min(1.0, (spent - plan.first) / (plan.total - plan.first))) if plan.total > plan.first else 0.0
        return plan.prompt_tokens * read, plan.tokens * made


async def serve_simulated(config: SimulatedConfig, host: str = "127.0.0.1", port: int = 0) -> SimulatedServer:
    """Start a simulated engine; port 0 takes a free one. Close it with ``close()``. Raises InputError."""
    server = SimulatedServer(config)
    await server.listen(host, port)
    return server


def run_server(config: SimulatedConfig, host: str, port: int, grace: float = 10.0, drain: float = 0.0) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is at work for at most ``grace`` seconds. Blocks.

    Args:
        config: what it does.
        host: the address to listen on.
        port: 0 takes a free one.
        grace: see above.
        drain: seconds for which requests are still taken after the signal, although it says that it is not ready.

    Raises:
        InputError: the address cannot be had.
    """

    async def serve() -> None:
        from kubegym.model.server import ModelServer

        server = await serve_simulated(config, host, port)
        own = "[::1]" if ":" in host else "127.0.0.1"
        model_server = ModelServer([f"http://{own}:{server.port}/v1"], model=config.model)
        server.front = Front(model_server)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        print(f"simulated engine, no model behind it: {config.model!r} at {server.url}", flush=True)
        await stop.wait()
        server.draining = True
        if drain:
            stop.clear()
            with contextlib.suppress(TimeoutError):  # a second signal ends it at once
                await asyncio.wait_for(stop.wait(), drain)
        await server.close(grace)
        await model_server.close()

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve())


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:  # Not on Windows.
        return None
    return uvloop.new_event_loop
