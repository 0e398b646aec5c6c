"""How many replicas a ModelServer with ``autoscaling.mode: Demand`` has (pure).

What is needed follows from the jobs, not from a queue that has built up: a job has at most ``parallelism`` times
``concurrency`` rollouts in flight, and at its end no more than are left. Replicas are started when a job begins to want
the server, while its workers are still to come, and given back as its tail no longer needs them.

More are wanted at once; fewer only when fewer were enough for a whole window, and then as many as were needed at most
in it, so that a run that follows another finds its replicas warm and nothing flaps::

    need   ───┐  ┌─┐
              └──┘ └────────────────
    held   ────────────────┐            (to the peak within the window, here still all)
                <─ window ─>└───────
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kubegym.core.spec import ModelServerSpec
from kubegym.core.spec.model import Autoscaling
from kubegym_operator.plan.snapshot import Load
from kubegym_operator.plan.times import rfc3339, seconds

WINDOW: Final = 180.0
"""Seconds for which fewer replicas have to be enough, about what one takes to start again (`python -m benchmarks
autoscaling`: fewer replica-hours than an autoscaler of Kubernetes, and shorter waits where jobs are large)."""

TOLERANCE: Final = 1.1
"""In flight ÷ room of the held replicas up to which none is added."""

_DEFAULT_ROOM: Final[Mapping[str, int]] = {"vllm": 256, "embedded": 64}
"""Sequences that an engine runs at a time unless its arguments say otherwise (vLLM's ``max-num-seqs``)."""


@dataclass(frozen=True, slots=True)
class Held:
    """What ``status.demand`` keeps between two looks.

    Attributes:
        replicas: wanted now.
        lower_since: wall-clock seconds since when fewer would do; None while all are needed.
        lower_peak: replicas needed at most since then.
    """

    replicas: int
    lower_since: float | None = None
    lower_peak: int = 0

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Held | None:
        """As stored; None where nothing is."""
        if not isinstance(raw.get("replicas"), int):
            return None
        return cls(raw["replicas"], seconds(raw.get("lowerSince")), int(raw.get("lowerPeak") or 0))

    def to_dict(self) -> dict[str, Any]:
        """For ``status.demand``."""
        if self.lower_since is None:
            return {"replicas": self.replicas}
        return {
            "replicas": self.replicas,
            "lowerSince": rfc3339(self.lower_since),
            "lowerPeak": self.lower_peak,
        }

    def left(self, now: float) -> float | None:
        """Seconds until fewer have been enough for long enough, if that is so."""
        return None if self.lower_since is None else max(0.0, self.lower_since + WINDOW - now)


def room(spec: ModelServerSpec) -> int:
    """Rollouts in flight that one replica takes before their calls wait."""
    assert spec.autoscaling is not None
    if spec.autoscaling.rollouts_per_replica is not None:
        return spec.autoscaling.rollouts_per_replica
    told = spec.engine_args.get("max-num-seqs", "")
    return int(told) if told.isdigit() and int(told) else _DEFAULT_ROOM.get(spec.engine, 256)


def needed(loads: Iterable[Load], room: int, bounds: Autoscaling, held: Held | None = None) -> int:
    """Replicas for what is in flight now and may be in the next moment.

    Without a job one is kept, or ``minReplicas``: whoever else asks finds it until ``idlePolicy`` lets it rest. What
    ``held`` has is enough for a tenth more than its room, which waits for a moment and is worth no start.
    """
    in_flight = sum(load.in_flight for load in loads)
    replicas = -(-in_flight // room)
    if held is not None and replicas > held.replicas and in_flight <= TOLERANCE * held.replicas * room:
        replicas = held.replicas
    return max(bounds.min_replicas, min(replicas, bounds.max_replicas), 1)


def follow(held: Held | None, need: int, now: float) -> Held:
    """What is held after a look at the need."""
    if held is None or need >= held.replicas:
        return Held(need)
    if held.lower_since is None:
        return Held(held.replicas, float(int(now)), need)
    peak = max(need, held.lower_peak)
    if now - held.lower_since < WINDOW:
        return Held(held.replicas, held.lower_since, peak)
    return Held(peak) if need >= peak else Held(peak, float(int(now)), need)
