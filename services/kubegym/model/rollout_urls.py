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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import orjson

from kubegym.core.clock import Deadline
from kubegym.core.errors import ModelError
from kubegym.core.outcomes import StopReason
from kubegym.core.protocols import CallContext, ModelReply
from kubegym.core.tokens import CallTokens
from kubegym.core.wire import POLICY_RUNS_HEADER, POLICY_VERSION_HEADER, policy_told
from kubegym.http.beside import served_beside
from kubegym.http.server import Problem, Reply, Request
from kubegym.model.client import Policy
from kubegym.model.convert import chat_request, told_tokens
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
        policy: version and runs of the weights that answered, where the replica told.
        started_at: seconds since 1970.
        seconds: that the call took, retries included.
        stop: why a Responses reply is cut short, where its own words do not tell.
    """

    rollout_id: str
    dialect: Dialect
    request: dict[str, Any]
    reply: dict[str, Any]
    policy: Policy
    started_at: float
    seconds: float
    stop: StopReason | None = None


class Capture(Protocol):
    """Keeps the calls of rollouts."""

    def captured(self, call: CapturedCall) -> None:
        """A call was answered. Called before the answer is sent, so that none is missing of what an agent has seen."""
        ...


@dataclass(slots=True)
class _Open:
    segment: str
    context: CallContext
    left: int | None
    seeds: Callable[[int], int] | None
    asked: int = 0
    refused: bool = False
    trouble: ModelError | None = None
    previous: CallTokens | None = None

    def begin(self) -> int | None:
        """Count a call; its seed. Raises Problem where it is one too many."""
        if self.left is not None and self.asked >= self.left:
            self.refused = True
            raise Problem(403, f"the rollout has made its {self.left} model calls")
        self.asked += 1
        return self.seeds(self.asked - 1) if self.seeds is not None else None


class RolloutUrls(ModelServer):
    """A model server that answers open rollouts only. ``async with RolloutUrls(...) as urls: urls.open(context)``.

    Args:
        upstreams: as ``ModelServer``; a name may stand for several replicas (``resolver``).
        host: where to listen, which is where agents reach it: loopback, or the pod's address.
        port: 0 takes a free one.
        capture: keeps every call; None: they go through as they are. A captured call is made whole, and streamed to
            the agent when it is.
        token_ids: as ``ModelServer``; what an agent did not ask for itself is captured and not shown to it.
        overrides: Responses create-params that win over what agents ask for; ``metadata`` is merged by key.
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
        overrides: Mapping[str, Any] | None = None,
        rng: random.Random | None = None,
        **options: Any,
    ) -> None:
        super().__init__(upstreams, token_ids=token_ids, probe=False, rng=rng, **options)
        self._listen = (host, port)
        self._capture = capture
        self._ask_tokens = token_ids
        self._rng = rng or random.Random()
        self._overrides = dict(overrides or {})
        self._forced = _forced(self._overrides)
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

    def open(
        self, context: CallContext, *, max_calls: int | None = None, seeds: Callable[[int], int] | None = None
    ) -> str:
        """The base URL of a rollout, without ``/v1``: Messages are asked below it, the other two below its ``/v1``.

        Args:
            context: whose it is; its deadline bounds every call, and it may ask for token ids.
            max_calls: calls that are answered; any further one is refused (403).
            seeds: of each call, from 0; an agent's own counts for nothing then.
        """
        identity = context.rollout_id
        self.shut(identity)
        segment = f"{identity}.{secrets.token_hex(16)}"
        self._rollouts[identity] = _Open(segment, context, max_calls, seeds)
        self._by_segment[segment] = identity
        return f"{self._url}/ng-rollout/{segment}"

    def shut(self, rollout_id: str) -> tuple[ModelError | None, bool]:
        """The rollout is over: its URL is no longer good. May be called twice.

        Returns:
            The trouble that ended its last call, where that may pass; and whether a call was refused for their number.
        """
        opened = self._rollouts.pop(rollout_id, None)
        if opened is None:
            return None, False
        del self._by_segment[opened.segment]
        self._upstreams.leave(rollout_id)
        return opened.trouble, opened.refused

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

    def _opened(self, request: Request) -> _Open:
        opened = self._rollouts.get(request.rollout or "")
        if opened is None:
            raise Problem(404, "this is the URL of no rollout that runs")
        return opened

    async def _respond(self, request: Request, key: str | None, params: dict[str, Any]) -> ModelReply:
        opened = self._opened(request)
        seed = opened.begin()
        if self._overrides:
            metadata = {**(params.get("metadata") or {}), **(self._overrides.get("metadata") or {})}
            params = {**params, **self._overrides} | ({"metadata": metadata} if metadata else {})
        tokens = self._ask_tokens or opened.context.token_ids
        context = CallContext(key or "", Deadline(self._timeout(request)), seed, tokens, opened.previous)
        began = time.time(), time.monotonic()
        reply = await self._patiently(opened, lambda: self._ask(request, key, params, context))
        if self._capture is None:
            return reply
        opened.previous = reply.tokens
        policy = reply.policy_version, reply.policy_runs
        self._told("responses", request, params, with_tokens(reply), policy, began, reply.stop)
        reply.tokens = None  # captured, and not shown to an agent that did not ask
        return reply

    async def _generate(self, path: str, request: Request, key: str | None, body: dict[str, Any]) -> Reply:
        opened = self._opened(request)
        seed = opened.begin()
        raw, used = request.body, self._used(request)
        if seed is not None or self._forced:
            body = {**body, **self._forced} | ({} if seed is None else {"seed": seed})
            raw = orjson.dumps(body)
        pairs = [pair for pair in request_pairs(request.pairs) if pair[0] not in _OF_THE_CALLER]
        streamed = body.get("stream") is True
        if self._capture is None:
            passing = pass_stream if streamed else pass_whole
            return await self._patiently(
                opened,
                lambda: passing(self._upstreams, key, Passed(path, raw, body, pairs, self._timeout(request), used)),
            )
        whole = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
        tokens = self._ask_tokens or opened.context.token_ids
        if tokens:
            whole |= {"return_token_ids": True, "logprobs": True if path == CHAT else whole.get("logprobs") or 1}
        raw = orjson.dumps(whole)
        previous = opened.previous if path == CHAT and tokens else None
        began = time.time(), time.monotonic()
        reply = await self._patiently(
            opened,
            lambda: pass_whole(
                self._upstreams, key, Passed(path, raw, whole, pairs, self._timeout(request), used, previous)
            ),
        )
        completion = orjson.loads(reply.body)
        opened.previous = told_tokens(completion) if path == CHAT else None
        dialect: Dialect = "chat" if path == CHAT else "completions"
        self._told(dialect, request, body, completion, _policy(reply), began)
        shown = _as_asked(completion, body)
        if not streamed:
            return Reply(orjson.dumps(shown), reply.status, reply.content_type, reply.headers)
        if path != CHAT:
            raise Problem(422, "completions are not streamed while their calls are captured")
        options = body.get("stream_options")
        usage = isinstance(options, dict) and bool(options.get("include_usage"))
        return Reply(chat_events(shown, usage), 200, EVENTS, reply.headers)

    async def _patiently(self, opened: _Open, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer, within the bounds of ``model.retry``: agents of others may know none.

        Raises:
            ModelError: the last try's.
        """
        tries, deadline = Tries(FAULTS, OVERLOAD, self._rng), opened.context.deadline
        while True:
            try:
                answer = await ask()
                opened.trouble = None
                return answer
            except ModelError as error:
                pause = tries.pause(error)
                if pause is not None and isinstance(error, ModelOverloaded):
                    deadline.excuse(pause)
                if pause is None or pause >= deadline.remaining() or opened.segment not in self._by_segment:
                    opened.trouble = error if error.retryable else None
                    raise
            await asyncio.sleep(pause)

    def _told(
        self,
        dialect: Dialect,
        request: Request,
        asked: dict[str, Any],
        reply: dict[str, Any],
        policy: Policy,
        began: tuple[float, float],
        stop: StopReason | None = None,
    ) -> None:
        assert self._capture is not None
        assert request.rollout is not None
        seconds = time.monotonic() - began[1]
        self._capture.captured(CapturedCall(request.rollout, dialect, asked, reply, policy, began[0], seconds, stop))


def _forced(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Create-params as fields of a chat call."""
    body = chat_request({**overrides, "input": ""}, "")
    return {name: value for name, value in body.items() if name not in ("messages", "model")}


def _policy(reply: Reply) -> Policy:
    lines = {name.lower(): value for name, value in reply.headers}
    return policy_told(lines.get(POLICY_VERSION_HEADER), lines.get(POLICY_RUNS_HEADER))


def _as_asked(completion: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """The completion without what was asked for in the agent's place."""
    hidden = set() if body.get("return_token_ids") else {"prompt_token_ids", "token_ids"}
    if not body.get("logprobs"):
        hidden.add("logprobs")
    choices = [
        {name: value for name, value in choice.items() if name not in hidden} for choice in completion["choices"]
    ]
    return {name: value for name, value in {**completion, "choices": choices}.items() if name not in hidden}
