"""Whether one input row can be run at all (contract 1.4 and 2.1): checks by hand on plain dicts, for speed.

Each check answers with what is wrong, in words that name the field, or None. The first problem of a row is enough:
its line is looked at anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from kubegym.core.messages import Item
from kubegym.core.rows import AGENT_TYPE

ROLES = frozenset({"user", "assistant", "system", "developer"})
"""Who may speak in a message."""

INPUT_PARTS = frozenset({"input_text", "input_image", "input_file", "input_video"})
OUTPUT_PARTS = frozenset({"output_text", "refusal"})

OTHER_ITEMS = frozenset(
    {
        "mcp_call",
        "mcp_list_tools",
        "mcp_approval_request",
        "mcp_approval_response",
        "file_search_call",
        "web_search_call",
        "computer_call",
        "computer_call_output",
        "image_generation_call",
        "code_interpreter_call",
        "local_shell_call",
        "local_shell_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
    }
)
"""Item types that are passed on as they are."""

TOOL_CHOICES = frozenset({"auto", "none", "required"})

_JSON_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
}


def check_row(row: Any) -> str | None:
    """What keeps a parsed row from being run, or None. Fields of the environment's own are not looked at."""
    if type(row) is not dict:
        return f"a row is a JSON object, not {_kind(row)}"
    params = row.get("responses_create_params")
    if type(params) is not dict:
        if params is None:
            return "responses_create_params is missing" + _meant("responses_create_params", row)
        return f"responses_create_params: must be an object, not {_kind(params)}"
    problem = _check_params(params)
    if problem is not None:
        return f"responses_create_params.{problem}"
    agent = row.get("agent_ref")
    if agent is not None and (problem := _check_agent(agent)) is not None:
        return problem
    index = row.get("_ng_task_index")
    if index is not None and (type(index) is not int or index < 0):
        return f"_ng_task_index: must be an integer of at least 0, not {index!r}"
    return None


def agent_name(row: Item) -> str | None:
    """The agent that a checked row names, if it does."""
    agent = row.get("agent_ref")
    return agent["name"] if agent else None


def _check_params(params: Item) -> str | None:
    if params.get("input") is None:
        return "input is missing"
    for name, value in params.items():
        check = _PARAMS.get(name)
        if check is None:
            return f"{name}: unknown field{_meant_among(name, _PARAMS)}"
        # Absent and null are alike (contract 1.7).
        if value is not None and (problem := check(value)) is not None:
            return f"{name}{problem}"
    return None


def _check_agent(agent: Any) -> str | None:
    if type(agent) is not dict:
        return f"agent_ref: must be an object like {{'name': ...}}, not {_kind(agent)}"
    name = agent.get("name")
    if type(name) is not str or not name:
        return "agent_ref.name: must be a string that is not empty"
    kind = agent.get("type")
    if kind is not None and kind != AGENT_TYPE:
        return f"agent_ref.type: must be {AGENT_TYPE!r}, not {kind!r}"
    return None


def _check_input(value: Any) -> str | None:
    if type(value) is str:
        return None
    if type(value) is not list:
        return f": must be a string or a list of items, not {_kind(value)}"
    for position, item in enumerate(value):
        if (problem := _check_item(item)) is not None:
            return f"[{position}]{problem}"
    return None  # an empty list is fine: the environment's ``seed`` may bring the messages


def _check_item(item: Any) -> str | None:
    if type(item) is not dict:
        return f": must be an object, not {_kind(item)}"
    kind = item.get("type")
    if kind is None:
        if "role" not in item:
            return ": has neither a role (a message) nor a type"
        return _check_message(item, typed=False)
    check = _ITEMS.get(kind) if type(kind) is str else None
    if check is not None:
        return check(item)
    if type(kind) is str and kind in OTHER_ITEMS:
        return None
    return f".type: unknown item type {kind!r}{_meant_among(kind, [*_ITEMS, *OTHER_ITEMS])}"


def _check_message(item: Item, typed: bool = True) -> str | None:
    role = item.get("role")
    if type(role) is not str or role not in ROLES:
        return f".role: must be user, assistant, system or developer, not {role!r}"
    content = item.get("content")
    if type(content) is str:
        return None
    if type(content) is not list:
        return f".content: must be a string or a list of parts, not {_kind(content)}"
    for position, part in enumerate(content):
        problem = _check_part(part)
        if problem is not None:
            return f".content[{position}]{problem}"
        if not typed and part["type"] in OUTPUT_PARTS:
            return f': holds {part["type"]}, so it is an output message and needs "type": "message"'
    return None


def _check_part(part: Any) -> str | None:
    if type(part) is not dict:
        return f": must be an object, not {_kind(part)}"
    kind = part.get("type")
    if kind == "input_text" or kind == "output_text":
        return _need_string(part, "text")
    if kind == "refusal":
        return _need_string(part, "refusal")
    if kind == "input_image":
        return _need_one(part, "image_url", "file_id")
    if kind == "input_video":
        return _need_one(part, "video_url", "video")
    if kind == "input_file":
        return None
    return f".type: unknown content part {kind!r}{_meant_among(kind, INPUT_PARTS | OUTPUT_PARTS)}"


