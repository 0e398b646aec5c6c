"""``pace.json``: how fast the run goes, which may change while it does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import orjson

log = logging.getLogger("kubegym.pods")


def read_pace(path: Path) -> int | None:
    """Rollouts in flight that are asked for; None where the file does not say so."""
    try:
        concurrency = orjson.loads(path.read_bytes())["concurrency"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return concurrency if type(concurrency) is int and concurrency > 0 else None


async def follow_pace(path: Path, now: int, changed: Callable[[int], None], *, seconds: float = 2.0) -> None:
    """Tell of every change, until cancelled. A file that cannot be read leaves the pace as it is.

    Args:
        path: of ``pace.json``; a mounted ConfigMap's file is another one after each change.
        now: the pace that is kept now.
        changed: told the new one.
        seconds: between two looks.
    """
    while True:
        await asyncio.sleep(seconds)
        asked = read_pace(path)
        if asked is not None and asked != now:
            log.info("%d rollouts in flight from now on, %d until now", asked, now)
            now = asked
            changed(asked)
