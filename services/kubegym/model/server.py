"""The model server: Responses, Chat Completions and Messages over any number of replicas of a model (contract 1.4).

It keeps a rollout at one replica, speaks for models that know Chat Completions only, and holds no state that a client
could miss: any model server may answer any call. It asks once and says honestly what came of it; whether to ask again
is its caller's business, who knows the rollout's deadline.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from kubegym.core.clock import Deadline
from kubegym.core.errors import ModelError
from kubegym.core.ids import run_of_rollout
from kubegym.core.protocols import CallContext, ModelReply
from kubegym.core.tokens import last_told
from kubegym.core.wire import DEADLINE_HEADER, POLICY_VERSION_HEADER, ROLE_HEADER, RUN_HEADER
from kubegym.http.beside import served_beside
from kubegym.http.names import Resolver
from kubegym.http.open_users import HEADER as OPEN_HEADER
from kubegym.http.open_users import OpenUsers
from kubegym.http.presence import WhileConnected
from kubegym.http.server import App, Problem, Reply, Request, serve
from kubegym.http.watch import SECONDS
from kubegym.model.control import Control
from kubegym.model.convert import (
    ReasoningStyle,
    Sanitised,
    message_of_response,
    param_problems,
    params_of_messages,
    sanitise,
)
from kubegym.model.engine_metrics import EngineMetrics
from kubegym.model.errors import RequestUnsupported
from kubegym.model.forward import POSTED, READ, forward
from kubegym.model.holds import Holds
from kubegym.model.metrics import ModelServerMetrics
from kubegym.model.openapi import document
from kubegym.model.passthrough import CHAT, Passed, pass_stream, pass_whole, request_pairs
from kubegym.model.queue import AT_WORK, FairQueue
from kubegym.model.readiness import Readiness
from kubegym.model.relay import Relay
from kubegym.model.replies import EVENTS, failure_reply, status_of, version_headers
from kubegym.model.streaming import failed_events, message_events, response_events
from kubegym.model.upstream import Client, Upstreams, endpoint_client, only_model
from kubegym.model.weights import Exchange, Places, Start
from kubegym.model.weights.engines import weights_engine

STOP_HEADER = (b"x-kubegym-stop", b"context_window")
"""On a reply that is empty because the conversation no longer fits; its body can only say "max_output_tokens"."""
COOKIE = b"kubegym-route"
"""Keeps callers without a rollout id at one replica, where there are several. Optional."""

QUEUED_HEADER = b"x-kubegym-queued"
"""On a reply whose call waited here: for how many seconds."""
DRAINING_LINE = (b"x-kubegym-draining", b"1")
"""On a reply of a server that wants its rollouts to go elsewhere."""

_Work = Callable[[Request, str | None], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class ControlPort:
    """Where a control port listens: host, port (0 takes a free one), the file of its token, who is told its URL."""

    host: str
    port: int
    token_file: Path
    on_listening: Callable[[str], None] | None = None


class ModelServer(App):
    """An ASGI application that serves a model.

    Args:
        upstreams: replicas of the model, each a URL up to and with ``/v1`` or a client; closed with the server.
        model: the name to ask URLs for.
        api_key: for URLs; a Path is a file that is read again while we run.
        sampling: chat fields forced onto every call, for URLs.
        token_ids: ask URLs for token ids and log-probs (contract 2.7).
        reasoning: how reasoning in the history goes to URLs.
        request_timeout: seconds for a call; callers may ask for less by ``x-kubegym-deadline``.
        probe: whether ``/readyz`` waits until an upstream has told its models; without, calls alone find out.
        queue: who waits for the upstreams, and how many; by default ``FairQueue``'s limits for each of them.
        control: where the control port listens, and the file with its token; None: there is none.
        weights: where announced weights come from and what the engine starts with; None: they are not exchanged.
        silence_seconds: see ``Upstreams``.
        resolver: see ``Upstreams``.
        rng: for pauses between tries.

    Attributes:
        exchange: the weights of the one engine behind it, where they can be exchanged.
        holds: reasons not to be ready beside those that it finds out itself.
        queue: see above.

    Raises:
        InvalidSpec: no upstream, one twice, or a URL, key or field that cannot be used.
        InputError: a key file that cannot be read.
    """

    def __init__(
        self,
        upstreams: Sequence[Client | str],
        *,
        model: str = "",
        api_key: str | Path | None = None,
        sampling: Mapping[str, Any] | None = None,
        token_ids: bool = False,
        reasoning: ReasoningStyle = "fields",
        request_timeout: float = 3600.0,
        probe: bool = True,
        queue: FairQueue | None = None,
        control: ControlPort | None = None,
        weights: tuple[Places, Start] | None = None,
        silence_seconds: float = SECONDS,
        resolver: Resolver | None = None,
        rng: random.Random | None = None,
    ) -> None:
        options: dict[str, Any] = {"sampling": sampling, "token_ids": token_ids, "reasoning": reasoning}

        def client_for(url: str) -> Client:
            return endpoint_client(url, model, api_key=api_key, **options)

        clients = [client_for(one) if isinstance(one, str) else one for one in upstreams]
        self._upstreams = Upstreams(
            clients, silence_seconds=silence_seconds, rng=rng, resolver=resolver, client_for=client_for
        )
        self.holds = Holds()
        self.queue = queue or FairQueue(AT_WORK * len(clients))
        self._control = control
        self.exchange = self._exchange_of(clients, weights)
        self._open = OpenUsers()
        self._stack = AsyncExitStack()
        self._readiness = Readiness(clients if probe else ())
        urls = [one for one in upstreams if isinstance(one, str)]
        self._engines = EngineMetrics(urls) if urls else None
        self._request_timeout = request_timeout
        self._counters = ModelServerMetrics(self._upstreams.states, self.queue, lambda: self._upstreams.decisions)
        self._created = int(time.time())
        super().__init__(
            "KubeGym model server",
            {
                ("POST", "/v1/responses"): self._route("/v1/responses", self._responses),
                ("POST", "/v1/chat/completions"): self._route("/v1/chat/completions", self._chat),
                ("POST", "/v1/messages"): self._route("/v1/messages", self._messages, anthropic=True),
                ("POST", "/v1/completions"): self._route("/v1/completions", self._completions),
                ("GET", "/v1/models"): self._list_models,
                **{("POST", path): self._route(path, self._forward) for path in POSTED},
                **{("GET", path): self._route(path, self._forward, queued=False) for path in READ},
            },
            start=self._begin,
            stop=self.close,
            unready=self._why_unready,
            registry=self._counters.registry,
            document=document,
        )

    def _exchange_of(self, clients: Sequence[Client], weights: tuple[Places, Start] | None) -> Exchange | None:
        engine = weights_engine(clients[0]) if weights is not None and len(clients) == 1 else None
        return Exchange(engine, self.holds, self.queue, *weights) if engine is not None and weights else None

    async def _begin(self) -> None:
        await self._readiness.start()
        if self.exchange is not None:
            self.exchange.begin()
        if self._control is not None:
            app = Control(self.holds, self.queue, self._control.token_file, self._why_unready, self.exchange)
            url = await self._stack.enter_async_context(
                served_beside(app, self._control.host, self._control.port, grace_seconds=1.0)
            )
            if self._control.on_listening is not None:
                self._control.on_listening(url)

    async def close(self) -> None:
        """Close the upstreams."""
        await self._stack.aclose()
        if self.exchange is not None:
            await self.exchange.close()
        await self._readiness.stop()
        await self._upstreams.close()
        if self._engines is not None:
            await self._engines.close()

    async def _metrics(self, request: Request) -> Reply:
        """Its own, and those of the engines behind it: of each replica, or with ``?engines=sum`` summed."""
        reply = await super()._metrics(request)
        if self._engines is not None:
            reply.body += await self._engines.read(summed=request.parameters().get("engines") == "sum")
        return reply

    async def _ready(self, request: Request) -> Reply:
        """With what is served, and what becomes of weights that were announced."""
        reply = await super()._ready(request)
        if self.exchange is None:
            return reply
        return Reply.json({**orjson.loads(reply.body), **self.exchange.told()}, reply.status)

    def _why_unready(self) -> str | None:
        if self.stopping:
            return "shutting down"
        if self.holds.reasons:
            return self.holds.first
        if self._readiness.reason is not None:
            return self._readiness.reason
        return None if self._upstreams.any_usable else "no upstream answers"

    def _route(
        self, path: str, work: _Work, *, anthropic: bool = False, queued: bool = True
    ) -> Callable[[Request], Awaitable[Reply]]:
        """A handler that lets in, counts, routes, answers errors, and stops when the client leaves."""
        clock = time.monotonic
        counters, queue = self._counters, self.queue

        async def handle(request: Request) -> Reply:
            started = clock()
            counters.started()
            outcome, waited, run = "gone", -1.0, ""
            version: list[tuple[bytes, bytes]] = []
            reply: Reply | None = None

            def ended(how: str) -> None:
                seconds = clock() - started
                counters.ended(path, how, seconds)
                if waited >= 0:
                    queue.leave(run, seconds - waited)

            try:
                key, headers = self._key(request)
                run = run_of(request)
                assert request.receive is not None
                async with WhileConnected(request.receive):
                    try:
                        if queued:
                            waited = await queue.enter(run)
                            counters.waited(waited)
                            version = self._version()
                        reply = await work(request, key)
                        if not any(name == POLICY_VERSION_HEADER for name, _ in reply.headers):
                            reply.headers += version  # else it says itself by what it was made
                    except ModelError as error:
                        reply = failure_reply(error, anthropic=anthropic)
                reply.headers += headers
                reply.headers += self._words(request, waited)
                outcome = str(reply.status)
                return reply
            except Problem as problem:
                outcome = str(problem.status)
                raise
            finally:
                stream = reply.stream if reply is not None else None
                if isinstance(stream, Relay):
                    stream.on_end = ended
                    if outcome == "gone":  # the client left when the stream had just begun: nobody will read it
                        await stream.aclose()
                else:
                    ended(outcome)

        return handle

    def _version(self) -> list[tuple[bytes, bytes]]:
        """Of the weights that answer whoever was just let in: they are exchanged while nobody is (``weights``).

        A call that stays at the engine meanwhile says itself by what it was made (``kept``).
        """
        return version_headers(self.exchange.version) if self.exchange is not None else []

    def _words(self, request: Request, waited: float) -> list[tuple[bytes, bytes]]:
        """What our own clients want to know beside the reply."""
        words = []
        if (told := request.headers.get(OPEN_HEADER)) is not None:
            words.append((OPEN_HEADER, self._open.told(told, time.monotonic())))
        if waited > 0:
            words.append((QUEUED_HEADER, b"%.6f" % waited))
        if self.stopping or self.holds.reasons:
            words.append(DRAINING_LINE)
        return words

    def _key(self, request: Request) -> tuple[str | None, list[tuple[bytes, bytes]]]:
        """Who calls, as far as choosing a replica goes, and the cookie by which to tell next time."""
        if request.rollout is not None:
            return request.rollout, []
        if len(self._upstreams) == 1:
            return None, []
        for pair in request.headers.get(b"cookie", b"").split(b";"):
            name, _, value = pair.strip().partition(b"=")
            if name == COOKIE and value:
                return value.decode("latin-1"), [(b"set-cookie", _cookie(value))]
        key = os.urandom(12).hex()
        return key, [(b"set-cookie", _cookie(key.encode()))]

    def _timeout(self, request: Request) -> float:
        text = request.headers.get(DEADLINE_HEADER)
        if text is None:
            return self._request_timeout
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < float("inf"):
            raise Problem.invalid(["header", DEADLINE_HEADER.decode()], "must be a number of seconds")
        return min(seconds, self._request_timeout)

    async def _respond(self, request: Request, key: str | None, params: dict[str, Any]) -> ModelReply:
        previous = last_told(params.get("input"))
        context = CallContext(key or "", Deadline(self._timeout(request)), previous=previous)
        return await self._ask(request, key, params, context)

    async def _ask(self, request: Request, key: str | None, params: dict[str, Any], context: CallContext) -> ModelReply:
        reply = await self._upstreams.ask(key, lambda client: client.respond(params, context))
        if usage := reply.response["usage"]:
            self._used(request)(usage["input_tokens"], usage["output_tokens"])
        return reply

    def _used(self, request: Request) -> Callable[[int, int], None]:
        """Counts the tokens of a reply to this request."""
        return self._counters.using(run_of(request), request.headers.get(ROLE_HEADER, b"").decode("latin-1")[:64])

    async def _responses(self, request: Request, key: str | None) -> Reply:
        params = request.object()
        sanitised: Sanitised | None = None
        if params.get("stream"):
            sanitised = sanitise(params)
            params = sanitised.params
        if problems := param_problems(params):
            raise Problem(422, problems)
        if sanitised is None:
            reply = await self._respond(request, key, params)
            return Reply(orjson.dumps(with_tokens(reply)), headers=_told(reply))
        try:
            reply = await self._respond(request, key, params)
        except ModelError as error:
            if status_of(error) < 500:
                raise  # The request's fault, or a wait that only the caller can make.
            identity = f"resp_{os.urandom(12).hex()}"
            return Reply(
                failed_events(error.message, identity, int(time.time()), self._upstreams.models[0]), 200, EVENTS
            )
        response = with_tokens(reply)
        response["output"] = sanitised.restore(response["output"])
        return Reply(response_events(response), 200, EVENTS, _told(reply))

    async def _messages(self, request: Request, key: str | None) -> Reply:
        body = request.object()
        params = params_of_messages(body)
        if problems := param_problems(params):
            raise RequestUnsupported("; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in problems))
        reply = await self._respond(request, key, params)
        message = message_of_response(reply.response, reply.stop)
        headers = _told(reply)
        if body.get("stream"):
            return Reply(message_events(message), 200, EVENTS, headers)
        return Reply(orjson.dumps(message), headers=headers)

    async def _chat(self, request: Request, key: str | None) -> Reply:
        body = request.object()
        if not isinstance(body.get("messages"), list):
            raise Problem.invalid(["body", "messages"], "a list of messages is needed", "missing")
        return await self._generate(CHAT, request, key, body)

    async def _completions(self, request: Request, key: str | None) -> Reply:
        return await self._generate("v1/completions", request, key, request.object())

    async def _generate(self, path: str, request: Request, key: str | None, body: dict[str, Any]) -> Reply:
        pairs = request_pairs(request.pairs)
        passed = Passed(path, request.body, body, pairs, self._timeout(request), self._used(request))
        passing = pass_stream if body.get("stream") is True else pass_whole
        return await passing(self._upstreams, key, passed)

    async def _forward(self, request: Request, key: str | None) -> Reply:
        return await forward(self._upstreams, key, request, self._timeout(request))

    async def _list_models(self, request: Request) -> Reply:
        """What is served, with its context window in vLLM's word; 503 as long as no engine has told it."""
        if not self._readiness.answered:
            raise Problem(503, self._readiness.reason, [(b"retry-after", b"1")])
        entries: list[dict[str, Any]] = []
        for name in self._upstreams.models:
            entries.append({"id": name, "object": "model", "created": self._created, "owned_by": "kubegym"})
            if (window := self._upstreams.context_tokens(name)) is not None:
                entries[-1]["max_model_len"] = window
        return Reply(orjson.dumps({"object": "list", "data": entries}))


