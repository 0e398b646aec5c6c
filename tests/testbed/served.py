"""A server of ours on a real socket, in the test's own event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn

from kubegym.http.server import App


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stop = asyncio.Event()

    async def main_loop(self) -> None:
        await self.stop.wait()  # uvicorn looks ten times a second whether it shall end

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are pytest's


@asynccontextmanager
async def serving(app: App, *, grace_seconds: int = 5, bound: socket.socket | None = None) -> AsyncIterator[str]:
    """Serve ``app`` on 127.0.0.1 while the block runs; its base URL. It runs as ``kubegym.http.server.serve`` does.

    ``bound`` is a socket for those that need to know their address before.
    """
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=4096,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=grace_seconds,
    )
    server = _Server(config)
    running = asyncio.ensure_future(server.serve([bound] if bound else None))
    try:
        while not server.started:
            assert not running.done(), "the server could not start; see the log"
            await asyncio.sleep(0.001)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        app.stopping = True
        server.stop.set()
        await running
