"""Asking an endpoint's routes beside generation: what ``/pooling`` and the like say (``core.protocols.Questions``)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import orjson

from kubegym.core.clock import SystemClock
from kubegym.core.errors import ModelError
from kubegym.core.protocols import CallContext
from kubegym.http import Response, Url
from kubegym.http.headers import Pair
from kubegym.model.errors import ModelOverloaded, ModelReplyInvalid, ModelTimeout
from kubegym.model.retry import Tries, excerpt, retry_after, status_error

JSON_PAIRS: tuple[Pair, ...] = ((b"content-type", b"application/json"), (b"accept", b"application/json"))


class Endpoint(Protocol):
    """What is asked: a ``ChatClient``."""

    model: str

    def at(self, path: str) -> Url:
        """The URL of a route."""
        ...

    def tries(self) -> Tries:
        """The bounds of one call."""
        ...

    def redact(self, text: str) -> str:
        """The text without the API key."""
        ...

    async def post(self, url: Url, pairs: Sequence[Pair], body: bytes, timeout: float) -> Response:
        """A call, sent once. Raises ModelError."""
        ...


async def ask(endpoint: Endpoint, path: str, body: Mapping[str, Any], context: CallContext) -> dict[str, Any]:
    """A route's reply, with the tries and excuses that generation has. Raises ModelError."""
    question, tries = {"model": endpoint.model, **body}, endpoint.tries()
    while True:
        try:
            return await once(endpoint, path, question, context.deadline.remaining())
        except ModelError as error:
            pause = tries.pause(error)
            if pause is None:
                raise
            if isinstance(error, ModelOverloaded):
                context.deadline.excuse(pause)
            if pause >= context.deadline.remaining():
                raise
        await asyncio.sleep(pause)


async def once(
    endpoint: Endpoint,
    path: str,
    body: Mapping[str, Any],
    timeout: float,
    pairs: Sequence[Pair] = JSON_PAIRS,
    *,
    limit: object = None,
) -> dict[str, Any]:
    """A route's reply, asked once.

    Args:
        endpoint: it.
        path: the route.
        body: the question.
        timeout: seconds.
        pairs: header lines.
        limit: see ``model.retry.status_error``.

    Raises:
        ModelError: no JSON object.
    """
    url = endpoint.at(path)
    if timeout <= 0:
        raise ModelTimeout(f"no time was left to ask {url.shown}")
    response = await endpoint.post(url, pairs, orjson.dumps(body), timeout)
    text = endpoint.redact(response.body[:4096].decode(errors="replace"))
    if not 200 <= response.status < 300:
        refusal = status_error(response.status, text, url.shown, limit)
        asked = response.header(b"retry-after")
        refusal.retry_after = retry_after(asked.decode("latin-1") if asked else None, SystemClock().time())
        raise refusal
    try:
        parsed = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        parsed = None
    if not isinstance(parsed, dict):
        raise ModelReplyInvalid(f"{url.shown} answered with no JSON object: {excerpt(text)}")
    return parsed
