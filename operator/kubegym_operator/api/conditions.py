"""Conditions of a status, in the shape of ``metav1.Condition``. Pure: the caller brings generation and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

MAX_MESSAGE: Final = 4096
"""Longest message in characters; the CRD has the same bound, and a longer one would fail the whole status write."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What the operator says about one aspect of an object.

    Attributes:
        type: a constant of ``reasons.Type``.
        status: whether it holds.
        reason: why, as one CamelCase word: a constant of ``reasons.Reason``, or what a pod or a rollout reports.
        message: the same for a person: what, where, since when, and what to do.
    """

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""


def merge(
    old: Sequence[dict[str, Any]], new: Sequence[Condition], *, generation: int, now: str
) -> list[dict[str, Any]]:
    """The conditions to store, in the order of ``new``; a type that ``new`` lacks goes.

    Args:
        old: the conditions that are stored now.
        new: what holds now, each type once.
        generation: ``metadata.generation`` of what was looked at.
        now: the time as RFC 3339; taken over only where a status changes, so that a steady state merges to itself.
    """
    before = {stored.get("type"): stored for stored in old}
    merged: list[dict[str, Any]] = []
    for condition in new:
        stored = before.get(condition.type, {})
        same = stored.get("status") == condition.status and stored.get("lastTransitionTime")
        merged.append(
            {
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
                "message": _shortened(condition.message),
                "lastTransitionTime": stored["lastTransitionTime"] if same else now,
                "observedGeneration": generation,
            }
        )
    return merged


def find(conditions: Sequence[dict[str, Any]], type: str) -> dict[str, Any] | None:
    """The stored condition of that type, if there is one."""
    return next((condition for condition in conditions if condition.get("type") == type), None)


def is_true(conditions: Sequence[dict[str, Any]], type: str) -> bool:
    """Whether the condition of that type is stored and holds."""
    condition = find(conditions, type)
    return condition is not None and condition.get("status") == "True"


def _shortened(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 3] + "..."
