"""Rewards on NeMo Gym's wire, which has no null (DESIGN 3.2, contract 1.5 and 2.3). Pure, both directions.

Callers that send ``x-kubegym-wire: 1`` get null. For all others a reply without a reward says 0.0 and is marked, so
that NeMo Gym's collector files it as a failure and its trainer masks it. What others mark is not scored by us, whatever
its number says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from kubegym.core.errors import (
    AgentError,
    JudgeError,
    ModelError,
    RolloutError,
    ToolFailed,
    VerifierError,
    WorkerError,
)
from kubegym.core.outcomes import Failure, Stage
from kubegym.core.tokens import Runs, read_runs

WIRE_HEADER = b"x-kubegym-wire"
"""Request header: ``1`` says that the caller understands a null reward."""

TASK_HEADER = b"x-kubegym-task-id"
"""Request header of ``/seed_session``: the task's id in the run, from which the session's random numbers follow."""

RUN_HEADER = b"x-kubegym-run"
"""Whose call it is, for a fair share of a model: the run's id, or its first 8 characters."""
ROLE_HEADER = b"x-kubegym-role"
"""What the model plays for the caller (policy, judge, ...), for statistics."""
DEADLINE_HEADER = b"x-kubegym-deadline"
"""Request header: seconds that the rollout has left."""

POLICY_VERSION_HEADER = b"x-kubegym-policy-version"
"""Reply header of a model: the version of the weights that made the reply, the lowest of several."""
POLICY_RUNS_HEADER = b"x-kubegym-policy-runs"
"""Reply header of a model, only where several versions made the reply: which made which of its tokens, as rows tell it,
``[{"version": 1, "from_token": 0}, {"version": 2, "from_token": 137}]``."""

FAILURE_HEADER = b"x-kubegym-failure"
"""Reply header: ``1`` says that the attempt has failed, with the ``kubegym.failure`` of the body."""

PARTS_HEADER = b"x-kubegym-parts"
"""Reply header of a tool: ``1`` says that the body is a list of content parts, with images among them. Callers that do
not know it hand the body on as text, as the contract says."""

FAILURE_CLASS = "_ng_failure_class"
FAILURE_TERMINAL = "_ng_failure_terminal"
_NOT_FIELDS = frozenset(
    {
        *("responses_create_params", "response", "reward", "reward_components", "kubegym", "agent_ref"),
        *("_ng_task_index", "_ng_rollout_index", "_ng_attempt_index", "_ng_rollout_id"),
        *(FAILURE_CLASS, FAILURE_TERMINAL, "_ng_failure_judge_error", "_ng_no_persist"),
    }
)
_ERRORS: dict[str, type[RolloutError]] = {
    error.stage: error for error in (AgentError, JudgeError, ModelError, ToolFailed, VerifierError, WorkerError)
}
_STAGES: dict[str, Stage] = {
    "judge_failed": "judge",
    "judge_error": "judge",
    "model_error": "model",
    "agent_error": "agent",
    "remote_agent_error": "agent",
    "tool_error": "tool",
    "verifier_error": "verifier",
    "worker_error": "worker",
}


def policy_told(version: bytes | None, runs: bytes | None) -> tuple[int | None, Runs]:
    """The version and runs of a reply's headers; those that cannot be read are not told."""
    number = int(version) if version is not None and version.isdigit() else None
    try:
        told = read_runs(json.loads(runs)) if runs is not None else []
    except ValueError:
        told = []
    return number, told


def mark_unscored(reply: dict[str, Any], failure: Failure | None, *, nullable: bool) -> dict[str, Any]:
    """A ``/run`` or ``/verify`` reply that has no reward, as the caller understands it; changes and returns ``reply``.

    Args:
        reply: the reply, with everything but the reward.
        failure: why there is none; None where the verifier declined.
        nullable: whether the caller sent ``x-kubegym-wire: 1``.
    """
    reply["reward"] = None if nullable else 0.0
    kind = "unscored" if failure is None else "judge_failed" if failure.stage == "judge" else f"{failure.stage}_error"
    reply[FAILURE_CLASS] = kind
    if failure is None or not failure.retryable:
        reply[FAILURE_TERMINAL] = True
    if failure is not None and failure.stage == "judge":
        reply["_ng_failure_judge_error"] = failure.message
    reply["mask_sample"] = True
    ours = reply.setdefault("kubegym", {})
    ours["outcome"] = "unscored" if failure is None else "failed"
    ours["failure"] = failure.to_dict() if failure else None
    return reply


def is_marked(reply: Mapping[str, Any]) -> bool:
    """Whether a reply of others is not scored, whatever its ``reward`` says."""
    return reply.get(FAILURE_CLASS) is not None or reply.get("reward") is None


def failure_of(reply: Mapping[str, Any], attempt: int) -> Failure | None:
    """The failure a marked reply tells; None where its verifier only declined (``unscored``).

    ``kubegym.failure`` is believed where it is; else the class names the stage, and all but ``_ng_failure_terminal``
    may be tried again.
    """
    ours = reply.get("kubegym")
    told = ours.get("failure") if isinstance(ours, dict) else None
    if isinstance(told, dict) and {"stage", "reason", "message", "retryable"} <= told.keys():
        return Failure(told["stage"], told["reason"], str(told["message"]), bool(told["retryable"]), attempt)
    kind = reply.get(FAILURE_CLASS)
    if kind is None or kind == "unscored":
        return None
    stage = _STAGES.get(str(kind), "agent")
    message = reply.get("_ng_failure_judge_error") or f"the server marked its reply {kind!r}"
    reason = "".join(word.capitalize() for word in str(kind).split("_"))
    return Failure(stage, reason, str(message), not reply.get(FAILURE_TERMINAL), attempt)


def error_of(failure: Failure) -> RolloutError:
    """The error that becomes this failure again: what another server found out, to be raised here."""
    kind = _ERRORS.get(failure.stage, AgentError)
    return kind(failure.message, reason=failure.reason, retryable=failure.retryable)


def fields_of(reply: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """What a ``/run`` or ``/verify`` reply adds to the row: neither an echo of it nor part of the contract's frame.

    Servers echo all of the row, a part or nothing (contract 1.7); copies of ``reward_components`` at the top level are
    left out, because the row gets them again.
    """
    given = reply.get("reward_components")
    components = given if isinstance(given, dict) else {}
    masks = reply.get(FAILURE_CLASS) is None and reply.get("reward") is not None
    return {
        name: value
        for name, value in reply.items()
        if name not in _NOT_FIELDS
        and not (name in row and row[name] == value)
        and not (name in components and components[name] == value)
        and (masks or name != "mask_sample")
    }


def number_of(value: object) -> float | None:
    """A reward or component as a finite number; None for anything else."""
    if not isinstance(value, int | float):
        return None
    number = float(value)
    return number if isfinite(number) else None


def components_of(reply: Mapping[str, Any]) -> dict[str, float]:
    """The reply's ``reward_components``, as far as they are finite numbers under names the row has no other use for."""
    given = reply.get("reward_components")
    if not isinstance(given, dict):
        return {}
    numbers = {name: number_of(value) for name, value in given.items() if name not in _NOT_FIELDS}
    return {name: number for name, number in numbers.items() if number is not None}
