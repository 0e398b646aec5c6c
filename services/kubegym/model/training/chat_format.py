"""How a conversation becomes text: ChatML with hermes tool calls, once as a Jinja template and once in Python.

The template travels with the model and is what engines run. The twin here also says which stretches of text the model
wrote itself, which are the only ones it is trained on. Training checks that both give the same text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.resources import files

from kubegym.model.training.problems import Chat

Segment = tuple[str, bool]
"""A stretch of text, and whether the assistant wrote it (its end mark included)."""

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Control tokens: engines cut them from the text of an answer."""
TOOL_MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
"""One token each as well, but plain text: parsers of tool calls must see them."""


def chat_template() -> str:
    """The Jinja template (``chat_template.jinja``), as saved with the model."""
    return (files(__package__) / "chat_template.jinja").read_text(encoding="utf-8").strip()


def render(messages: Sequence[Chat], tools: Sequence[Chat] = ()) -> Iterator[Segment]:
    """Yield the conversation's text in segments, equal to what the template makes of it when joined.

    Args:
        messages: chat messages; a system message counts only in first place. Arguments of tool calls are objects.
        tools: definitions in the shape of chat completions. Only names and parameter names reach the model.
    """
    system = messages[0]["content"] if messages and messages[0]["role"] == "system" else ""
    if tools or system:
        yield _system(system, tools), False
    for message in messages:
        role, content = message["role"], message.get("content") or ""
        if role == "assistant":
            calls = "".join(_tool_call(call["function"]) for call in message.get("tool_calls", ()))
            yield "<|im_start|>assistant\n", False
            yield f"{content}{calls}<|im_end|>", True
            yield "\n", False
        elif role == "tool":
            yield f"<|im_start|>user\n<tool_response>\n{content}\n</tool_response><|im_end|>\n", False
        elif role != "system":
            yield f"<|im_start|>{role}\n{content}<|im_end|>\n", False


def _system(system: str, tools: Sequence[Chat]) -> str:
    lines = [system] if system else []
    if tools:
        functions = (tool["function"] for tool in tools)
        signatures = [f"{f['name']}({','.join(f['parameters']['properties'])})" for f in functions]
        lines.append(" ".join(["Tools:", *signatures]))
    return "<|im_start|>system\n" + "\n".join(lines) + "<|im_end|>\n"


def _tool_call(function: Chat) -> str:
    call = f'{{"name": "{function["name"]}", "arguments": {json.dumps(function["arguments"])}}}'
    return f"<tool_call>\n{call}\n</tool_call>"
