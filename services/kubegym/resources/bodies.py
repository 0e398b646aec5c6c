"""What requests of the resources server say and what its replies tell (contract 1.5, 1.6). Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from kubegym.core.errors import RolloutError
from kubegym.core.ids import task_id
from kubegym.core.messages import Item, Message, ToolOutput, Turn, input_items, is_assistant_message, item_text
from kubegym.core.outcomes import STOP_REASONS, Failure, StopReason
from kubegym.core.protocols import Assignment
from kubegym.core.trajectory import Rollout, Verdict
from kubegym.core.wire import FAILURE_HEADER, PARTS_HEADER, mark_unscored
from kubegym.http.rows import RESULTS, read_identity
from kubegym.http.server import TEXT, Problem, Reply

DEFAULT_DEADLINE_SECONDS = 3600.0
LONGEST_DEADLINE_SECONDS = 7 * 86400.0

_STOPS: dict[str, StopReason] = {"max_output_tokens": "max_output_tokens", "content_filter": "content_filter"}
_STATUS = {"SessionLost": 410, "ShuttingDown": 503, "TooManySessions": 503}
_RETRY_AFTER_SECONDS = b"5"


def read_assignment(
    body: Mapping[str, Any], environment: str, prefix: str | None, task: bytes | None = None
) -> Assignment:
    """The rollout that a row begins; whatever is absent or null has a default (contract 1.7).

    Args:
        body: a row, perhaps with a response or the results of an earlier run, which are left out.
        environment: the name under which its task is identified.
        prefix: the rollout id of the URL's prefix.
        task: the task's id as our agents tell it; without it the row's own.

    Raises:
        Problem: 422, an index or id of the wrong kind.
    """
    row = {name: value for name, value in body.items() if name not in RESULTS}
    params = row.get("responses_create_params")
    if params is None:
        row["responses_create_params"] = {}
    elif not isinstance(params, dict):
        raise Problem.invalid(
            ["body", "responses_create_params"], "Input should be a valid dictionary", "dict_type", params
        )
    index, rollout, attempt, identity = read_identity(row, prefix)
    known = task.decode("ascii", "replace") if task else task_id(environment, row)
    return Assignment(environment, row, known, index, rollout, identity, attempt)


def read_deadline(header: bytes | None) -> float:
    """Seconds that the rollout has left, as its agent says. Raises Problem (422)."""
    if header is None:
        return DEFAULT_DEADLINE_SECONDS
    try:
        seconds = float(header)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise Problem.invalid(["header", "x-kubegym-deadline"], "must be seconds", given=header.decode("latin-1"))
    return min(seconds, LONGEST_DEADLINE_SECONDS)


def read_arguments(body: bytes) -> dict[str, Any]:
    """A tool's arguments; nothing at all is none. Raises Problem (422).

    By the standard library, because orjson makes floats of integers beyond 64 bits and refuses lone surrogates.
    """
    if not body:
        return {}
    try:
        arguments = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Problem.invalid(["body"], f"JSON decode error: {error}", "json_invalid") from None
    if not isinstance(arguments, dict):
        raise Problem.invalid(["body"], "Input should be a valid dictionary", "dict_type", arguments)
    return arguments


def read_response(body: Mapping[str, Any]) -> dict[str, Any]:
    """The ``response`` of a request, whose ``output`` is a list of items. Raises Problem (422)."""
    response = body.get("response")
    if not isinstance(response, dict):
        kind = "missing" if response is None else "dict_type"
        message = "Field required" if response is None else "Input should be a valid dictionary"
        raise Problem.invalid(["body", "response"], message, kind, response)
    output = response.get("output")
    if not isinstance(output, list) or not all(isinstance(item, dict) for item in output):
        raise Problem.invalid(["body", "response", "output"], "must be a list of items", "list_type", output)
    return response


def read_input(body: Mapping[str, Any]) -> list[Item]:
    """The items of ``responses_create_params.input``. Raises Problem (422)."""
    params = body.get("responses_create_params")
    given = (params.get("input") if isinstance(params, dict) else None) or []
    if not isinstance(given, str) and not (isinstance(given, list) and all(isinstance(item, dict) for item in given)):
        raise Problem.invalid(
            ["body", "responses_create_params", "input"], "must be text or a list of items", "list_type", given
        )
    return input_items(given)


def read_rollout(body: Mapping[str, Any], row: dict[str, Any], server: str | None) -> Rollout:
    """The conversation that a ``/verify`` tells.

    Args:
        body: the request's.
        row: the row the session began with.
        server: the MCP server's name, whose prefix the verifier does not see; None where tools have none.

    Raises:
        Problem: 422.
    """
    response = read_response(body)
    output: list[Item] = response["output"]
    if server is not None:
        plain = strip_prefix(output, f"mcp__{server}__")
        if plain is not output:
            output, response = plain, {**response, "output": plain}
    return Rollout(read_input(body), output, _stop_reason(body, response), response, row)


def strip_prefix(output: list[Item], prefix: str) -> list[Item]:
    """The items with the tools' own names; the same list where none has the prefix."""
    if not any(_is_prefixed(item, prefix) for item in output):
        return output
    return [{**item, "name": item["name"][len(prefix) :]} if _is_prefixed(item, prefix) else item for item in output]


