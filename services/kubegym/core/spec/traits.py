"""What an environment says of itself: the words its ``kubegym.dev/*`` annotations may hold, and what is missing.

::

    metadata:
      name: calendar
      labels:
        app.kubernetes.io/version: 0.1.0
      annotations:
        kubegym.dev/rollout-structure: single-turn
        kubegym.dev/capabilities: multiple-intent-synthesis, schema-adherence
        kubegym.dev/domain: scheduling
        kubegym.dev/task-type: planning
        kubegym.dev/verification: state-match
        kubegym.dev/license: Apache-2.0
        kubegym.dev/chance: "0"

``chance`` is the mean reward that the best policy earns which does not do the task: at random, always the same, or by
any trick. The README states the same number, and ``kubegym validate --adversarial`` holds the environment to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from kubegym.core.spec.common import TRAIT_PREFIX, TRAITS
from kubegym.core.spec.environment import GymEnvironment
from kubegym.core.spec.problems import did_you_mean

STRUCTURES: Final = ("single-turn", "multi-step", "multi-turn", "multi-modal", "long-context")
"""How a rollout runs: one answer; tool calls; a user who answers; images; a prompt that fills the window."""

CAPABILITIES: Final = (
    "text",
    "tool-calling",
    "session-state",
    "code-execution",
    "reasoning",
    "retrieval",
    "vision",
    "information-dependency",
    "proactive-asking",
    "schema-adherence",
    "metadata-instruction-following",
    "counterintuitive-instruction-following",
    "information-relevance",
    "multiple-intent-synthesis",
)
"""What a policy has to be able to do."""

VERIFICATIONS: Final = (
    "exact-match",
    "regex",
    "choice",
    "number",
    "set-match",
    "json-schema",
    "symbolic-math",
    "unit-tests",
    "state-match",
    "llm-judge",
    "reward-model",
)
"""How the reward comes about."""

_CLOSED: Final[Mapping[str, tuple[str, ...]]] = {
    "rollout-structure": STRUCTURES,
    "capabilities": CAPABILITIES,
    "verification": VERIFICATIONS,
}
_WORD = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*( (AND|OR|WITH) [A-Za-z0-9][A-Za-z0-9.+-]*)*")


def chance_of(environment: GymEnvironment) -> float | None:
    """The stated chance level; None where none, or no number, is stated."""
    stated = environment.metadata.annotations.get(TRAIT_PREFIX + "chance", "")
    try:
        return float(stated)
    except ValueError:
        return None


def trait_problems(environment: GymEnvironment) -> list[str]:
    """What an environment does not say of itself, or says in words that nobody filters by; each with the remedy."""
    problems = []
    if not environment.version:
        problems.append("label app.kubernetes.io/version is missing: the environment's version, such as 0.1.0")
    for trait in TRAITS:
        words = environment.traits.get(trait, [])
        if not words:
            problems.append(f"annotation {TRAIT_PREFIX}{trait} is missing: {_wanted(trait)}")
        problems += [f"annotation {TRAIT_PREFIX}{trait}: {wrong}" for word in words if (wrong := _wrong(trait, word))]
    return problems


def _wanted(trait: str) -> str:
    if trait in _CLOSED:
        return f"one or more of {', '.join(_CLOSED[trait])}"
    if trait == "license":
        return "an SPDX expression, such as Apache-2.0"
    if trait == "chance":
        return 'the mean reward of the best policy that does not do the task, such as "0.25"'
    return "a word or several, such as math or tool-use"


def _wrong(trait: str, word: str) -> str | None:
    if trait in _CLOSED:
        known = _CLOSED[trait]
        return None if word in known else f"unknown word {word!r}{did_you_mean(word, known)}"
    if trait == "chance":
        try:
            float(word)
        except ValueError:
            return f"must be a number, not {word!r}"
        return None
    if trait == "license":
        return None if _LICENSE.fullmatch(word) else f"must be an SPDX expression such as Apache-2.0, not {word!r}"
    return None if _WORD.fullmatch(word) else f"must be lower-case words joined by -, not {word!r}"
