"""``/run`` as data: a row to an assignment and its settings, an attempt to a reply (contract 1.3, 1.7). Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from kubegym.agent.attempt import AgentSettings
from kubegym.core.ids import task_id
from kubegym.core.params import CREATE_PARAMS
from kubegym.core.protocols import Assignment, Attempt
from kubegym.core.wire import mark_unscored
from kubegym.http.rows import RESULTS, read_identity
from kubegym.http.server import Problem

LONGEST_SECONDS = 7 * 86400.0
"""A caller's deadline is cut to this."""

_ASKED: dict[str, Callable[[Any], bool]] = {
    "seed": lambda value: type(value) is int,
    "max_steps": lambda value: type(value) is int,
    "max_total_tokens": lambda value: type(value) is int,
    "on_truncated": lambda value: value in ("Verify", "Skip"),
    "token_ids": lambda value: type(value) is bool,
}
"""What a caller may ask for, and what it looks like."""


def check_params(params: object, where: list[str | int]) -> None:
    """Refuse what are no create-params, as NeMo Gym's servers do. Raises Problem (422)."""
    if not isinstance(params, dict):
        raise Problem.invalid(where, "Input should be a valid dictionary", "model_attributes_type", params)
    unknown = [
        {"type": "extra_forbidden", "loc": [*where, name], "msg": "Extra inputs are not permitted", "input": value}
        for name, value in params.items()
        if name not in CREATE_PARAMS
    ]
    if unknown:
        raise Problem(422, unknown)
    given = params.get("input")
    if given is not None and not isinstance(given, str | list):
        raise Problem.invalid([*where, "input"], "Input should be a valid string or list", "list_type", given)
    if isinstance(given, list) and not all(isinstance(item, dict) for item in given):
        raise Problem.invalid([*where, "input"], "every item should be an object", "dict_type", given)
    tools = params.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise Problem.invalid([*where, "tools"], "Input should be a valid list", "list_type", tools)
    if params.get("stream"):
        raise Problem.invalid([*where, "stream"], "an agent does not stream", "literal_error", params["stream"])


def read_assignment(row: dict[str, Any], environment: str, prefix: str | None) -> Assignment:
    """What a ``/run`` asks for.

    Args:
        row: the request's body.
        environment: the name under which its task is identified.
        prefix: the rollout id of the URL's prefix, which has the attempt's suffix already.

    Raises:
        Problem: 422, the row is no row.
    """
    if "responses_create_params" not in row:
        raise Problem.invalid(["body", "responses_create_params"], "Field required", "missing", row)
    check_params(row["responses_create_params"], ["body", "responses_create_params"])
    task, rollout, attempt, identity = read_identity(row, prefix)
    suffix = f"-a{attempt}"
    if attempt and not identity.endswith(suffix):
        identity += suffix
    ours = row.get("kubegym")
    known = ours.get("task_id") if isinstance(ours, dict) else None
    clean = {name: value for name, value in row.items() if name not in RESULTS}
    return Assignment(
        environment,
        clean,
        known if isinstance(known, str) else task_id(environment, clean),
        task,
        rollout,
        identity,
        attempt,
    )


def read_settings(settings: AgentSettings, row: Mapping[str, Any], deadline: bytes | None) -> AgentSettings:
    """The server's settings with what the caller asks for: ``kubegym`` in the row, and the deadline header.

    Raises:
        Problem: 422, a setting of the wrong kind.
    """
    asked: dict[str, Any] = {}
    if deadline is not None:
        asked["deadline_seconds"] = _seconds(deadline)
    ours = row.get("kubegym")
    if isinstance(ours, dict):
        for name, right in _ASKED.items():
            value = ours.get(name)
            if value is None:
                continue
            if not right(value):
                raise Problem.invalid(["body", "kubegym", name], "not a value of this setting", given=value)
            asked[name] = value
    return replace(settings, **asked) if asked else settings


def run_reply(
    assignment: Assignment, attempt: Attempt, *, nullable: bool, skipped_reward: float = 0.0
) -> dict[str, Any]:
    """The reply of ``/run``: the row, the response with its token ids, the reward and every field of the verifier's.

    Args:
        assignment: what was asked for.
        attempt: how it ended.
        nullable: whether the caller understands a null reward.
        skipped_reward: for callers that do not, the reward where verification was skipped on purpose.
    """
    if attempt.tokens is not None and attempt.response is not None:
        attempt.tokens.place(attempt.response["output"])
    row = assignment.row
    reply = dict(row)
    reply["responses_create_params"] = attempt.params or row["responses_create_params"]
    reply["response"] = attempt.response
    reply["reward"] = attempt.reward
    if attempt.components:
        reply.update(attempt.components)
        reply["reward_components"] = attempt.components
    reply.update(attempt.fields)
    reply["kubegym"] = {
        "outcome": attempt.outcome,
        "failure": attempt.failure.to_dict() if attempt.failure else None,
        "stop_reason": attempt.stop_reason,
        "rollout_id": assignment.rollout_id,
        "seed": attempt.seed,
        "usage": attempt.usage,
        "timing": attempt.timing,
        "turns": attempt.turns,
    }
    if attempt.outcome == "scored":
        return reply
    if attempt.outcome == "unscored" and attempt.fields.get("verification_skipped"):
        reply["reward"] = None if nullable else skipped_reward
        return reply
    if attempt.response is None and not nullable:
        reply["response"] = _no_response(assignment.rollout_id)  # their verify response must have one
    return mark_unscored(reply, attempt.failure, nullable=nullable)


def _no_response(identity: str) -> dict[str, Any]:
    return {
        "id": f"resp_{identity}",
        "object": "response",
        "created_at": 0,
        "model": "",
        "status": "failed",
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


def _seconds(given: bytes) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise Problem.invalid(
            ["header", "x-kubegym-deadline"], "must be seconds above 0", given=given.decode("latin-1")
        )
    return min(seconds, LONGEST_SECONDS)
