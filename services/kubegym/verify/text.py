"""Reading an answer out of a text, and comparing texts. Pure."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kubegym.core.messages import Item, is_assistant_message, item_text

_BOX = "\\boxed{"
_TEXT = "\\text{"
_FENCE = "```"
_EDGES = " \t\r\n.,;:!?\"'`*_"
_OPENERS = {"object": "{", "array": "["}


def normalised(text: str) -> str:
    """The text without what writing it differently changes: case, width, spacing, marks around it."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_EDGES)


def exact(answer: str, expected: str | Sequence[str], *, form: Callable[[str], str] = str.strip) -> bool:
    """Whether an answer is the expected text, or one of several.

    Args:
        answer: what was answered.
        expected: what is right.
        form: what both are made before they are compared: ``str.strip``, ``normalised``, your own.
    """
    wanted = [expected] if isinstance(expected, str) else expected
    given = form(answer)
    return any(given == form(one) for one in wanted)


def last_match(pattern: str, text: str, flags: int = re.MULTILINE | re.DOTALL) -> str | None:
    """What the last match of an expression captures: its first group with something in it, else all of it.

    Raises:
        re.error: the pattern is none.
    """
    last = None
    for last in re.finditer(pattern, text, flags):  # noqa: B007
        pass
    if last is None:
        return None
    groups = [group.strip() for group in last.groups() if group and group.strip()]
    return groups[0] if groups else last.group().strip()


def boxed(text: str) -> str | None:
    r"""What stands in the last ``\boxed{}``, its braces balanced; None without one, or where it is never closed."""
    start = text.rfind(_BOX)
    if start < 0:
        return None
    depth = 1
    for position in range(start + len(_BOX), len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + len(_BOX) : position].strip()
    return None


def peeled(text: str) -> str:
    r"""The text without ``\text{...}`` around it, however many."""
    while text.startswith(_TEXT) and text.endswith("}"):
        text = text[len(_TEXT) : -1].strip()
    return text


def undelimited(text: str) -> str:
    r"""The text without ``\(...\)`` and ``$...$`` around it."""
    text = text.strip()
    if text.startswith("\\(") and text.endswith("\\)"):
        text = text[2:-2].strip()
    if len(text) > 1 and text.startswith("$") and text.endswith("$"):
        text = text[1:-1].strip()
    return text


def fenced(text: str) -> str | None:
    """What stands between the last two lines with a code fence (three backticks); None with fewer than two."""
    lines = text.split("\n")
    fences = [number for number, line in enumerate(lines) if _FENCE in line]
    return "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) > 1 else None


def first_json(text: str, kind: str = "object") -> Any:
    """The first JSON object, or array, in a text; None where there is none, or it is nested too deep to be read."""
    decoder = json.JSONDecoder()
    start = text.find(_OPENERS[kind])
    while start >= 0:
        try:
            return decoder.raw_decode(text, start)[0]
        except RecursionError:
            return None  # to look at what it holds, one level after the other, would take seconds
        except ValueError:
            start = text.find(_OPENERS[kind], start + 1)
    return None


def output_text(output: Sequence[Item]) -> str:
    """The texts of all assistant messages with nothing between them (the contract's graded text)."""
    return "".join(assistant_texts(output))


def assistant_texts(output: Sequence[Item]) -> list[str]:
    """The text of each assistant message, in order."""
    return [item_text(item) for item in output if is_assistant_message(item)]


def last_text(items: Sequence[Item], role: str = "assistant") -> str:
    """The last message's text, its parts joined by newlines, without spaces around it; empty where there is none."""
    for item in reversed(items):
        if item.get("type", "message") == "message" and item.get("role") == role:
            content = item.get("content") or ""
            parts = [content] if isinstance(content, str) else [item_text({"content": [part]}) for part in content]
            return "\n".join(part for part in parts if part).strip()
    return ""


def turns(output: Sequence[Item]) -> Iterator[list[Item]]:
    """What the policy said, call by call: its items between those of tools, users and the environment."""
    turn: list[Item] = []
    for item in output:
        if is_assistant_message(item) or item.get("type") in ("function_call", "reasoning"):
            turn.append(item)
        elif turn:
            yield turn
            turn = []
    if turn:
        yield turn