def _check_function_call(item: Item) -> str | None:
    for name in ("name", "call_id", "arguments"):
        if (problem := _need_string(item, name)) is not None:
            return problem
    return None


def _check_function_call_output(item: Item) -> str | None:
    output = item.get("output")
    if type(output) is not str and type(output) is not list:
        return f".output: must be a string or a list of parts, not {_kind(output)}"
    return _need_string(item, "call_id")


def _check_reasoning(item: Item) -> str | None:
    summary = item.get("summary")
    return None if type(summary) is list else f".summary: must be a list, not {_kind(summary)}"


def _check_tools(value: Any) -> str | None:
    if type(value) is not list:
        return f": must be a list, not {_kind(value)}"
    for position, tool in enumerate(value):
        if type(tool) is not dict or type(tool.get("type")) is not str:
            return f"[{position}]: must be an object with a type"
        if tool["type"] == "function":
            if (problem := _need_string(tool, "name")) is not None:
                return f"[{position}]{problem}"
            parameters = tool.get("parameters")
            if parameters is not None and type(parameters) is not dict:
                return f"[{position}].parameters: must be a JSON schema (an object), not {_kind(parameters)}"
    return None


def _check_tool_choice(value: Any) -> str | None:
    if type(value) is dict or (type(value) is str and value in TOOL_CHOICES):
        return None
    return f": must be auto, none, required or an object, not {value!r}"


def _check_metadata(value: Any) -> str | None:
    if type(value) is not dict:
        return f": must be an object, not {_kind(value)}"
    for name, text in value.items():
        if type(text) is not str:
            return f".{name}: must be a string (JSON text for structured values), not {_kind(text)}"
    return None


def _check_stream(value: Any) -> str | None:
    return None if value is False else f": must be false in a row, not {value!r}"


def _need_string(item: Item, name: str) -> str | None:
    value = item.get(name)
    return None if type(value) is str else f".{name}: must be a string, not {_kind(value)}"


def _need_one(item: Item, first: str, second: str) -> str | None:
    given = (item.get(first) is not None) + (item.get(second) is not None)
    return None if given == 1 else f": needs {first} or {second}, and not both"


def _of(*types: type) -> Callable[[Any], str | None]:
    wanted = " or ".join(_JSON_NAMES[kind] for kind in types)

    def check(value: Any) -> str | None:
        return None if type(value) in types else f": must be {wanted}, not {_kind(value)}"

    return check


def _whole(least: int) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if type(value) is int and value >= least:
            return None
        return f": must be an integer of at least {least}, not {value!r}"

    return check


def _number(most: float = math.inf) -> Callable[[Any], str | None]:
    wanted = "a number of at least 0" if most == math.inf else f"a number from 0 to {most:g}"

    def check(value: Any) -> str | None:
        if (type(value) is float or type(value) is int) and 0 <= value <= most:
            return None
        return f": must be {wanted}, not {value!r}"

    return check


_PARAMS: dict[str, Callable[[Any], str | None]] = {
    "background": _of(bool),
    "include": _of(list),
    "input": _check_input,
    "instructions": _of(str),
    "max_output_tokens": _whole(1),
    "max_tool_calls": _whole(0),
    "metadata": _check_metadata,
    "model": _of(str),
    "parallel_tool_calls": _of(bool),
    "previous_response_id": _of(str),
    "prompt": _of(dict),
    "reasoning": _of(dict),
    "service_tier": _of(str),
    "store": _of(bool),
    "stream": _check_stream,
    "temperature": _number(),
    "text": _of(dict),
    "tool_choice": _check_tool_choice,
    "tools": _check_tools,
    "top_logprobs": _whole(0),
    "top_p": _number(1),
    "truncation": _of(str),
    "user": _of(str),
}
"""The closed list of contract 1.4."""

PARAMS = frozenset(_PARAMS)
"""Names that may stand inside ``responses_create_params``."""

_ITEMS: dict[str, Callable[[Item], str | None]] = {
    "message": _check_message,
    "function_call": _check_function_call,
    "function_call_output": _check_function_call_output,
    "reasoning": _check_reasoning,
}


def _kind(value: Any) -> str:
    return "null" if value is None else _JSON_NAMES[type(value)]


def _meant_among(name: Any, known: Iterable[str]) -> str:
    """``; did you mean ...?`` where a known name is close."""
    from kubegym.core.spec.problems import did_you_mean  # only for messages

    return did_you_mean(str(name), known)


def _meant(known: str, row: Item) -> str:
    """Whether some key of the row looks like a misspelling of ``known``."""
    import difflib

    close = difflib.get_close_matches(known, [name for name in row if name != known], n=1)
    return f"; did you mean it by {close[0]!r}?" if close else ""