def with_tokens(reply: ModelReply) -> dict[str, Any]:
    """The reply's response with its token ids where the contract has them (2.7): on the last output item."""
    if reply.tokens is None:
        return reply.response
    *before, last = reply.response["output"]
    return {**reply.response, "output": [*before, {**last, **reply.tokens.fields()}]}


def run_of(request: Request) -> str:
    """The run that asks: as it says, else as its rollout's id does; empty: nobody's."""
    said = request.headers.get(RUN_HEADER)
    if said is not None:
        return said.decode("latin-1")[:64]
    return run_of_rollout(request.rollout) if request.rollout is not None else ""


def _told(reply: ModelReply) -> list[tuple[bytes, bytes]]:
    """Headers for what the bodies have no words for."""
    headers = version_headers(reply.policy_version, reply.policy_runs)
    if reply.stop == "context_window":
        headers.append(STOP_HEADER)
    return headers


def _cookie(value: bytes) -> bytes:
    return b"%b=%b; Path=/; HttpOnly; SameSite=Lax" % (COOKIE, value)


def run_model_server(
    upstreams: Sequence[Client | str],
    host: str,
    port: int,
    *,
    model: str | None = None,
    api_key: str | Path | None = None,
    grace_seconds: float = 30.0,
    drain_seconds: float = 0.0,
    on_listening: Callable[[str], None] | None = None,
    **options: Any,
) -> None:
    """Serve a model until SIGTERM or SIGINT. Blocks.

    Args:
        upstreams: as ``ModelServer``.
        host: the address to listen on.
        port: 0 picks a free one.
        model: the name to ask URLs for; None asks the first one which model it serves.
        api_key: as ``ModelServer``.
        grace_seconds: for calls in flight at shutdown.
        drain_seconds: as of ``http.server.serve``.
        on_listening: told the server's URL when it accepts connections.
        options: as ``ModelServer``.

    Raises:
        InputError: the address cannot be had, or the model's name is neither given nor to be found out.
        InvalidSpec: see ``ModelServer``.
    """
    urls = [upstream for upstream in upstreams if isinstance(upstream, str)]
    if urls and model is None:
        model = asyncio.run(only_model(urls[0], api_key))
    app = ModelServer(upstreams, model=model or "", api_key=api_key, **options)
    serve(app, host, port, grace_seconds=grace_seconds, drain_seconds=drain_seconds, on_listening=on_listening)
