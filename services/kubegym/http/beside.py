"""A server beside other work, in the event loop that does it: probes, metrics and progress of a worker."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from kubegym.core.errors import InputError
from kubegym.http.server import App, server_config


@asynccontextmanager
async def served_beside(app: App, host: str, port: int, *, grace_seconds: float = 1.0) -> AsyncIterator[str]:
    """Serve ``app`` while the block runs; its URL. Signals are left to whoever runs the loop.

    Raises:
        InputError: uvicorn is not installed, or the address cannot be had.
    """
    config = server_config(app, host, port, grace_seconds)
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.create_server((host, port), family=family, backlog=config.backlog)
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    server = Server(config)
    running = asyncio.create_task(server.serve([bound]), name="server")
    try:
        yield f"http://{host}:{bound.getsockname()[1]}"
    finally:
        app.stopping = True
        server.should_exit = True
        await asyncio.gather(running, return_exceptions=True)
        bound.close()
