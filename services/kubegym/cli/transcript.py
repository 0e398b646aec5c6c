"""A rollout as text, turn by turn. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kubegym.core.messages import image_parts, input_items, item_text, parts_text

LONGEST = 20_000  # characters of one text that are shown


def transcript(row: Mapping[str, Any]) -> list[str]:
    """The lines of a rollout: who said what, tool calls with their outputs, then the verdict and what it took."""
    ours = row["kubegym"]
    attempt = f", attempt {ours['attempt']}" if ours["attempt"] else ""
    lines = [f"rollout {ours['rollout_id']} of {ours['environment']['name']}, model {ours['policy']['model']}{attempt}"]
    params = row.get("responses_create_params") or {}
    if params.get("instructions"):
        lines += _block("instructions", params["instructions"])
    for item in input_items(params.get("input") or []):
        lines += _item(item)
    turn = 0
    saying = False
    for item in (row.get("response") or {}).get("output") or []:
        by_model = item.get("type") in ("reasoning", "function_call") or item.get("role") == "assistant"
        if by_model and not saying:
            turn += 1
            lines += ["", f"── turn {turn} " + "─" * 40]
        saying = by_model
        lines += _item(item)
    lines += ["", "── result " + "─" * 40, *_verdict(row)]
    return lines


def readme_block(row: Mapping[str, Any]) -> str:
    """A rollout as READMEs show it: without ids, times and tokens, which differ each time."""
    lines = transcript(row)[2:]
    ended = next(index for index, line in enumerate(lines) if line.startswith("outcome"))
    return "".join(f"{line}\n" for line in lines[: ended + 1])


def input_text(row: Mapping[str, Any]) -> str:
    """What the model was asked, as text."""
    params = row.get("responses_create_params") or {}
    lines: list[str] = []
    for item in input_items(params.get("input") or []):
        lines += _item(item)
    return "\n".join(lines).strip("\n")


def _item(item: Mapping[str, Any]) -> list[str]:
    kind = item.get("type", "message")
    if kind == "reasoning":
        parts = [*(item.get("content") or ()), *(item.get("summary") or ())]
        return _block("reasoning", "\n".join(part.get("text", "") for part in parts))
    if kind == "function_call":
        return _block(f"call {item['name']}", _arguments(item.get("arguments", "")))
    if kind == "function_call_output":
        return _block("tool output", _text(item.get("output", "")))
    if kind == "message" or "role" in item:
        return _block(str(item.get("role", "message")), _message_text(item))
    return _block(str(kind), json.dumps(item, ensure_ascii=False))


def _arguments(arguments: str) -> str:
    """Arguments one a line; as they came where they are no JSON object."""
    try:
        values = json.loads(arguments)
    except ValueError:
        return f"{arguments}\n(not JSON)"
    if not isinstance(values, dict):
        return arguments
    return "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items())


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(part, dict) and "type" in part for part in value):
        return "\n".join(_part(part) for part in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _message_text(item: Mapping[str, Any]) -> str:
    plain = dict(item)
    return _text(item["content"]) if image_parts(plain) else item_text(plain)


def _part(part: Mapping[str, Any]) -> str:
    """A content part: its text, or what kind of image it is."""
    if part["type"] != "input_image":
        return parts_text([part])
    url = str(part.get("image_url") or part.get("file_id"))
    head, encoded, data = url.partition(";base64,")
    size = len(data) * 3 // 4 - data.count("=")
    return f"(image: {head.removeprefix('data:')}, {size:,} bytes)" if encoded else f"(image: {url})"


def _block(title: str, text: str) -> list[str]:
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}\n… {len(text) - LONGEST:,} more characters; --json shows all"
    return ["", f"[{title}]", *(f"  {line}" for line in text.splitlines() or [""])]


def _verdict(row: Mapping[str, Any]) -> Iterator[str]:
    ours = row["kubegym"]
    reward = "-" if row["reward"] is None else f"{row['reward']:g}"
    yield f"outcome      {ours['outcome']}, reward {reward}, stop reason {ours['stop_reason'] or '-'}"
    for name, value in (row.get("reward_components") or {}).items():
        yield f"component    {name} {value:g}"
    failure = ours["failure"]
    if failure:
        again = "retryable" if failure["retryable"] else "not retryable"
        yield f"failure      {failure['stage']} {failure['reason']} (attempt {failure['attempt']}, {again})"
        for line in failure["message"].splitlines():
            yield f"             {line}"
    rewards = [turn["reward"] for turn in ours["turns"]]
    if any(value is not None for value in rewards):
        yield "turn rewards " + ", ".join("-" if value is None else f"{value:g}" for value in rewards)
    yield "seconds      " + ", ".join(f"{name} {value:.3f}" for name, value in ours["timing"].items())
    for role, usage in ours["usage"].items():
        yield f"{role:<12} " + ", ".join(f"{name} {value:,}" for name, value in usage.items() if value is not None)
    if ours["seed"] is not None:
        yield f"seed         {ours['seed']}"
