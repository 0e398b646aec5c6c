"""Generation calls as others wrote them, handed to an upstream and back: whole, or streamed piece by piece.

Requests go on as they came, header lines too, but for the model's name and forced sampling. A reply's bytes come back
as they are once it is known to be one: an aborted generation or a proxy's page is an error, never a completion.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import orjson

from kubegym.core.tokens import CallTokens
from kubegym.http import HttpError, ReadTimeout
from kubegym.http.headers import NEVER, Pair, end_to_end
from kubegym.http.server import JSON, Reply
from kubegym.model.client import ChatClient
from kubegym.model.errors import (
    ContextWindowExceeded,
    ModelAborted,
    ModelReplyInvalid,
    ModelTimeout,
    ModelUnavailable,
    RequestUnsupported,
)
from kubegym.model.relay import Relay, Used
from kubegym.model.replies import EVENTS, overflow_chat, version_headers
from kubegym.model.retry import excerpt, retry_after, status_error
from kubegym.model.streaming import chat_events
from kubegym.model.upstream import Client, Upstreams

CHAT = "v1/chat/completions"
REPLACED = NEVER | {b"content-type"}
"""Header lines of a reply that do not go on; ``Reply`` carries the type apart."""
_ERROR_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Passed:
    """A generation call on its way through.

    Attributes:
        path: the route at the upstream, such as ``CHAT``.
        raw: the body as it came.
        body: the same, parsed.
        pairs: the header lines that go on (``request_pairs``).
        timeout: seconds for the call.
        used: told the tokens of a whole reply.
        previous: the tokens of the conversation's call before, which the prompt is to continue.
    """

    path: str
    raw: bytes
    body: dict[str, Any]
    pairs: Sequence[Pair]
    timeout: float
    used: Used
    previous: CallTokens | None = None

    def kept_by(self, client: ChatClient) -> bool:
        """Whether the call stays at this upstream's engine while its weights change."""
        return self.path == CHAT and client.kept is not None and client.keeps({**self.body, **client.sampling})

    def asked(self, client: ChatClient) -> dict[str, Any]:
        """The call as this upstream is asked it: its name of the model, and what is forced."""
        return {**self.body, "model": self._model(client), **client.sampling}

    def data(self, client: ChatClient) -> bytes:
        """The body for this upstream; the very bytes where nothing is forced."""
        if self._model(client) == self.body.get("model") and not client.sampling:
            return self.raw
        return orjson.dumps(self.asked(client))

    def _model(self, client: ChatClient) -> str:
        model = self.body.get("model")
        if isinstance(model, str) and model in client.served and model != client.model:
            return model
        return client.asked


async def pass_whole(upstreams: Upstreams, rollout: str | None, passed: Passed) -> Reply:
    """Answer a call with an upstream's reply.

    Raises:
        ModelError: no completion; what the upstream said is in the message.
    """

    async def call(client: Client) -> Reply:
        if not isinstance(client, ChatClient):
            return Reply(orjson.dumps(await _engine_chat(client, passed, passed.body)))
        call = passed
        if passed.previous is not None and client.splicer is not None:
            named = {**passed.body, "model": passed.body.get("model") or client.model}
            body = await client.splicer.continued(named, passed.previous, passed.timeout)
            call = replace(passed, body=body, raw=orjson.dumps(body))
        if call.kept_by(client):
            chat, headers = await _kept(client, call)
            return Reply(orjson.dumps(chat), headers=headers)
        response = await client.post(client.at(passed.path), passed.pairs, call.data(client), passed.timeout)
        if 200 <= response.status < 300:
            _check(response.body, client, passed.used)
            kind = response.header(b"content-type") or JSON
            return Reply(response.body, response.status, kind, end_to_end(response.headers, REPLACED))
        refused = _refused(client, response.status, response.body, response.header(b"retry-after"), passed)
        return Reply(orjson.dumps(refused))

    return await upstreams.ask(rollout, call)


