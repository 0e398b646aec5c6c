"""Messages and items of a conversation.

A conversation is a list of OpenAI Responses items, kept as plain dicts from the wire to the row (contract 1.4): typed
objects on that path would cost more than the rollout itself. ``Message`` is what environments write and read.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

Item = dict[str, Any]
"""One Responses item: message, function_call, function_call_output, reasoning, ..."""

ToolOutput: TypeAlias = str | list[dict[str, Any]]
"""What answers a function call: text, or content parts where there are images."""

IMAGE_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
}
"""Media types of image files by their extension."""

Role = Literal["user", "assistant", "system", "developer"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the policy made: ``arguments`` is the JSON text it wrote, which may be malformed."""

    name: str
    arguments: str
    call_id: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image, in a message or as a tool's result.

    Attributes:
        url: ``https://...`` or a data URI.
        detail: ``low``, ``high`` or ``auto``; None says nothing.
    """

    url: str
    detail: str | None = None

    @classmethod
    def of(cls, data: bytes, media_type: str = "image/png") -> Image:
        """From an image file's bytes."""
        return cls(f"data:{media_type};base64,{b64encode(data).decode()}")

    @classmethod
    def read(cls, path: str | Path) -> Image:
        """From a file. Raises OSError, and ValueError for an extension that is no image's."""
        path = Path(path)
        media_type = IMAGE_TYPES.get(path.suffix.lower())
        if media_type is None:
            raise ValueError(f"{path} is no image by its name ({', '.join(IMAGE_TYPES)})")
        return cls.of(path.read_bytes(), media_type)

    def to_part(self) -> dict[str, Any]:
        """As a content part of the contract (1.4)."""
        part = {"type": "input_image", "image_url": self.url}
        return part if self.detail is None else {**part, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Message:
    """One message; ``content`` is text or a list of Responses content parts (text, images)."""

    role: Role
    content: str | list[dict[str, Any]]

    @property
    def text(self) -> str:
        """The text of the content, parts joined."""
        return self.content if isinstance(self.content, str) else parts_text(self.content)

    @classmethod
    def user(cls, content: str, *images: Image) -> Message:
        """A message of the user; images stand behind the text."""
        if not images:
            return cls("user", content)
        return cls("user", [{"type": "input_text", "text": content}, *(image.to_part() for image in images)])

    @classmethod
    def assistant(cls, content: str) -> Message:
        """A message of the model."""
        return cls("assistant", content)

    @classmethod
    def system(cls, content: str) -> Message:
        """A system message."""
        return cls("system", content)

    def to_item(self) -> Item:
        """The message as a Responses input item."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class Done:
    """``respond`` returns it when the conversation is over."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What ``respond`` gets: the assistant's message without tool calls, and where it stands.

    Attributes:
        index: how many replies of the environment came before, from 0.
        text: the assistant's text, without reasoning.
        items: the output items of this model call.
    """

    index: int
    text: str
    items: list[Item] = field(repr=False)


def parts_text(parts: Iterable[Any]) -> str:
    """The text of content parts, joined: ``output_text``, ``input_text`` and ``text``."""
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def item_text(item: Item) -> str:
    """The text of a message item; empty for anything else."""
    if item.get("type", "message") != "message":
        return ""
    content = item.get("content")
    if isinstance(content, str):
        return content
    return parts_text(content) if content else ""


def is_assistant_message(item: Item) -> bool:
    """Whether the item is a message by the assistant."""
    return item.get("type", "message") == "message" and item.get("role") == "assistant"


def tool_calls(items: Sequence[Item]) -> list[ToolCall]:
    """The function calls among the items, in order."""
    return [
        ToolCall(item["name"], item["arguments"], item["call_id"])
        for item in items
        if item.get("type") == "function_call"
    ]


def image_parts(item: Item) -> list[dict[str, Any]]:
    """The images of a message or of a tool's output, as content parts."""
    content = item.get("output") if item.get("type") == "function_call_output" else item.get("content")
    if not isinstance(content, list):
        return []
    return [part for part in content if isinstance(part, dict) and part.get("type") == "input_image"]


def tool_output(call_id: str, output: ToolOutput) -> Item:
    """The item that answers a function call."""
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def input_items(value: str | Sequence[Item]) -> list[Item]:
    """``responses_create_params.input`` as items: a string is one user message (contract section 7)."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    return list(value)
