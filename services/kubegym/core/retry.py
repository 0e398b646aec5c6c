"""Bounded retries: exponential backoff with full jitter."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often and how patiently something is tried again.

    ``delay(n)`` is drawn uniformly from (0, min(maximum, base * 2**n)] ("full jitter", Brooker, AWS Architecture Blog
    2015) but is never shorter than what the other side asked for, and that is bounded by ``maximum_asked``.
    """

    attempts: int = 6
    base: float = 0.25
    maximum: float = 20.0
    maximum_asked: float = 300.0

    def delay(self, failures: int, rng: random.Random, asked: float | None = None) -> float:
        """Seconds to wait after ``failures`` (≥ 1) failed tries; ``asked`` is a Retry-After."""
        ceiling = min(self.maximum, self.base * 2.0 ** (failures - 1))
        drawn = ceiling * (0.1 + 0.9 * rng.random())
        return max(drawn, min(asked, self.maximum_asked)) if asked is not None else drawn
