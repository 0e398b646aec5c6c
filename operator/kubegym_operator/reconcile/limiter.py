"""How fast the operator may write."""

from __future__ import annotations

import asyncio


class TokenBucket:
    """Lets ``rate`` writes a second pass, and ``burst`` at once after a rest. First come, first served.

    Raises nothing: who waits is delayed, never refused. A server that asks for time (429) gets it by ``pause``.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at = 0.0
        self._paused_until = 0.0

    async def take(self) -> None:
        """Wait for a turn."""
        loop = asyncio.get_running_loop()
        self._refill(loop.time())
        self._tokens -= 1.0  # below zero: the turn is ours, and lies in the future
        wait = max(-self._tokens / self._rate, self._paused_until - loop.time())
        if wait > 0:
            await asyncio.sleep(wait)

    def pause(self, seconds: float) -> None:
        """Let nothing pass for some seconds."""
        self._paused_until = max(self._paused_until, asyncio.get_running_loop().time() + seconds)

    def _refill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
