"""Responses and Messages for the simulated server: our model server, asked in process, which asks back for chat."""

from __future__ import annotations

import asyncio
from typing import Any

from kubegym.http.server import App

Answer = tuple[int, bytes, bytes, bytes]
"""Status, body, content type, further header lines."""


class Front:
    """Answers what the simulated server does not. A streamed reply is sent when it is whole.

    Args:
        app: the model server.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def answer(self, path: bytes, body: bytes) -> Answer:
        """The reply to a POST."""
        asked = False
        status, content_type, lines, pieces = 500, b"application/json", b"", []

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if asked:
                await asyncio.Event().wait()  # whoever leaves cancels this all
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status, content_type, lines
            if message["type"] == "http.response.body":
                pieces.append(message.get("body", b""))
                return
            status = message["status"]
            for name, value in message["headers"]:
                if name == b"content-type":
                    content_type = value
                elif name != b"content-length":
                    lines += b"%b: %b\r\n" % (name, value)

        scope = {"type": "http", "method": "POST", "path": path.decode("latin-1"), "headers": []}
        await self._app(scope, receive, send)
        return status, b"".join(pieces), content_type, lines
