"""Time as a constructor argument.

Durations and deadlines use the event loop's clock (``loop.time()``), which a virtual-time loop controls. ``Clock`` is
for what outlives a process: leases and time stamps.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Wall-clock time, in seconds since 1970 (UTC)."""

    def time(self) -> float:
        """Now."""
        ...


class SystemClock:
    """The machine's clock."""

    def time(self) -> float:
        """Now."""
        return time.time()


class LoopClock:
    """The twin: wall-clock time that follows the running event loop, so that virtual time moves leases too."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._start = start

    def time(self) -> float:
        """Now, on the running loop."""
        return self._start + asyncio.get_running_loop().time()


class Deadline:
    """The time by which a rollout must end, movable by waits that are not its own.

    Time in queues, in 429 back-off and while a model is paused does not count (DESIGN section 7): whoever waited says
    so by ``excuse``. The stall limit bounds the sum of what is excused.

    Args:
        seconds: the rollout's own time.
        stall_seconds: the most that may be excused.
    """

    __slots__ = ("_at", "_excusable", "_loop", "_scope")

    def __init__(self, seconds: float, stall_seconds: float = 3600.0) -> None:
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time() + seconds
        self._excusable = stall_seconds
        self._scope: asyncio.Timeout | None = None

    def remaining(self) -> float:
        """Seconds left; not below 0."""
        return max(0.0, self._at - self._loop.time())

    def excuse(self, seconds: float) -> None:
        """Move the deadline by a wait that was not the rollout's own, as far as the stall limit allows."""
        granted = min(seconds, self._excusable)
        if granted <= 0:
            return
        self._excusable -= granted
        self._at += granted
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(self._at)

    def lend(self) -> float:
        """Excuse all that may be excused, while another process works that may be waiting; how much that was."""
        granted = self._excusable
        self.excuse(granted)
        return granted

    def take_back(self, seconds: float) -> None:
        """Take back what was lent and not used: now the deadline may be over."""
        self._excusable += seconds
        self._at -= seconds
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(self._at)

    def timeout(self) -> asyncio.Timeout:
        """``async with deadline.timeout():`` raises TimeoutError at the deadline, wherever it has moved by then."""
        self._scope = asyncio.timeout_at(self._at)
        return self._scope
