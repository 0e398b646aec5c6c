"""Requests to an application without sockets, for tests in virtual time: that jumps while a socket is waited for."""

from __future__ import annotations

import asyncio
from typing import Any

from kubegym.http import ReadTimeout, Response, Url
from kubegym.http.server import App


class InMemoryHttp:
    """Stands for ``HttpClient``; every URL leads to ``app``.

    Args:
        app: what answers; ``start`` it before the first request, and ``stop`` it after the last.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._life: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """The server's start."""
        self._life = asyncio.ensure_future(self._app({"type": "lifespan"}, self._to_app.get, self._from_app.put))
        await self._to_app.put({"type": "lifespan.startup"})
        answer = await self._from_app.get()
        assert answer["type"] == "lifespan.startup.complete", answer

    async def stop(self) -> None:
        """The server's end."""
        assert self._life is not None
        await self._to_app.put({"type": "lifespan.shutdown"})
        await self._life

    async def request(
        self, method: bytes, url: Url, headers: bytes, body: bytes, timeout: float, *, repeatable: bool = True
    ) -> Response:
        """As ``HttpClient.request``; a request that is given up looks to the application as if its client had left."""
        lines = (line.partition(b":") for line in headers.split(b"\r\n") if line)
        path = url.target.partition(b"?")[0].decode()
        scope = {
            "type": "http",
            "method": method.decode(),
            "path": path,
            "headers": [(name.lower(), value.strip()) for name, _, value in lines],
        }
        received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        received.put_nowait({"type": "http.request", "body": body, "more_body": False})
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        try:
            async with asyncio.timeout(timeout):
                await self._app(scope, received.get, send)
        except TimeoutError:
            raise ReadTimeout(f"no reply from {path}") from None
        start, *pieces = sent
        return Response(start["status"], start["headers"], b"".join(piece["body"] for piece in pieces))

    async def close(self) -> None:
        """Nothing to close."""
