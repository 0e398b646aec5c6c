"""Responses create-params -> the body of a Chat Completions call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import orjson

from kubegym.core.messages import Item, image_parts, parts_text
from kubegym.model.convert.tags import CLOSE_TAG, OPEN_TAG
from kubegym.model.errors import RequestUnsupported

ReasoningStyle = Literal["fields", "tags", "drop"]
"""How earlier reasoning goes upstream: as ``reasoning_content`` and ``reasoning``, as think tags, or not at all."""

LOGPROBS = "message.output_text.logprobs"
"""The ``include`` that asks for log-probs."""

_SAME = ("temperature", "top_p", "user")


def chat_request(params: dict[str, Any], model: str, reasoning: ReasoningStyle = "fields") -> dict[str, Any]:
    """The body of ``POST /chat/completions`` for Responses create-params.

    Null and absent mean the same. ``metadata.extra_body`` (a JSON string) is merged last.

    Raises:
        RequestUnsupported: an item, tool or option that Chat Completions has no words for, or malformed ones.
    """
    try:
        return _chat_body(params, model, reasoning)
    except (KeyError, TypeError, AttributeError) as error:
        raise RequestUnsupported(f"the request is malformed: {error!r}") from None


def _chat_body(params: dict[str, Any], model: str, reasoning: ReasoningStyle) -> dict[str, Any]:
    get = params.get
    body: dict[str, Any] = {
        "model": model,
        "messages": chat_messages(params.get("input"), get("instructions"), reasoning),
    }
    for name in _SAME:
        value = get(name)
        if value is not None:
            body[name] = value
    if (limit := get("max_output_tokens")) is not None:
        body["max_tokens"] = limit
    tools = get("tools")
    choice = get("tool_choice")
    if tools:
        body["tools"] = [chat_tool(tool) for tool in tools]
        if choice is not None:
            body["tool_choice"] = _chat_tool_choice(choice)
        if (parallel := get("parallel_tool_calls")) is not None:
            body["parallel_tool_calls"] = parallel
    elif choice == "required" or isinstance(choice, dict):
        raise RequestUnsupported("tool_choice asks for a tool, but the request has no tools")
    if (count := get("top_logprobs")) is not None:
        body["logprobs"] = True
        body["top_logprobs"] = count
    elif LOGPROBS in (get("include") or ()):
        body["logprobs"] = True
    if effort := (get("reasoning") or {}).get("effort"):
        body["reasoning_effort"] = effort
    if text := get("text"):
        _put_text_format(body, text)
    if metadata := get("metadata"):
        if (kwargs := metadata.get("chat_template_kwargs")) is not None:
            body["chat_template_kwargs"] = _json_object("metadata.chat_template_kwargs", kwargs)
        if (extra := metadata.get("extra_body")) is not None:
            body.update(_json_object("metadata.extra_body", extra))
    return body


def chat_messages(
    items: str | Iterable[Item] | None, instructions: str | None = None, reasoning: ReasoningStyle = "fields"
) -> list[dict[str, Any]]:
    """The conversation as chat messages.

    Instructions and leading system and developer messages become one system message. What one model call put out
    (reasoning, text, calls) becomes one assistant message.

    Raises:
        RequestUnsupported: see ``chat_request``.
    """
    if isinstance(items, str):
        user = {"role": "user", "content": items}
        return [{"role": "system", "content": instructions}, user] if instructions else [user]
    if items is None:
        raise RequestUnsupported("the request has no input")
    writer = _ChatWriter(instructions, reasoning)
    position = 0
    try:
        for item in items:
            writer.add(item)
            position += 1
    except (KeyError, TypeError, AttributeError) as error:
        raise RequestUnsupported(f"input item {position} is malformed: {error!r}") from None
    return writer.finish()


class _ChatWriter:
    """Collects messages.

    ``_draft`` is the assistant message that further items of the same call may join. ``_images`` are those of tool
    outputs: chat's tool messages hold text, so a user message with the images follows the last of them.
    """

    __slots__ = ("_draft", "_images", "_leading", "_reasoning", "messages")

    def __init__(self, instructions: str | None, reasoning: ReasoningStyle) -> None:
        self.messages: list[dict[str, Any]] = []
        self._leading: list[str] | None = [instructions] if instructions else []
        self._reasoning = reasoning
        self._draft: _Draft | None = None
        self._images: list[dict[str, Any]] = []

    def add(self, item: Item) -> None:
        """One input item."""
        kind = item.get("type") or "message"
        if self._images and kind != "function_call_output":
            self._show_images()
        if kind == "message":
            self._message(item["role"], item["content"])
        elif kind == "function_call":
            self._assistant().calls.append(
                {
                    "id": item["call_id"],
                    "type": "function",
                    "function": {"name": item["name"], "arguments": item["arguments"]},
                }
            )
        elif kind == "function_call_output":
            output = item["output"]
            text = output if isinstance(output, str) else parts_text(output)
            if images := image_parts(item):
                self._images += images
                text = text or "(The image follows.)"
            self._append({"role": "tool", "tool_call_id": item["call_id"], "content": text})
        elif kind == "reasoning":
            draft = self._assistant()
            if draft.texts or draft.calls:  # It opens the output of the next model call.
                self._flush()
                draft = self._assistant()
            if thought := "\n".join(reasoning_texts(item)):
                draft.thoughts.append(thought)
        else:
            raise RequestUnsupported(f"chat completions have no words for an input item of type {kind!r}")

    def _message(self, role: str, content: Any) -> None:
        if role == "assistant":
            draft = self._assistant()
            if draft.texts and not draft.calls:
                self._flush()
                draft = self._assistant()
            draft.texts.append(content if isinstance(content, str) else _output_text(content))
        elif role == "user":
            self._append({"role": "user", "content": content if isinstance(content, str) else _chat_content(content)})
        elif role in ("system", "developer"):
            text = content if isinstance(content, str) else parts_text(content)
            if self._leading is not None:
                self._leading.append(text)
            else:  # Templates know no developer; endpoints that do take a system message for one.
                self._append({"role": "system", "content": text})
        else:
            raise RequestUnsupported(f"no message has the role {role!r}")

    def _assistant(self) -> _Draft:
        if self._leading is not None:
            self._end_leading()
        if self._draft is None:
            self._draft = _Draft()
        return self._draft

    def _append(self, message: dict[str, Any]) -> None:
        if self._leading is not None:
            self._end_leading()
        if self._draft is not None:
            self._flush()
        self.messages.append(message)

    def _show_images(self) -> None:
        images, self._images = self._images, []
        self._append({"role": "user", "content": [_chat_part(image) for image in images]})

    def _end_leading(self) -> None:
        if self._leading:
            self.messages.append({"role": "system", "content": "\n\n".join(self._leading)})
        self._leading = None

    def _flush(self) -> None:
        draft, self._draft = self._draft, None
        if draft is None:
            return
        content = "\n".join(draft.texts)
        # A text of "" rather than null beside calls: many chat templates concatenate it.
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if draft.thoughts and self._reasoning != "drop":
            thought = "\n".join(draft.thoughts)
            if self._reasoning == "tags":
                message["content"] = f"{OPEN_TAG}{thought}{CLOSE_TAG}{content}"
            else:
                message["reasoning_content"] = message["reasoning"] = thought
        if draft.calls:
            message["tool_calls"] = draft.calls
        self.messages.append(message)

    def finish(self) -> list[dict[str, Any]]:
        """The messages."""
        if self._images:
            self._show_images()
        if self._leading is not None:
            self._end_leading()
        self._flush()
        return self.messages


class _Draft:
    __slots__ = ("calls", "texts", "thoughts")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.thoughts: list[str] = []
        self.calls: list[dict[str, Any]] = []


def reasoning_texts(item: Item) -> list[str]:
    """The texts of a reasoning item: its content, else its summary."""
    parts = item.get("content") or item.get("summary") or ()
    return [part["text"] for part in parts if part.get("text")]


def _output_text(parts: list[Any]) -> str:
    return "".join(part["refusal"] if part.get("type") == "refusal" else part["text"] for part in parts)


def _chat_content(parts: list[Any]) -> str | list[dict[str, Any]]:
    """Content parts of a user message; a lone text stays a plain string, which every template takes."""
    if len(parts) == 1 and parts[0].get("type") in ("input_text", "text"):
        text: str = parts[0]["text"]
        return text
    return [_chat_part(part) for part in parts]


def _chat_part(part: dict[str, Any]) -> dict[str, Any]:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": part["text"]}
    if kind == "input_image":
        if not part.get("image_url"):
            raise RequestUnsupported("an input_image needs an image_url; files by id are not known to chat completions")
        image = {"url": part["image_url"]}
        if part.get("detail"):
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}
    if kind == "input_video":
        url = part.get("video_url") or part.get("video")
        return {"type": "video_url", "video_url": url if isinstance(url, dict) else {"url": url}}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    raise RequestUnsupported(f"chat completions have no words for a content part of type {kind!r}")


def chat_tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A function tool in chat's words. Raises RequestUnsupported."""
    if tool.get("type") != "function":
        raise RequestUnsupported(f"only function tools can be offered to a chat endpoint, not {tool.get('type')!r}")
    function = {name: tool[name] for name in ("name", "description", "parameters") if tool.get(name) is not None}
    if "name" not in function:
        raise RequestUnsupported("a function tool needs a name")
    return {"type": "function", "function": function}


def _chat_tool_choice(choice: Any) -> Any:
    if isinstance(choice, str):
        return choice
    if isinstance(choice, dict) and choice.get("type") == "function" and "name" in choice:
        return {"type": "function", "function": {"name": choice["name"]}}
    raise RequestUnsupported(f"chat completions have no words for the tool_choice {choice!r}")


def _put_text_format(body: dict[str, Any], text: dict[str, Any]) -> None:
    if verbosity := text.get("verbosity"):
        body["verbosity"] = verbosity
    form = text.get("format") or {}
    kind = form.get("type", "text")
    if kind == "json_schema":
        names = ("name", "description", "schema", "strict")
        schema = {name: form[name] for name in names if form.get(name) is not None}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif kind == "json_object":
        body["response_format"] = {"type": "json_object"}
    elif kind != "text":
        raise RequestUnsupported(f"no text format is called {kind!r}")


def _json_object(name: str, text: Any) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except (orjson.JSONDecodeError, TypeError) as error:
        raise RequestUnsupported(f"{name} must be a JSON object in a string: {error}") from None
    if not isinstance(value, dict):
        raise RequestUnsupported(f"{name} must be a JSON object in a string, not {type(value).__name__}")
    return value
