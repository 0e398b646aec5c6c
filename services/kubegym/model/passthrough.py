"""Chat calls as others wrote them, handed to an upstream and back: whole, or streamed piece by piece.

The request's fields go on as they came, but for the model's name and forced sampling. A reply's bytes come back as they
are once it is known to be one: an aborted generation or a proxy's page is an error, never a completion, and a stream
that breaks off is never ended as if it were whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import orjson

from kubegym.http import HttpError, ReadTimeout, StreamedReply
from kubegym.http.server import Reply
from kubegym.model.client import POLICY_VERSION_HEADER, ChatClient
from kubegym.model.errors import (
    ContextWindowExceeded,
    ModelAborted,
    ModelReplyInvalid,
    ModelTimeout,
    ModelUnavailable,
)
from kubegym.model.replies import EVENTS, overflow_chat
from kubegym.model.retry import excerpt, retry_after, status_error
from kubegym.model.streaming import chat_events
from kubegym.model.upstream import Client, Upstreams

_ERROR_BYTES = 1 << 20
_DONE = b"[DONE]"

Used = Callable[[int, int], None]
"""Told the input and output tokens of a whole reply."""


class Relay:
    """A stream on its way through: the pieces of an upstream's reply, as they come.

    Attributes:
        on_end: told once how it ended: "200", "cut" (the upstream broke off), "gone" (the client did).
    """

    __slots__ = ("_broke", "_first", "_outcome", "_source", "_stack", "_tail", "on_end")

    def __init__(self, source: StreamedReply, first: bytes, stack: AsyncExitStack, broke: Callable[[], None]) -> None:
        self.on_end: Callable[[str], None] | None = None
        self._source = source
        self._first: bytes | None = first
        self._stack = stack
        self._broke = broke
        self._outcome = "gone"
        self._tail = first[-len(_DONE) * 4 :]

    def __aiter__(self) -> Relay:
        return self

    async def __anext__(self) -> bytes:
        """The next piece. Raises HttpError or ModelUnavailable where the upstream broke off."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        try:
            piece = await anext(self._source)
        except StopAsyncIteration:
            if _DONE in self._tail:
                self._outcome = "200"
                raise
            self._cut()
            raise ModelUnavailable("the upstream ended a stream before its end") from None
        except HttpError:
            self._cut()
            raise
        self._tail = (self._tail + piece)[-len(_DONE) * 4 :]
        return piece

    def _cut(self) -> None:
        self._outcome = "cut"
        self._broke()

    async def aclose(self) -> None:
        """Let go of the upstream. May be called twice."""
        await self._stack.aclose()
        told, self.on_end = self.on_end, None
        if told is not None:
            told(self._outcome)


async def pass_chat(
    upstreams: Upstreams, rollout: str | None, raw: bytes, body: dict[str, Any], timeout: float, used: Used
) -> Reply:
    """Answer a chat call with an upstream's reply.

    Args:
        upstreams: who may answer.
        rollout: whose call it is.
        raw: the request's body.
        body: the same, parsed.
        timeout: seconds for the call.
        used: told the tokens of a whole reply.

    Raises:
        ModelError: no completion; what the upstream said is in the message.
    """

    async def call(client: Client) -> Reply:
        if isinstance(client, ChatClient):
            response = await client.post(_for_upstream(raw, body, client), timeout)
            if 200 <= response.status < 300:
                _check(response.body, client, used)
                return Reply(response.body, headers=_passed_headers(response.header(POLICY_VERSION_HEADER)))
            asked = response.header(b"retry-after")
            chat = _refused(client, response.status, response.body, asked, body)
        else:
            chat = await _engine_chat(client, body, timeout, used)
        return Reply(orjson.dumps(chat))

    return await upstreams.ask(rollout, call)


async def pass_stream(
    upstreams: Upstreams, rollout: str | None, raw: bytes, body: dict[str, Any], timeout: float, used: Used
) -> Reply:
    """Like ``pass_chat`` for a call with ``stream: true``; the reply's ``stream`` is a ``Relay``, or it is whole."""
    options = body.get("stream_options")
    include_usage = isinstance(options, dict) and bool(options.get("include_usage"))
    stack = AsyncExitStack()

    def broke() -> None:
        upstreams.broke(rollout)

    async def call(client: Client) -> Reply:
        if not isinstance(client, ChatClient):
            whole = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
            return Reply(chat_events(await _engine_chat(client, whole, timeout, used), include_usage), 200, EVENTS)
        source = await stack.enter_async_context(client.stream(_for_upstream(raw, body, client), timeout))
        try:
            if not 200 <= source.status < 300:
                text = await source.read(_ERROR_BYTES)
                chat = _refused(client, source.status, text, source.header(b"retry-after"), body)
                return Reply(chat_events(chat, include_usage), 200, EVENTS)
            kind = source.header(b"content-type") or b"no content type"
            if not kind.lower().startswith(b"text/event-stream"):
                raise ModelReplyInvalid(f"{client!r} answered with {kind.decode('latin-1')}, no stream", retryable=True)
            first = await anext(source, b"")
        except ReadTimeout as error:
            raise ModelTimeout(f"{client!r} gave no reply in {timeout:g} s: {error.message}") from None
        except HttpError as error:
            raise ModelUnavailable(f"{client!r}: {error.message}") from None
        headers = [*_passed_headers(source.header(POLICY_VERSION_HEADER)), (b"cache-control", b"no-cache")]
        return Reply(content_type=kind, headers=headers, stream=Relay(source, first, stack, broke))

    try:
        reply = await upstreams.ask(rollout, call)
    except BaseException:
        await stack.aclose()
        raise
    if reply.stream is None:
        await stack.aclose()
    return reply


async def _engine_chat(client: Client, body: dict[str, Any], timeout: float, used: Used) -> dict[str, Any]:
    assert not isinstance(client, ChatClient)
    try:
        chat = await client.complete({**body, "model": client.model, **client.sampling}, timeout)
    except ContextWindowExceeded:
        return overflow_chat(client.model, int(time.time()))
    _check_completion(chat, client, used)
    return chat


def _for_upstream(raw: bytes, body: dict[str, Any], client: ChatClient) -> bytes:
    """The request's body for this upstream; the very bytes where nothing is forced."""
    if body.get("model") == client.model and not client.sampling:
        return raw
    return orjson.dumps({**body, "model": client.model, **client.sampling})


def _refused(client: ChatClient, status: int, text: bytes, asked: bytes | None, body: dict[str, Any]) -> dict[str, Any]:
    """The empty completion for a conversation that does not fit. Raises ModelError for any other refusal."""
    said = client.redact(text[:4096].decode(errors="replace"))
    error = status_error(status, said, repr(client), body.get("max_tokens"))
    if isinstance(error, ContextWindowExceeded):
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


def _passed_headers(version: bytes | None) -> list[tuple[bytes, bytes]]:
    return [] if version is None else [(POLICY_VERSION_HEADER, version)]
