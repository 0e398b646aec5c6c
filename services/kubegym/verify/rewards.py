"""Rewards made of parts: named ones with weights, shaping, one a turn, and relative to the group. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kubegym.core.messages import Item
from kubegym.core.trajectory import Verdict
from kubegym.verify.text import turns


def weighted(
    scores: Mapping[str, float],
    weights: Mapping[str, float],
    *,
    gate: str | None = None,
    turn_rewards: Sequence[float] = (),
    fields: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Verdict:
    """A verdict whose reward is the weighted sum of named scores, which stand in the row as ``reward_components``.

    Args:
        scores: what each part scored, unweighted.
        weights: the weight of each; a part without one is reported and counts nothing.
        gate: a part that has to be positive for any reward at all, so that good form never pays for a wrong answer.
        turn_rewards: see ``Verdict``.
        fields: see ``Verdict``.
        metrics: see ``Verdict``.

    Raises:
        ValueError: a weight, or the gate, names no score.
    """
    unknown = sorted({*weights, *([gate] if gate else ())} - scores.keys())
    if unknown:
        raise ValueError(f"no score is called {', '.join(unknown)} (scores: {', '.join(sorted(scores)) or 'none'})")
    total = sum(weight * scores[name] for name, weight in weights.items())
    if gate is not None and scores[gate] <= 0:
        total = 0.0
    return Verdict(
        total,
        components=dict(scores),
        turn_rewards=turn_rewards,
        fields=dict(fields or {}),
        metrics=dict(metrics or {}),
    )


def clipped(value: float, low: float = 0.0, high: float = 1.0) -> float:
    """The value, held within bounds."""
    return min(max(value, low), high)


def ramp(value: float, worst: float, best: float) -> float:
    """0 at ``worst`` or beyond, 1 at ``best`` or beyond, straight in between; ``worst`` may be the larger number.

    A soft limit of length: ``ramp(tokens, worst=4096, best=3072)``.
    """
    if worst == best:
        raise ValueError("worst and best are the same number")
    return clipped((value - worst) / (best - worst))


def per_turn(output: Sequence[Item], score: Callable[[list[Item]], float]) -> list[float]:
    """One reward for each of the policy's turns, in order, for ``Verdict(turn_rewards=...)``.

    Args:
        output: ``rollout.output``.
        score: the reward of one turn, given its items.
    """
    return [score(turn) for turn in turns(output)]


def discounted(rewards: Sequence[float], factor: float) -> list[float]:
    """Each turn's reward with those that follow it, each one turn later weighted by ``factor`` once more."""
    returns: list[float] = []
    following = 0.0
    for reward in reversed(rewards):
        following = reward + factor * following
        returns.append(following)
    return returns[::-1]


def centred(rewards: Sequence[float], *, scaled: bool = False) -> list[float]:
    """Rewards relative to their group's mean; ``scaled`` divides by its standard deviation where that is not 0."""
    if not rewards:
        return []
    mean = statistics.fmean(rewards)
    spread = statistics.pstdev(rewards) if scaled else 1.0
    return [(reward - mean) / (spread or 1.0) for reward in rewards]


def ranked(values: Sequence[float]) -> list[float]:
    """From 0 for the lowest to 1 for the highest of a group; equal ones share their mean rank. One alone has 0.5."""
    if len(values) < 2:
        return [0.5] * len(values)
    last = len(values) - 1
    return [
        (sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2) / last
        for value in values
    ]


def win_rates(wins: Mapping[tuple[int, int], float], size: int) -> list[float]:
    """Each one's mean over its comparisons with the others of its group.

    Args:
        wins: (first, second) -> 1 the first won, 0 the second, 0.5 neither.
        size: of the group; one that was compared with nobody has 0.5.
    """
    results: list[list[float]] = [[] for _ in range(size)]
    for (first, second), result in wins.items():
        results[first].append(result)
        results[second].append(1.0 - result)
    return [statistics.fmean(own) if own else 0.5 for own in results]
