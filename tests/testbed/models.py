"""Model endpoints as tests need them: replies to order, and how to talk to a model server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from kubegym.http import HttpClient, Response, Url
from kubegym.model.server import ModelServer
from testbed.raw_server import Peer, raw_server
from testbed.served import serving

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"
QUESTION = {"messages": [{"role": "user", "content": "q"}]}
WAIT = 240.0
"""Seconds after which a call that hangs is a failure."""


def chat(text: str = "hello", **fields: Any) -> dict[str, Any]:
    """A chat completion; ``fields`` go into its choice."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", **fields}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "policy",
        "choices": [choice],
        "usage": usage,
    }


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def told(status: int, body: bytes, content_type: str = "application/json", extra: str = "") -> bytes:
    """A whole reply."""
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\n{extra}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@asynccontextmanager
async def model_behind(script: Callable[[Peer], Awaitable[None]], **options: Any) -> AsyncIterator[Caller]:
    """A model server before a raw one that follows ``script``."""
    async with raw_server(script) as upstream, calling([f"{upstream}/v1"], **options) as caller:
        yield caller


@asynccontextmanager
async def calling(upstreams: list[Any], **options: Any) -> AsyncIterator[Caller]:
    """A model server over these upstreams, which hear of no call but the test's, and who talks to it."""
    http = HttpClient()
    try:
        async with serving(ModelServer(upstreams, **{"model": "policy", "probe": False, **options})) as url:
            yield Caller(http, url)
            await http.close()
    finally:
        await http.close()


class Caller:
    """Asks a model server.

    Attributes:
        http: the connections.
        url: the server's.
    """

    def __init__(self, http: HttpClient, url: str) -> None:
        self.http = http
        self.url = url

    async def post(self, path: str, body: Any, headers: str = "", timeout: float = WAIT) -> Response:
        """POST JSON (or bytes as they are)."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = f"content-type: application/json\r\n{headers}".encode()
        return await self.http.request(b"POST", Url(self.url + path), lines, data, timeout)

    async def get(self, path: str) -> Response:
        """GET."""
        return await self.http.request(b"GET", Url(self.url + path), b"", b"", WAIT)

    def stream(self, path: str, body: Any, timeout: float = WAIT) -> Any:
        """POST JSON, with the reply piece by piece."""
        return self.http.stream(b"POST", Url(self.url + path), b"", json.dumps(body).encode(), timeout)

    async def metrics(self) -> str:
        """The text of ``/metrics``."""
        return (await self.get("/metrics")).body.decode()


def events(body: bytes) -> list[dict[str, Any]]:
    """The data of server-sent events, ``[DONE]`` left out."""
    lines = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]
