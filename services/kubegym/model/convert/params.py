"""Responses create-params from outside: strict for rollouts, forgiving for harnesses that stream (contract 1.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubegym.core.messages import Item, parts_text
from kubegym.core.params import CREATE_PARAMS
from kubegym.model.convert.request import chat_messages, chat_tool
from kubegym.model.errors import RequestUnsupported

_STATEFUL = {
    "previous_response_id": "no responses are stored here: send the whole conversation as input",
    "prompt": "no prompts are stored here: send the text as input",
}
_NAMES = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "a list", dict: "an object"}
_SEPARATOR = "__"


def param_problems(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is wrong with create-params, in FastAPI's words (contract 1.1); empty when nothing is.

    Items and tools are looked at where they are converted. Null and absent mean the same.
    """
    problems: list[dict[str, Any]] = []
    for name, value in params.items():
        types = CREATE_PARAMS.get(name)
        if types is None:
            problems.append(_problem("extra_forbidden", name, "Extra inputs are not permitted", value))
        elif value is None:
            continue
        elif not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            kinds = " or ".join(_NAMES[kind] for kind in types if not (kind is int and float in types))
            problems.append(_problem("type_error", name, f"Input should be {kinds}", value))
        elif name in _STATEFUL:
            problems.append(_problem("value_error", name, _STATEFUL[name], value))
        elif name == "background" and value:
            problems.append(_problem("value_error", name, "no responses are made in the background here", value))
        elif name == "metadata" and not _all_strings(value):
            problems.append(_problem("string_type", name, "Values of metadata should be strings", value))
    if params.get("input") is None:
        problems.append(_problem("missing", "input", "Field required", None))
    return problems


def _all_strings(metadata: Any) -> bool:
    return all(isinstance(value, str) for value in metadata.values())


def _problem(kind: str, name: str, message: str, given: Any) -> dict[str, Any]:
    return {"type": kind, "loc": ["body", name], "msg": message, "input": given}


class Sanitised:
    """A harness' create-params, made fit.

    Attributes:
        params: valid create-params.
        dropped: what was left out, for logs: names of fields, and types of items and tools.
    """

    __slots__ = ("_original", "dropped", "params")

    def __init__(self, params: dict[str, Any], original: dict[str, tuple[str, str]], dropped: list[str]) -> None:
        self.params = params
        self.dropped = dropped
        self._original = original

    def restore(self, output: list[Item]) -> list[Item]:
        """The output with the harness' own tool names: ``ns__name`` is ``name`` of the namespace ``ns`` again."""
        restored: list[Item] = []
        for item in output:
            original = self._original.get(item.get("name", "")) if item.get("type") == "function_call" else None
            if original is not None:
                item = {**item, "namespace": original[0], "name": original[1]}
            restored.append(item)
        return restored


def sanitise(given: Mapping[str, Any]) -> Sanitised:
    """Make what harnesses send fit for any model (contract 1.4).

    Unknown fields and items and tools that no chat has words for are left out; tools of a ``namespace`` become plain
    ones called ``ns__name``, also in the history; ``additional_tools`` items join the tools; leading system and
    developer messages become ``instructions``.
    """
    dropped = [name for name in given if name not in CREATE_PARAMS or name in _STATEFUL]
    params = {name: value for name, value in given.items() if name in CREATE_PARAMS and name not in _STATEFUL}
    tools = _listed(params.get("tools"))
    items = params.get("input")
    if isinstance(items, list):
        leading, items = _split_leading(items)
        kept: list[Item] = []
        for item in items:
            if isinstance(item, dict) and item.get("type") == "additional_tools":
                tools += _listed(item.get("tools"))
            elif isinstance(item, dict) and _is_valid(item):
                kept.append(_flat_call(item))
            else:
                dropped.append(_kind(item))
        params["input"] = kept
        if leading:
            own = params.get("instructions")
            params["instructions"] = "\n\n".join([own, *leading] if own else leading)
    original: dict[str, tuple[str, str]] = {}
    flat = _flat_tools(tools, original, dropped)
    params["tools"] = flat
    if not flat or (isinstance(params.get("tool_choice"), dict) and not _chooses(params["tool_choice"], flat)):
        params.pop("tool_choice", None)
    return Sanitised(params, original, dropped)


def _split_leading(items: list[Any]) -> tuple[list[str], list[Any]]:
    """Texts of the system and developer messages at the beginning, and the rest."""
    texts: list[str] = []
    rest: list[Any] = []
    for index, item in enumerate(items):
        if isinstance(item, dict) and item.get("type") == "additional_tools":
            rest.append(item)  # it may stand before them
        elif isinstance(item, dict) and item.get("role") in ("system", "developer") and _is_valid(item):
            content = item["content"]
            texts.append(content if isinstance(content, str) else parts_text(content))
        else:
            return texts, rest + items[index:]
    return texts, rest


def _is_valid(item: Item) -> bool:
    """Whether a chat has words for it."""
    try:
        chat_messages([item])
    except RequestUnsupported:
        return False
    return True


def _flat_call(item: Item) -> Item:
    if item.get("type") == "function_call" and (space := item.get("namespace")):
        return {**item, "name": f"{space}{_SEPARATOR}{item['name']}"}
    return item


def _flat_tools(tools: list[Any], original: dict[str, tuple[str, str]], dropped: list[str]) -> list[dict[str, Any]]:
    """Plain function tools, each name once; the first of a name stays."""
    flat: dict[str, dict[str, Any]] = {}
    for tool in tools:
        if isinstance(tool, dict) and tool.get("type") == "namespace":
            for inner in _listed(tool.get("tools")):
                if _is_function(inner) and isinstance(tool.get("name"), str):
                    name = f"{tool['name']}{_SEPARATOR}{inner['name']}"
                    original[name] = (tool["name"], inner["name"])
                    flat.setdefault(name, {**inner, "name": name})
                else:
                    dropped.append(_kind(inner))
        elif _is_function(tool):
            flat.setdefault(tool["name"], tool)
        else:
            dropped.append(_kind(tool))
    return list(flat.values())


def _is_function(tool: Any) -> bool:
    try:
        return isinstance(tool, dict) and isinstance(chat_tool(tool)["function"]["name"], str)
    except RequestUnsupported:
        return False


def _chooses(choice: dict[str, Any], tools: list[dict[str, Any]]) -> bool:
    return choice.get("type") == "function" and any(tool["name"] == choice.get("name") for tool in tools)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else []


def _kind(value: Any) -> str:
    return str(value.get("type") or "message") if isinstance(value, dict) else type(value).__name__
