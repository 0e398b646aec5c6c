"""What a verifier reads (``Rollout``) and what it answers (``Verdict``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kubegym.core.messages import Item, ToolCall, is_assistant_message, item_text, tool_calls
from kubegym.core.outcomes import StopReason

RESERVED_FIELDS = frozenset(
    {
        "responses_create_params",
        "response",
        "reward",
        "reward_components",
        "agent_ref",
        "kubegym",
        "mask_sample",
    }
)
"""Names at the top level of a row that a verdict's fields may not take (besides ``_ng_*`` and ``ng_*``)."""


@dataclass
class Rollout:
    """A finished conversation, as a verifier sees it.

    Attributes:
        input: the input items the policy was first given (row and ``seed``).
        output: everything after: the policy's items, tool outputs, the environment's replies, in order.
        stop_reason: why the conversation ended.
        response: the final Responses object of the contract, with all outputs and summed usage.
        row: the row the rollout began with, unknown fields included.
        reward: the reward, where one was given already (``verify_group``), else None.
        fields: fields of the verdict, where one was given already.
    """

    input: Sequence[Item]
    output: Sequence[Item]
    stop_reason: StopReason
    response: dict[str, Any]
    row: dict[str, Any] = field(default_factory=dict)
    reward: float | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def messages(self) -> list[Item]:
        """All items, input and output."""
        return [*self.input, *self.output]

    @cached_property
    def final_text(self) -> str:
        """Text of the last assistant message, without reasoning; empty if there is none."""
        for item in reversed(self.output):
            if is_assistant_message(item):
                return item_text(item)
        return ""

    @cached_property
    def all_text(self) -> str:
        """Texts of all assistant messages, joined by newlines, without reasoning."""
        return "\n".join(item_text(item) for item in self.output if is_assistant_message(item))

    @cached_property
    def reasoning(self) -> str:
        """Reasoning texts the model showed, joined by newlines."""
        texts: list[str] = []
        for item in self.output:
            if item.get("type") == "reasoning":
                for key in ("content", "summary"):
                    texts += [part["text"] for part in item.get(key) or () if part.get("text")]
        return "\n".join(texts)

    @cached_property
    def tool_calls(self) -> list[ToolCall]:
        """Every call the policy made, in order."""
        return tool_calls(self.output)


class Verdict:
    """A verifier's answer.

    Args:
        reward: the reward, finite; None leaves the rollout ``unscored``.
        components: named parts of the reward (the row's ``reward_components`` and numeric copies at its top level).
        turn_rewards: one reward a turn (model call), in order, for credit assignment.
        fields: JSON values that become top-level fields of the row.
        metrics: numbers that become top-level fields of the row, for aggregation.

    Raises:
        TypeError: an unknown keyword, or a value of the wrong kind.
        ValueError: NaN or infinity, or a field with a reserved name.
    """

    __slots__ = ("components", "fields", "metrics", "reward", "turn_rewards")

    def __init__(
        self,
        reward: float | None,
        *,
        components: dict[str, float] | None = None,
        turn_rewards: Sequence[float] = (),
        fields: dict[str, Any] | None = None,
        metrics: dict[str, float] | None = None,
    ) -> None:
        self.reward = None if reward is None else _finite("reward", reward)
        self.components = {_free(name): _finite(name, value) for name, value in (components or {}).items()}
        self.turn_rewards = [_finite("turn_rewards", value) for value in turn_rewards]
        self.fields = {_free(name): value for name, value in (fields or {}).items()}
        self.metrics = {_free(name): _finite(name, value) for name, value in (metrics or {}).items()}

    def __repr__(self) -> str:
        return f"Verdict({self.reward!r}, fields={self.fields!r})"


def _finite(name: str, value: Any) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {type(value).__name__} {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, not {number}")
    return number


def _free(name: str) -> str:
    if name in RESERVED_FIELDS or name.startswith(("_ng_", "ng_")):
        raise ValueError(f"{name!r} is a reserved field of the row; call the verdict's field something else")
    return name
