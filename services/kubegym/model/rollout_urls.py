"""A base URL for every rollout: for agents and programs that know no more of a model than that.

They speak Chat Completions, Responses or Messages to it. Whose call it is, its deadline, routing and retries, and what
is captured, follow from the URL, so that no such agent needs code of ours. The URL is a secret of its rollout, and good
for nothing when the rollout is over.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import orjson

from kubegym.core.clock import Deadline
from kubegym.core.errors import ModelError
from kubegym.core.protocols import CallContext, ModelReply
from kubegym.http.beside import served_beside
from kubegym.http.server import Problem, Reply, Request
from kubegym.model.client import POLICY_VERSION_HEADER
from kubegym.model.errors import ModelOverloaded
from kubegym.model.passthrough import CHAT, Passed, pass_stream, pass_whole, request_pairs
from kubegym.model.replies import EVENTS
from kubegym.model.retry import FAULTS, OVERLOAD, Tries
from kubegym.model.server import ModelServer, with_tokens
from kubegym.model.streaming import chat_events
from kubegym.model.upstream import Client

T = TypeVar("T")

Dialect = Literal["responses", "chat", "completions"]
_OF_THE_CALLER = frozenset({b"authorization", b"x-api-key", b"cookie"})
"""Header lines that mean this server, not the model behind it."""


@dataclass(frozen=True, slots=True)
class CapturedCall:
    """A call that was answered.

    Attributes:
        rollout_id: whose it was.
        dialect: in what the call was made to the model: Messages are Responses by then.
        request: create-params, or the body of the chat call.
        reply: the Responses object, with the training fields of contract 2.7 where token ids are asked for; or the chat
            completion, with ``prompt_token_ids``, ``token_ids`` and ``logprobs``.
        policy_version: of the weights that answered, where the replica told.
        started_at: seconds since 1970.
        seconds: that the call took, retries included.
    """

    rollout_id: str
    dialect: Dialect
    request: dict[str, Any]
    reply: dict[str, Any]
    policy_version: int | None
    started_at: float
    seconds: float


class Capture(Protocol):
    """Keeps the calls of rollouts."""

    def captured(self, call: CapturedCall) -> None:
        """A call was answered. Called before the answer is sent, so that none is missing of what an agent has seen."""
        ...


@dataclass(slots=True)
class _Open:
    segment: str
    context: CallContext


class RolloutUrls(ModelServer):
    """A model server that answers open rollouts only. ``async with RolloutUrls(...) as urls: urls.open(context)``.

    Args:
        upstreams: as ``ModelServer``; a name may stand for several replicas (``resolver``).
        host: where to listen, which is where agents reach it: loopback, or the pod's address.
        port: 0 takes a free one.
        capture: keeps every call; None: they go through as they are. A captured call is made whole, and streamed to
            the agent when it is.
        token_ids: as ``ModelServer``; what an agent did not ask for itself is captured and not shown to it.
        rng: for pauses between tries.
        options: as ``ModelServer``.
    """

    def __init__(
        self,
        upstreams: Sequence[Client | str],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        capture: Capture | None = None,
        token_ids: bool = False,
        rng: random.Random | None = None,
        **options: Any,
    ) -> None:
        super().__init__(upstreams, token_ids=token_ids, probe=False, rng=rng, **options)
        self._listen = (host, port)
        self._capture = capture
        self._ask_tokens = token_ids
        self._rng = rng or random.Random()
        self._rollouts: dict[str, _Open] = {}
        self._by_segment: dict[str, str] = {}
        self._serving = AsyncExitStack()
        self._url = ""

    async def __aenter__(self) -> RolloutUrls:
        host, port = self._listen
        self._url = await self._serving.enter_async_context(served_beside(self, host, port))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._serving.aclose()

    def open(self, context: CallContext) -> str:
        """The base URL of a rollout, without ``/v1``: Messages are asked below it, the other two below its ``/v1``.

        Args:
            context: whose it is; its deadline bounds every call.
        """
        identity = context.rollout_id
        self.shut(identity)
        segment = f"{identity}.{secrets.token_hex(16)}"
        self._rollouts[identity] = _Open(segment, context)
        self._by_segment[segment] = identity
        return f"{self._url}/ng-rollout/{segment}"

    def shut(self, rollout_id: str) -> None:
        """The rollout is over: its URL is no longer good. May be called twice."""
        opened = self._rollouts.pop(rollout_id, None)
        if opened is not None:
            del self._by_segment[opened.segment]
            self._upstreams.leave(rollout_id)

    def _key(self, request: Request) -> tuple[str | None, list[tuple[bytes, bytes]]]:
        identity = self._by_segment.get(request.rollout or "")
        if identity is None:
            raise Problem(404, "this is the URL of no rollout that runs")
        request.rollout = identity
        return identity, []

    def _timeout(self, request: Request) -> float:
        assert request.rollout is not None
        opened = self._rollouts.get(request.rollout)
        return min(super()._timeout(request), opened.context.deadline.remaining()) if opened is not None else 0.0

    async def _respond(self, request: Request, key: str | None, params: dict[str, Any]) -> ModelReply:
        ask = super()._respond
        started_at, started = time.time(), time.monotonic()
        reply = await self._patiently(request, lambda: ask(request, key, params))
        if self._capture is None:
            return reply
        self._told("responses", request, params, with_tokens(reply), reply.policy_version, started_at, started)
        reply.tokens = None  # captured, and not shown to an agent that did not ask
        return reply

    async def _generate(self, path: str, request: Request, key: str | None, body: dict[str, Any]) -> Reply:
        pairs = [pair for pair in request_pairs(request.pairs) if pair[0] not in _OF_THE_CALLER]
        streamed = body.get("stream") is True
        if self._capture is None:
            passing = pass_stream if streamed else pass_whole
            return await self._patiently(
                request,
                lambda: passing(
                    self._upstreams,
                    key,
                    Passed(path, request.body, body, pairs, self._timeout(request), self._used(request)),
                ),
            )
        whole = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
        if self._ask_tokens:
            whole |= {"return_token_ids": True, "logprobs": True if path == CHAT else whole.get("logprobs") or 1}
        raw = orjson.dumps(whole)
        started_at, started = time.time(), time.monotonic()
        reply = await self._patiently(
            request,
            lambda: pass_whole(
                self._upstreams, key, Passed(path, raw, whole, pairs, self._timeout(request), self._used(request))
            ),
        )
        completion = orjson.loads(reply.body)
        dialect: Dialect = "chat" if path == CHAT else "completions"
        self._told(dialect, request, body, completion, _version(reply), started_at, started)
        shown = _as_asked(completion, body)
        if not streamed:
            return Reply(orjson.dumps(shown), reply.status, reply.content_type, reply.headers)
        if path != CHAT:
            raise Problem(422, "completions are not streamed while their calls are captured")
        options = body.get("stream_options")
        usage = isinstance(options, dict) and bool(options.get("include_usage"))
        return Reply(chat_events(shown, usage), 200, EVENTS, reply.headers)

    async def _patiently(self, request: Request, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer, within the bounds of ``model.retry``: agents of others may know none.

        Raises:
            ModelError: the last try's.
        """
        tries = Tries(FAULTS, OVERLOAD, self._rng)
        while True:
            try:
                return await ask()
            except ModelError as error:
                pause = tries.pause(error)
                deadline = self._deadline(request)
                if pause is None or deadline is None:
                    raise
                if isinstance(error, ModelOverloaded):
                    deadline.excuse(pause)
                if pause >= deadline.remaining():
                    raise
            await asyncio.sleep(pause)

    def _deadline(self, request: Request) -> Deadline | None:
        opened = self._rollouts.get(request.rollout or "")
        return opened.context.deadline if opened is not None else None

    def _told(
        self,
        dialect: Dialect,
        request: Request,
        asked: dict[str, Any],
        reply: dict[str, Any],
        version: int | None,
        started_at: float,
        started: float,
    ) -> None:
        assert self._capture is not None
        assert request.rollout is not None
        seconds = time.monotonic() - started
        self._capture.captured(CapturedCall(request.rollout, dialect, asked, reply, version, started_at, seconds))


def _version(reply: Reply) -> int | None:
    for name, value in reply.headers:
        if name.lower() == POLICY_VERSION_HEADER and value.isdigit():
            return int(value)
    return None


def _as_asked(completion: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """The completion without what was asked for in the agent's place."""
    hidden = set() if body.get("return_token_ids") else {"prompt_token_ids", "token_ids"}
    if not body.get("logprobs"):
        hidden.add("logprobs")
    choices = [
        {name: value for name, value in choice.items() if name not in hidden} for choice in completion["choices"]
    ]
    return {name: value for name, value in {**completion, "choices": choices}.items() if name not in hidden}
