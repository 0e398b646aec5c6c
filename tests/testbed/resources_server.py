"""Resources servers for tests: in this process without sockets, and as processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import orjson

from kubegym.http import Response
from kubegym.http.server import App
from kubegym.resources import Environment, EnvironmentRuntime
from kubegym.resources.server import ResourcesServer

SECRET = b"a secret of the tests, long enough"
HERE = "127.0.0.1:1"
SECONDS = 120.0
"""After which a process that does not end is a failure."""


def server_of(cls: type[Environment], config: Any = None, **options: Any) -> ResourcesServer:
    """A server of a class; ``limits`` of the hooks are ``session_limits``."""
    runtime = EnvironmentRuntime(cls, config, limits=options.pop("session_limits", None))
    return ResourcesServer(runtime, **{"secret": SECRET, "self_address": HERE, **options})


async def call(app: App, method: str, target: str, headers: list[tuple[bytes, bytes]], body: bytes) -> Response:
    """One request to an ASGI application."""
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


_SERVE = """
    import logging, sys
    from kubegym.resources.processes import ResourcesService, run_resources_server

    if __name__ == "__main__":
        logging.basicConfig()
        service = ResourcesService(sys.argv[1], name="served")
        run_resources_server(
            service, "127.0.0.1", 0, processes=int(sys.argv[2]), on_listening=lambda url: print(url, flush=True)
        )
"""


class Process:
    """A resources server in a process of its own.

    Attributes:
        url: its base URL.
    """

    def __init__(self, running: subprocess.Popen[str], url: str) -> None:
        self._running = running
        self.url = url

    def children(self) -> list[int]:
        """The processes that serve, without multiprocessing's own."""
        pid = self._running.pid
        found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [child for child in found if b"spawn_main" in _command(child)]

    def kill(self) -> None:
        """End it without a warning, and what it has started."""
        self._running.kill()
        self._running.wait(SECONDS)

    def terminate(self) -> tuple[int, str]:
        """SIGTERM: the exit status, and the log."""
        self._running.send_signal(signal.SIGTERM)
        _, log = self._running.communicate(timeout=SECONDS)
        return self._running.returncode, log


def _command(pid: int) -> bytes:
    """The command line of a process; nothing of one that has ended since it was listed."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@contextmanager
def served_process(folder: Path, script: Path, processes: int = 1) -> Iterator[Process]:
    """``run_resources_server`` on an environment's folder; ``script`` is a file to be written."""
    script.write_text(textwrap.dedent(_SERVE))
    environ = {**os.environ, "KUBEGYM_SESSION_SECRET": SECRET.decode()}
    running = subprocess.Popen(
        [sys.executable, str(script), str(folder), str(processes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    )
    assert running.stdout is not None
    try:
        url = running.stdout.readline().strip()
        assert url, running.communicate(timeout=SECONDS)[1]
        yield Process(running, url)
    finally:
        if running.poll() is None:
            running.terminate()
        running.communicate(timeout=SECONDS)
