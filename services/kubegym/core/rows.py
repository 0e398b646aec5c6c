"""Rollout rows: NeMo Gym's fields and ours under one key (contract 2.3, DESIGN section 6 "Files")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from kubegym.core.ids import rollout_id
from kubegym.core.protocols import Assignment, Attempt, EnvironmentInfo
from kubegym.core.tokens import versions_of

SCHEMA = 1
"""Schema number of the ``kubegym`` object; within a number fields are only added."""

AGENT_TYPE = "responses_api_agents"

_RESULTS = (
    "kubegym",
    "reward_components",
    "mask_sample",
    "_ng_attempt_index",
    "_ng_failure_class",
    "_ng_failure_terminal",
)


def build_row(assignment: Assignment, attempt: Attempt, info: EnvironmentInfo, run_id: str) -> dict[str, Any]:
    """The row of one attempt.

    Unknown fields of the input are echoed, the verdict's fields win over them, and the reward is null unless a
    verifier gave it. The ``kubegym`` object comes last, where readers look for it.
    """
    row = dict(assignment.row)
    for name in _RESULTS:  # of an earlier run whose rows are this one's input: they say nothing of this attempt
        row.pop(name, None)
    row["responses_create_params"] = attempt.params or row.get("responses_create_params", {})
    row["response"] = attempt.response
    row["reward"] = attempt.reward
    if attempt.components:
        row.update(attempt.components)
        row["reward_components"] = attempt.components
    row.update(attempt.fields)
    row.setdefault("_ng_task_index", assignment.task_index)
    row["_ng_rollout_index"] = assignment.rollout_index
    if assignment.attempt:
        row["_ng_attempt_index"] = assignment.attempt
    if not row.get("agent_ref"):
        row["agent_ref"] = {"type": AGENT_TYPE, "name": info.agent}
    if attempt.stale:
        row["mask_sample"] = True  # trainers that know the contract alone leave it out, too (2.7)
    row["kubegym"] = {
        "schema": SCHEMA,
        "run_id": run_id,
        "rollout_id": rollout_id(run_id, assignment.task_index, assignment.rollout_index, assignment.attempt),
        "task_id": assignment.task_id,
        "task_index": assignment.task_index,
        "environment": {"name": info.name, "version": info.version},
        "verifier": {"name": info.verifier, "version": info.verifier_version},
        "attempt": assignment.attempt,
        "outcome": attempt.outcome,
        "failure": attempt.failure.to_dict() if attempt.failure else None,
        "stop_reason": attempt.stop_reason,
        "seed": attempt.seed,
        "policy": {"model": info.model, "versions": sorted(versions_of(attempt.turns))},
        "usage": attempt.usage,
        "timing": attempt.timing,
        "turns": attempt.turns,
        "samples_ref": None,
        "stale": attempt.stale,
    }
    return row


def encode_row(row: Mapping[str, Any]) -> bytes:
    """One JSON line, newline included. Raises TypeError for values JSON has no word for."""
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)


def failure_class(row: Mapping[str, Any]) -> str | None:
    """NeMo Gym's ``_ng_failure_class`` for a row of ours that has no reward; None where it has one (DESIGN 3.2)."""
    ours = row["kubegym"]
    if ours["outcome"] == "scored":
        return None
    failure = ours["failure"]
    if failure is None:
        return "unscored"
    return "judge_failed" if failure["stage"] == "judge" else f"{failure['stage']}_error"
