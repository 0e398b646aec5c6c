"""Scores of reward models, by the pooling endpoint of their engine (vLLM: ``--runner pooling``).

A reward model is a role like a judge: ``await score(self.models.reward, conversation(rollout))``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from kubegym.core.errors import JudgeError
from kubegym.core.messages import item_text
from kubegym.core.trajectory import Rollout


class Engine(Protocol):
    """A role whose engine answers more than generation, such as ``self.models.reward``."""

    async def question(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask a route of the engine. Raises ModelError."""
        ...


def conversation(rollout: Rollout) -> list[dict[str, str]]:
    """The texts of a rollout as chat messages, which is what reward models were trained on; tool calls left out."""
    return [
        {"role": item["role"], "content": item_text(item)}
        for item in rollout.messages
        if item.get("type", "message") == "message" and item.get("role")
    ]


async def score(
    role: Engine, messages: Sequence[Mapping[str, Any]], *, head: int = 0, activation: bool = False
) -> float:
    """What a reward model gives a conversation: one number, unbounded; ``rewards.ramp`` shapes it.

    Args:
        role: the reward model.
        messages: chat messages, the last one the answer.
        head: which number, for a model that gives several.
        activation: whether the engine squeezes it: vLLM would, by a sigmoid (a softmax over several numbers), after
            which good answers all have 1.0.

    Raises:
        JudgeError: "VerdictUnparseable", the endpoint gave no such number.
        ModelError: it could not be asked.
    """
    vector = (await _vectors(role, messages, activation))[-1]
    if not -len(vector) <= head < len(vector):
        raise _unreadable(f"{len(vector)} numbers, none is number {head}")
    return vector[head]


async def step_scores(
    role: Engine, messages: Sequence[Mapping[str, Any]], *, head: int = -1, activation: bool = True
) -> list[float]:
    """What a process reward model gives each step of the answer; for ``Verdict(turn_rewards=...)`` or their minimum.

    Args:
        role: the reward model.
        messages: chat messages, the last one the answer.
        head: which number of each step; of two labels the last one stands for right.
        activation: whether the engine makes them probabilities.

    Raises:
        JudgeError: "VerdictUnparseable", the endpoint gave no numbers.
        ModelError: it could not be asked.
    """
    vectors = await _vectors(role, messages, activation)
    if not all(-len(vector) <= head < len(vector) for vector in vectors):
        raise _unreadable(f"{len(vectors[0])} numbers a step, none is number {head}")
    return [vector[head] for vector in vectors]


async def _vectors(role: Engine, messages: Sequence[Mapping[str, Any]], activation: bool) -> list[list[float]]:
    """The endpoint's numbers: one vector for the whole, or one a step."""
    reply = await role.question("pooling", {"messages": list(messages), "use_activation": activation})
    data = reply.get("data")
    first = data[0] if isinstance(data, list) and data and isinstance(data[0], dict) else {}
    told = first.get("data")
    if not isinstance(told, list) or not told:
        raise _unreadable(f"{reply!r:.200}")
    vectors = told if isinstance(told[0], list) else [told]
    for vector in vectors:
        if not isinstance(vector, list) or not vector or not all(map(_is_number, vector)):
            raise _unreadable(f"{vector!r:.200}")
    return [[float(number) for number in vector] for vector in vectors]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _unreadable(what: str) -> JudgeError:
    return JudgeError(f"the reward model gave no score: {what}", reason="VerdictUnparseable")
