"""Outcomes, failures and stop reasons of a rollout (DESIGN 3.2: a reward is never invented)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Outcome = Literal["scored", "unscored", "failed"]
"""``scored``: a verifier gave a number. ``unscored``: it declined, or was told to skip. ``failed``: see ``Failure``."""

Stage = Literal["model", "agent", "tool", "verifier", "judge", "worker"]
"""Where an attempt failed."""

StopReason = Literal[
    "completed",
    "max_output_tokens",
    "context_window",
    "max_steps",
    "content_filter",
    "token_budget",
    "deadline",
    "environment_done",
]
"""Why the conversation ended."""

TRUNCATED: frozenset[StopReason] = frozenset(
    {"max_output_tokens", "context_window", "max_steps", "content_filter", "token_budget"}
)
"""Stop reasons of a conversation that something cut short; ``onTruncated`` decides about those."""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
STOP_REASONS: tuple[StopReason, ...] = get_args(StopReason)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt has no reward.

    ``reason`` is CamelCase from an open list; ``retryable`` is true for infrastructure only; ``attempt`` counts from 0.
    """

    stage: Stage
    reason: str
    message: str
    retryable: bool
    attempt: int

    def to_dict(self) -> dict[str, Any]:
        """The row's ``failure`` object."""
        return {
            "stage": self.stage,
            "reason": self.reason,
            "message": self.message,
            "retryable": self.retryable,
            "attempt": self.attempt,
        }
