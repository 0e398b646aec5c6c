"""SIGTERM for a process that is a container's first: without a handler the kernel drops it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

from kubegym.pods.errors import TERMINATED


async def until_signal(work: Coroutine[Any, Any, int]) -> int:
    """The exit code of some work, which SIGTERM or SIGINT cancels."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    received = False

    def stop() -> None:
        nonlocal received
        received = True
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        return TERMINATED
