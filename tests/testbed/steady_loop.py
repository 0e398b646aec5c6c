"""An event loop whose clock does not count the time for which its process stood still.

A test that has both sides of a connection in its loop races no timers on it: while the machine is busy elsewhere no
limit comes closer, and after a pause of any length timers and messages come in the order of a machine at leisure.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Mapping

MOST = 0.005
"""Seconds that count where the loop did something, however long that took; it waits for a timer as long as ever."""


class SteadyLoop(asyncio.SelectorEventLoop):
    """See above."""

    def __init__(self) -> None:
        self._clock = _Clock()
        super().__init__(self._clock)

    def time(self) -> float:
        """Seconds that have counted."""
        return self._clock.time()


class _Clock(selectors.DefaultSelector):
    """Waits for sockets, and so knows what was waited for and what was a pause."""

    def __init__(self) -> None:
        super().__init__()
        self._now = self._seen = time.monotonic()

    def time(self) -> float:
        before, self._seen = self._seen, time.monotonic()
        self._now += min(self._seen - before, MOST)
        return self._now

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.time()
        ready = super().select(timeout)
        if timeout and not ready:  # the next timer was waited for
            self._seen = time.monotonic()
            self._now += timeout
        return ready


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A hook for ``conftest.py``: the loop of the tests beside it and below."""
    return {"steady": SteadyLoop}
