"""The figures of a run in its status: what a worker told, in the end what the finaliser summed up (rule 9)."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from kubegym_operator.api import RolloutJob
from kubegym_operator.api.conditions import Condition
from kubegym_operator.api.reasons import Reason, Type
from kubegym_operator.plan.snapshot import Progress
from kubegym_operator.plan.times import rfc3339, seconds

VOLATILE: Final = (
    "workers",
    "shards",
    "rollouts",
    "failures",
    "rewardMean",
    "tokens",
    "throughput",
    "lastProgressTime",
    "estimatedCompletionTime",
)
"""Fields that move all the time; they are written with other news, or every 30 s."""

_SHOWN = 5
"""Reasons of failures that a message names."""


def figures(stored: Mapping[str, Any], progress: Progress | None) -> dict[str, Any]:
    """The figures for the status: the new ones over the stored ones.

    Args:
        stored: the status as it is.
        progress: what was told now; None keeps everything.
    """
    kept = {name: stored[name] for name in (*VOLATILE[1:], "planDigest") if name in stored}
    if progress is None:
        return kept
    told = {
        "shards": dict(progress.shards),
        "rollouts": dict(progress.rollouts),
        "failures": dict(progress.failures),
        "rewardMean": progress.reward_mean,
        "tokens": dict(progress.tokens),
        "throughput": progress.throughput,
        "lastProgressTime": progress.last_progress_time,
        "planDigest": progress.plan_digest,
    }
    merged = kept | {name: value for name, value in told.items() if value}
    end = _estimated_end(merged)
    if end is None:
        merged.pop("estimatedCompletionTime", None)
    else:
        merged["estimatedCompletionTime"] = end
    return merged


def reward_integrity(job: RolloutJob, status: Mapping[str, Any]) -> Condition:
    """Whether the failed rollouts are few enough for the rewards to mean something."""
    rollouts = status.get("rollouts") or {}
    expected, failed = rollouts.get("expected", 0), rollouts.get("failed", 0)
    fraction = job.spec.failure_policy.max_failed_rollout_fraction
    if failed <= Decimal(fraction) * expected or not expected:
        return Condition(Type.REWARD_INTEGRITY, "True", Reason.WITHIN_BUDGET)
    failures: Mapping[str, int] = status.get("failures") or {}
    most = sorted(failures.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]
    why = ", ".join(f"{reason} {count}" for reason, count in most)
    return Condition(
        Type.REWARD_INTEGRITY,
        "False",
        Reason.ROLLOUT_FAILURE_BUDGET_EXCEEDED,
        f"{failed} of {expected} rollouts failed, more than failurePolicy.maxFailedRolloutFraction ({fraction})"
        + (f": {why}" if why else ""),
    )


def _estimated_end(status: Mapping[str, Any]) -> str | None:
    """When the run ends at its throughput, counted from its last progress, so that a standstill moves nothing."""
    rollouts, last = status.get("rollouts") or {}, seconds(status.get("lastProgressTime"))
    try:
        rate = float(Decimal(str(status.get("throughput") or "0")))
    except InvalidOperation:
        return None
    left = rollouts.get("expected", 0) - sum(rollouts.get(outcome, 0) for outcome in ("scored", "unscored", "failed"))
    if last is None or rate <= 0 or left <= 0 or left / rate > 10 * 365 * 86400:
        return None
    return rfc3339(last + left / rate)
