"""Resources servers for tests: in this process without sockets, over sockets, and as processes of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import orjson

from kubegym.http import Response, Url
from kubegym.http.server import App
from kubegym.resources import Environment, EnvironmentRuntime
from kubegym.resources.server import ResourcesServer

SECRET = b"a secret of the tests, long enough"
HERE = "127.0.0.1:1"


def server_of(cls: type[Environment], config: Any = None, **options: Any) -> ResourcesServer:
    """A server of a class; ``limits`` of the hooks are ``session_limits``."""
    runtime = EnvironmentRuntime(cls, config, limits=options.pop("session_limits", None))
    return ResourcesServer(runtime, **{"secret": SECRET, "self_address": HERE, **options})


class AsgiClient:
    """``kubegym.http.HttpClient`` without sockets: each request is a call of an application, in virtual time, too.

    Args:
        apps: by authority (``host:port``); or one for all.
    """

    def __init__(self, apps: App | dict[str, App]) -> None:
        self._apps = apps

    async def request(
        self, method: bytes, url: Url, headers: bytes, body: bytes, timeout: float, *, repeatable: bool = True
    ) -> Response:
        """As ``HttpClient.request``."""
        app = self._apps if isinstance(self._apps, App) else self._apps[url.authority.decode()]
        lines = [line.partition(b":") for line in headers.split(b"\r\n") if line]
        return await call(app, method.decode(), url.target.decode(), [(n.lower(), v.strip()) for n, _, v in lines], body)

    async def close(self) -> None:
        """Nothing to close."""


async def call(app: App, method: str, target: str, headers: list[tuple[bytes, bytes]], body: bytes) -> Response:
    """One request to an ASGI application."""
    from urllib.parse import unquote

    scope = {"type": "http", "method": method, "path": unquote(target), "headers": headers}
    told: list[dict[str, Any]] = []
    asked = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return asked.pop() if asked else await asyncio.Event().wait()  # type: ignore[return-value]

    async def send(message: dict[str, Any]) -> None:
        told.append(message)

    await app(scope, receive, send)
    return Response(told[0]["status"], told[0]["headers"], b"".join(part.get("body", b"") for part in told[1:]))


class Caller:
    """A client of one session: JSON in and out, the cookie kept."""

    def __init__(self, app: App, **headers: str) -> None:
        self.app = app
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.cookie: bytes | None = None

    async def post(self, path: str, body: Any = None, **headers: str) -> Response:
        """POST; ``body`` is bytes, or is encoded."""
        named = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        lines = [(name.encode(), value.encode()) for name, value in named.items()]
        if self.cookie is not None:
            lines.append((b"cookie", self.cookie))
        data = body if isinstance(body, bytes) else orjson.dumps({} if body is None else body)
        response = await call(self.app, "POST", f"/{path}", lines, data)
        given = response.header(b"set-cookie")
        if given is not None:
            self.cookie = given.partition(b";")[0]
        return response

    async def json(self, path: str, body: Any = None, **headers: str) -> Any:
        """POST, and the reply's JSON; the status must be 200."""
        response = await self.post(path, body, **headers)
        assert response.status == 200, response.body
        return orjson.loads(response.body)


@asynccontextmanager
async def started(*servers: ResourcesServer) -> AsyncIterator[None]:
    """Servers between their start and their stop, without sockets."""
    for server in servers:
        await server._start()
    try:
        yield
    finally:
        for server in servers:
            await server._stop()


@contextmanager
def on_uvicorn(app: App, host: str = "127.0.0.1", port: int = 0, **options: Any) -> Iterator[str]:
    """An application behind uvicorn, in a thread; its base URL."""
    import uvicorn

    config = uvicorn.Config(
        app, host=host, port=port, loop="uvloop", http="httptools", ws="none", log_config=None, access_log=False, **options
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    pause = threading.Event()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        pause.wait(0.005)
    try:
        bound = server.servers[0].sockets[0].getsockname()
        yield f"http://{bound[0]}:{bound[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