async def pass_stream(upstreams: Upstreams, rollout: str | None, passed: Passed) -> Reply:
    """Like ``pass_whole`` for a call with ``stream: true``; the reply's ``stream`` is a ``Relay``, or it is whole."""
    body = passed.body
    options = body.get("stream_options")
    include_usage = isinstance(options, dict) and bool(options.get("include_usage"))
    stack = AsyncExitStack()

    async def call(client: Client) -> Reply:
        if not isinstance(client, ChatClient):
            whole = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
            return Reply(chat_events(await _engine_chat(client, passed, whole), include_usage), 200, EVENTS)
        if passed.kept_by(client):  # its head says which weights made it, so it must be whole before
            chat, headers = await _kept(client, passed)
            return Reply(chat_events(chat, include_usage), 200, EVENTS, headers)
        opened = client.stream(b"POST", client.at(passed.path), passed.pairs, passed.data(client), passed.timeout)
        source = await stack.enter_async_context(opened)
        try:
            if not 200 <= source.status < 300:
                text = await source.read(_ERROR_BYTES)
                refused = _refused(client, source.status, text, source.header(b"retry-after"), passed)
                return Reply(chat_events(refused, include_usage), 200, EVENTS)
            kind = source.header(b"content-type") or b"no content type"
            if not kind.lower().startswith(b"text/event-stream"):
                raise ModelReplyInvalid(f"{client!r} answered with {kind.decode('latin-1')}, no stream", retryable=True)
            first = await anext(source, b"")
        except ReadTimeout as error:
            raise ModelTimeout(f"{client!r} gave no reply in {passed.timeout:g} s: {error.message}") from None
        except HttpError as error:
            raise ModelUnavailable(f"{client!r}: {error.message}") from None
        broke = upstreams.breaker(client)
        headers = end_to_end(source.headers, REPLACED)
        if source.header(b"cache-control") is None:
            headers.append((b"cache-control", b"no-cache"))
        relay = Relay(source, first, stack, broke=broke, used=passed.used)
        return Reply(status=source.status, content_type=kind, headers=headers, stream=relay)

    try:
        reply = await upstreams.ask(rollout, call)
    except BaseException:
        await stack.aclose()
        raise
    if reply.stream is None:
        await stack.aclose()
    return reply


def request_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """The header lines of a generation call that go on. Its reply is read, so that it must not come compressed."""
    return end_to_end(pairs, _NOT_PASSED)


_NOT_PASSED = NEVER | {b"accept-encoding"}


async def _kept(client: ChatClient, passed: Passed) -> tuple[dict[str, Any], list[Pair]]:
    """The completion of a call that stays, and the headers that say what made it. Raises ModelError."""
    try:
        chat, policy = await client.kept_chat(passed.asked(client), passed.timeout, passed.pairs)
    except ContextWindowExceeded:
        return overflow_chat(client.model, int(time.time())), []
    _check_completion(chat, client, passed.used)
    return chat, version_headers(*policy)


async def _engine_chat(client: Client, passed: Passed, body: dict[str, Any]) -> dict[str, Any]:
    assert not isinstance(client, ChatClient)
    if passed.path != CHAT:
        raise RequestUnsupported(f"{client!r} answers chat completions only, not {passed.path}")
    try:
        chat = await client.complete({**body, "model": client.model, **client.sampling}, passed.timeout)
    except ContextWindowExceeded:
        return overflow_chat(client.model, int(time.time()))
    _check_completion(chat, client, passed.used)
    return chat


def _refused(client: ChatClient, status: int, text: bytes, asked: bytes | None, passed: Passed) -> dict[str, Any]:
    """The empty completion for a conversation that does not fit. Raises ModelError for any other refusal."""
    said = client.redact(text[:4096].decode(errors="replace"))
    error = status_error(status, said, repr(client), passed.body.get("max_tokens"))
    if isinstance(error, ContextWindowExceeded) and passed.path == CHAT:
        return overflow_chat(client.model, int(time.time()))
    error.retry_after = retry_after(asked.decode("latin-1") if asked else None, time.time())
    raise error


def _check(text: bytes, client: ChatClient, used: Used) -> None:
    """Whether the body is a completion. Raises ModelError."""
    try:
        chat = orjson.loads(text)
    except orjson.JSONDecodeError:
        said = excerpt(client.redact(text[:4096].decode(errors="replace")))
        raise ModelReplyInvalid(
            f"{client!r} answered with something that is not JSON: {said}", retryable=True
        ) from None
    _check_completion(chat, client, used)


def _check_completion(chat: Any, client: Client, used: Used) -> None:
    try:
        finishes = [choice.get("finish_reason") for choice in chat["choices"]]
        usage = chat.get("usage") or {}
        tokens = (usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)
    except (KeyError, TypeError, AttributeError):
        finishes, tokens = [], (0, 0)
    if not finishes:
        raise ModelReplyInvalid(f"{client!r} answered with JSON that is no chat completion")
    if "abort" in finishes or "error" in finishes:
        raise ModelAborted(f"{client!r} gave the request up")
    used(*tokens)
