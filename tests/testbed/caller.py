"""Asks a server in JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from kubegym.http import HttpClient, Response, Url
from kubegym.http.server import App
from testbed.served import serving

SECONDS = 240.0
"""After which a call that hangs is a failure."""


class Caller:
    """One server, asked over kept connections.

    Args:
        url: its base URL.
        http: the connections.
    """

    def __init__(self, url: str, http: HttpClient) -> None:
        self.url = url
        self.http = http
        self._url = Url(url)

    async def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Response:
        """POST ``body``: bytes as they are, all else in JSON."""
        lines = {"content-type": "application/json", **(headers or {})}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        block = "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode()
        return await self.http.request(b"POST", self._url / path, block, data, SECONDS)

    async def get(self, path: str) -> Response:
        """GET."""
        return await self.http.request(b"GET", self._url / path, b"", b"", SECONDS)


@asynccontextmanager
async def calling(app: App) -> AsyncIterator[Caller]:
    """A caller of an application that is served while the block runs."""
    http = HttpClient()
    async with serving(app) as url:
        try:
            yield Caller(url, http)
        finally:
            await http.close()  # else the server would wait for kept connections
