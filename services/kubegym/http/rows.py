"""What a request's row says of the rollout that it begins (contract 1.1, 2.3); agents and resources servers read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from kubegym.http.server import Problem

RESULTS = frozenset(
    {
        *("kubegym", "response", "reward", "reward_components", "mask_sample", "verification_skipped"),
        *("_ng_failure_class", "_ng_failure_terminal", "_ng_failure_judge_error", "_ng_step_request_id"),
    }
)
"""Fields that are no part of a row: what an earlier run, or a step of this one, has put beside it."""

_ROLLOUT_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


class Identity(NamedTuple):
    """Which rollout it is: the task's and the rollout's index, the attempt, and the rollout's id."""

    task_index: int
    rollout_index: int
    attempt: int
    rollout_id: str


def read_identity(row: Mapping[str, Any], prefix: str | None) -> Identity:
    """The rollout of a row; indices that are absent or null are 0.

    Args:
        row: a row.
        prefix: the rollout id of the URL's prefix, which is believed before the row's ``_ng_rollout_id``.

    Raises:
        Problem: 422, an index or id of the wrong kind.
    """
    task, rollout, attempt = (_index(row, f"_ng_{name}_index") for name in ("task", "rollout", "attempt"))
    rollout_id = prefix or row.get("_ng_rollout_id") or f"{task}-{rollout}"
    if not isinstance(rollout_id, str) or not _ROLLOUT_ID.match(rollout_id):
        raise Problem.invalid(["body", "_ng_rollout_id"], f"must match {_ROLLOUT_ID.pattern}", given=rollout_id)
    return Identity(task, rollout, attempt, rollout_id)


def _index(row: Mapping[str, Any], name: str) -> int:
    value = row.get(name)
    if value is None:
        return 0
    if type(value) is not int or value < 0:
        raise Problem.invalid(["body", name], "Input should be a valid integer, not below 0", "int_type", value)
    return value