def stop_reason_of(response: Mapping[str, Any]) -> StopReason:
    """Why a conversation ended, as far as its last response tells."""
    incomplete = response.get("incomplete_details")
    if isinstance(incomplete, dict):
        return _STOPS.get(str(incomplete.get("reason")), "max_output_tokens")
    return "completed"


def turn_of(index: int, items: list[Item]) -> Turn:
    """The policy's turn, whose text is that of its last message."""
    return Turn(index, next((item_text(item) for item in reversed(items) if is_assistant_message(item)), ""), items)


def observation_of(message: Message) -> str | dict[str, Any]:
    """A message as ``/reset`` and ``/step`` say it: text of the user as text."""
    return message.content if message.role == "user" and isinstance(message.content, str) else message.to_item()


def observation_of_items(items: Sequence[Item]) -> str | dict[str, Any] | None:
    """What ``seed`` appends to the input, as one observation; None for nothing."""
    if not items:
        return None
    if len(items) == 1:
        content, role = items[0].get("content"), items[0].get("role", "user")
        return content if role == "user" and isinstance(content, str) else {"role": role, "content": content}
    return "\n\n".join(item_text(item) for item in items)


def scored(verdict: Verdict, usage: dict[str, dict[str, int]], *, nullable: bool) -> dict[str, Any]:
    """What a ``/verify`` reply adds to the request, for a verifier that answered."""
    added: dict[str, Any] = {**verdict.fields, **verdict.metrics, **verdict.components}
    if verdict.components:
        added["reward_components"] = verdict.components
    ours: dict[str, Any] = {"outcome": "scored", "usage": usage, "closed": True}
    if verdict.turn_rewards:
        ours["turn_rewards"] = verdict.turn_rewards
    added["reward"] = verdict.reward
    added["kubegym"] = ours
    return added if verdict.reward is not None else mark_unscored(added, None, nullable=nullable)


def unscored(failure: Failure, usage: dict[str, dict[str, int]], *, nullable: bool) -> dict[str, Any]:
    """What it adds for a verifier that failed."""
    return mark_unscored({"kubegym": {"usage": usage, "closed": True}}, failure, nullable=nullable)


def echo(body: Mapping[str, Any], raw: bytes, added: Mapping[str, Any], added_json: bytes) -> bytes:
    """The request with what a reply adds, in JSON.

    Args:
        body: the request's object.
        raw: its JSON, taken over as it is where no name is in both.
        added: what the reply says.
        added_json: the same in JSON.
    """
    if not body.keys().isdisjoint(added):
        raw = orjson.dumps({name: value for name, value in body.items() if name not in added})
    head = raw.rstrip()[:-1]
    return b"%b,%b" % (head, added_json[1:]) if len(head.strip()) > 1 else added_json


def failed(error: RolloutError, attempt: int = 0) -> Reply:
    """A reply that says that the attempt has failed."""
    status = _STATUS.get(error.reason, 500)
    headers = [(FAILURE_HEADER, b"1")]
    if status == 503:
        headers.append((b"retry-after", _RETRY_AFTER_SECONDS))
    return Reply.json(
        {"detail": _writable(error.message), "kubegym": {"failure": failure_of(error, attempt).to_dict()}},
        status,
        headers,
    )


def failure_of(error: RolloutError, attempt: int) -> Failure:
    """An error as the row's ``failure``, in text that JSON can say."""
    return Failure(error.stage, error.reason, _writable(error.message), error.retryable, attempt)


def tool_reply(text: ToolOutput, status: int) -> Reply:
    """A tool's output: the body's text goes to the model as it is, whatever the status; parts are marked as such."""
    if isinstance(text, list):
        return Reply.json(text, status, [(PARTS_HEADER, b"1")])
    return Reply(text.encode(), status, TEXT) if status in (200, 400) else Reply(text.encode(), status)


def _writable(text: str) -> str:
    return text if text.isascii() else text.encode(errors="replace").decode()


def _is_prefixed(item: Item, prefix: str) -> bool:
    name = item.get("name")
    return item.get("type") == "function_call" and isinstance(name, str) and name.startswith(prefix)


def _stop_reason(body: Mapping[str, Any], response: Mapping[str, Any]) -> StopReason:
    ours = body.get("kubegym")
    told = ours.get("stop_reason") if isinstance(ours, dict) else None
    return told if told in STOP_REASONS else stop_reason_of(response)
