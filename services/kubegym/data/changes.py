"""What verifying stored rollouts again has changed: counted from the new rows, which say what was before. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BEFORE = "reverified"
"""The row's field that says what was: ``run_id``, ``rollout_id``, ``verifier``, ``outcome``, ``reward``."""

SHOWN = 20


@dataclass(frozen=True, slots=True)
class Change:
    """A rollout whose result is another one.

    Attributes:
        rollout_id: in the run that was verified again.
        before: its reward; None without one.
        after: likewise.
        outcomes: its outcomes, before and after.
        why: the failure's reason, where it failed this time.
    """

    rollout_id: str
    before: float | None
    after: float | None
    outcomes: tuple[str, str]
    why: str | None = None


@dataclass(slots=True)
class Changes:
    """The changes of one environment.

    Attributes:
        verifiers: versions of the verifier, before and after, each once.
        rollouts: how many there are.
        same: with the same outcome and reward.
        higher: with a higher reward.
        lower: with a lower one.
        gained: that have a reward now, and had none.
        lost: that had one.
        other: without a reward both times, for another reason.
        kept: rollouts without a conversation to verify, which stay as they were; counted in ``same``.
        before: sum and number of the rewards before.
        after: of those now.
        examples: the first changed rollouts.
    """

    verifiers: list[tuple[str, str]] = field(default_factory=list)
    rollouts: int = 0
    same: int = 0
    higher: int = 0
    lower: int = 0
    gained: int = 0
    lost: int = 0
    other: int = 0
    kept: int = 0
    before: tuple[float, int] = (0.0, 0)
    after: tuple[float, int] = (0.0, 0)
    examples: list[Change] = field(default_factory=list)

    @property
    def changed(self) -> int:
        """How many results are others."""
        return self.rollouts - self.same

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row of the new run."""
        ours, past = row["kubegym"], row[BEFORE]
        was, now = past["reward"], row["reward"]
        versions = (past["verifier"]["version"], ours["verifier"]["version"])
        if versions not in self.verifiers:
            self.verifiers.append(versions)
        self.rollouts += 1
        self.kept += past["kept"]
        self.before, self.after = _summed(self.before, was), _summed(self.after, now)
        outcomes = (past["outcome"], ours["outcome"])
        if was == now and outcomes[0] == outcomes[1]:
            self.same += 1
            return
        if was is None or now is None:
            self.gained += was is None and now is not None
            self.lost += was is not None and now is None
            self.other += was is None and now is None
        else:
            self.higher += now > was
            self.lower += now < was
        if len(self.examples) < SHOWN:
            failure = ours["failure"]
            self.examples.append(Change(past["rollout_id"], was, now, outcomes, failure["reason"] if failure else None))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        counts = {name: getattr(self, name) for name in ("rollouts", "same", "higher", "lower", "gained", "lost")}
        return {
            **counts,
            "other": self.other,
            "kept": self.kept,
            "mean_before": mean(self.before),
            "mean_after": mean(self.after),
            "verifiers": [list(pair) for pair in self.verifiers],
            "examples": [
                {
                    "rollout_id": one.rollout_id,
                    "before": one.before,
                    "after": one.after,
                    "outcomes": list(one.outcomes),
                    "reason": one.why,
                }
                for one in self.examples
            ],
        }


def mean(sum_and_number: tuple[float, int]) -> float | None:
    """The mean reward; None of nothing."""
    total, number = sum_and_number
    return total / number if number else None


def _summed(total: tuple[float, int], reward: float | None) -> tuple[float, int]:
    return total if reward is None else (math.fsum((total[0], reward)), total[1] + 1)
