"""Routes of an engine that are handed through as they are: what is not in these lists nobody reaches (DESIGN 5, 11).

An engine's own controls (``/collective_rpc``, ``/pause``, ``/sleep``, adapters, weights) are not among them.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from kubegym.http import HttpError, ReadTimeout
from kubegym.http.headers import end_to_end
from kubegym.http.server import Reply, Request
from kubegym.model.client import ChatClient
from kubegym.model.errors import ModelTimeout, ModelUnavailable, RequestUnsupported
from kubegym.model.passthrough import REPLACED
from kubegym.model.relay import Relay
from kubegym.model.upstream import Client, Upstreams

POSTED = (
    *("/tokenize", "/detokenize", "/pooling", "/classify", "/score", "/v1/score"),
    *("/rerank", "/v1/rerank", "/v2/rerank", "/v1/embeddings", "/embeddings"),
    *("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/messages/count_tokens", "/inference/v1/generate"),
)
"""Questions to a model beside generation, and generation by token ids."""
READ = ("/version", "/health", "/ping", "/load", "/tokenizer_info")
"""What an engine says of itself."""

_WHOLE = 64 << 20


async def forward(upstreams: Upstreams, rollout: str | None, request: Request, timeout: float) -> Reply:
    """Answer with what an upstream says, whatever that is.

    Raises:
        ModelError: it says nothing.
    """
    path = request.path.removeprefix("/")
    pairs = end_to_end(request.pairs)
    stack = AsyncExitStack()

    async def call(client: Client) -> Reply:
        if not isinstance(client, ChatClient):
            raise RequestUnsupported(f"{client!r} does not answer {request.path}")
        url = client.at(path)
        if request.query:
            url = url.asking(request.query)
        source = await stack.enter_async_context(
            client.stream(request.method.encode(), url, pairs, request.body, timeout)
        )
        kind = source.header(b"content-type") or b"application/octet-stream"
        headers = end_to_end(source.headers, REPLACED)
        try:
            if source.header(b"content-length") is not None:
                return Reply(await source.read(_WHOLE), source.status, kind, headers)
            first = await anext(source, b"")
        except ReadTimeout as error:
            raise ModelTimeout(f"{client!r} gave no reply in {timeout:g} s: {error.message}") from None
        except HttpError as error:
            raise ModelUnavailable(f"{client!r}: {error.message}") from None
        relay = Relay(source, first, stack, broke=upstreams.breaker(client), events=False)
        return Reply(b"", source.status, kind, headers, relay)

    try:
        reply = await upstreams.ask(rollout, call)
    except BaseException:
        await stack.aclose()
        raise
    if reply.stream is None:
        await stack.aclose()
    return reply
