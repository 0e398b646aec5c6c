"""Chat messages -> Responses items: the way back of ``chat_messages``, for whole conversations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kubegym.core.messages import Item
from kubegym.model.convert.reply import output_items
from kubegym.model.errors import RequestUnsupported


def response_items(messages: Iterable[dict[str, Any]]) -> list[Item]:
    """The conversation as Responses items; ids are made from positions.

    Raises:
        RequestUnsupported: a role or content part that Responses has no words for, or a malformed message.
    """
    items: list[Item] = []
    for position, message in enumerate(messages):
        try:
            items += _items_of(message, f"{position}")
        except (KeyError, TypeError, AttributeError) as error:
            raise RequestUnsupported(f"message {position} is malformed: {error!r}") from None
    return items


def _items_of(message: dict[str, Any], identity: str) -> list[Item]:
    role = message["role"]
    if role == "assistant":
        return output_items(message, {}, identity)
    content = message["content"]
    if role == "tool":
        output = content if isinstance(content, str) else [_input_part(part) for part in content]
        return [{"type": "function_call_output", "call_id": message["tool_call_id"], "output": output}]
    if role in ("user", "system", "developer"):
        parts = content if isinstance(content, str) else [_input_part(part) for part in content]
        return [{"role": role, "content": parts}]
    raise RequestUnsupported(f"no message has the role {role!r}")


def _input_part(part: dict[str, Any]) -> dict[str, Any]:
    kind = part["type"]
    if kind == "text":
        return {"type": "input_text", "text": part["text"]}
    if kind == "image_url":
        image = part["image_url"]
        ours = {"type": "input_image", "image_url": image["url"]}
        if image.get("detail"):
            ours["detail"] = image["detail"]
        return ours
    if kind == "video_url":
        return {"type": "input_video", "video_url": part["video_url"]["url"]}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    raise RequestUnsupported(f"Responses has no words for a content part of type {kind!r}")
