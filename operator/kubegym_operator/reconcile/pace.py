"""When what merely moves may be written: figures of a run, and words about what it waits for.

Each run has its turn every 30 s, and all runs together have 20 turns a second: above 600 runs the turns lie further
apart. A run that is new to this process has its first turn as soon as the others leave room, so that a restart with
thousands of them is no burst.
"""

from __future__ import annotations

from typing import Final

from kubegym_operator.reconcile.keys import Key

EVERY: Final = 30.0
"""Seconds between two turns of a run."""

RATE: Final = 20.0
"""Turns of all runs, a second."""


class Pace:
    """Gives turns.

    Args:
        every: seconds between two turns of a key.
        rate: turns of all keys, a second.
    """

    def __init__(self, every: float = EVERY, rate: float = RATE) -> None:
        self._every = every
        self._rate = rate
        self._turns: dict[Key, float] = {}
        self._first = float("-inf")
        self._swept = float("-inf")

    @property
    def period(self) -> float:
        """Seconds between two turns of a key, with as many as there are."""
        return max(self._every, len(self._turns) / self._rate)

    def wait(self, key: Key, now: float) -> float:
        """Seconds until a key's turn; 0.0 where it is now, and with that it is taken."""
        self._sweep(now)
        turn = self._turns.get(key)
        if turn is None:
            turn = self._first = max(now, self._first + 1.0 / self._rate)
        taken = turn <= now
        self._turns[key] = now if taken else turn
        if taken:
            self._turns[key] += self.period
        return 0.0 if taken else turn - now

    def forget(self, key: Key) -> None:
        """The key has no turns any more."""
        self._turns.pop(key, None)

    def _sweep(self, now: float) -> None:
        """Forget those that let their turn pass: they rest, and take no time from the others."""
        if now - self._swept >= self._every:
            self._turns = {key: turn for key, turn in self._turns.items() if now - turn < self._every}
            self._swept = now
