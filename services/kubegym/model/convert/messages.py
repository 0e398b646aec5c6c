"""Anthropic Messages <-> OpenAI Responses. Pure; both ways, so that tests can hold that nothing is lost.

What has no counterpart is carried so that the way back finds it: a thinking block's signature as
``encrypted_content``, a failed tool result as an output with status "incomplete", ``top_k`` and ``stop_sequences`` in
``metadata.extra_body``, arguments that are no JSON object under the one key ``_raw_arguments``. Left out on purpose:
``cache_control`` (a hint to a cache, no part of the conversation) and top-level fields that no model sees.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from kubegym.core.messages import Item, parts_text
from kubegym.core.outcomes import StopReason
from kubegym.model.convert.request import reasoning_texts
from kubegym.model.errors import RequestUnsupported

Block = dict[str, Any]

RAW_ARGUMENTS = "_raw_arguments"
"""Key of a ``tool_use`` input whose call had arguments that are no JSON object: the text the model wrote."""

_EXTRA = {"top_k": "top_k", "stop_sequences": "stop"}
_SAME = ("temperature", "top_p")
_EFFORTS = ((4096, "low"), (16384, "medium"))
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


# Requests: Messages -> Responses


def params_of_messages(body: dict[str, Any]) -> dict[str, Any]:
    """Responses create-params for the body of ``POST /v1/messages``.

    Raises:
        RequestUnsupported: a block, tool or option that has no counterpart, or a malformed one; names its place.
    """
    get = body.get
    params: dict[str, Any] = {"input": _items(get("messages"), get("system"))}
    if isinstance(system := get("system"), str) and system:
        params["instructions"] = system
    if (model := get("model")) is not None:
        params["model"] = model
    if (limit := get("max_tokens")) is not None:
        params["max_output_tokens"] = limit
    for name in _SAME:
        if (value := get(name)) is not None:
            params[name] = value
    extra = {ours: get(theirs) for theirs, ours in _EXTRA.items() if get(theirs) is not None}
    if extra:
        params["metadata"] = {"extra_body": orjson.dumps(extra).decode()}
    try:
        if tools := get("tools"):
            params["tools"] = [_function_tool(tool) for tool in tools]
        if (choice := get("tool_choice")) is not None:
            _put_tool_choice(params, choice)
        if (user := (get("metadata") or {}).get("user_id")) is not None:
            params["user"] = user
        thinking = get("thinking") or {}
        if thinking.get("type") == "enabled":
            budget = thinking.get("budget_tokens") or 0
            params["reasoning"] = {"effort": next((name for bound, name in _EFFORTS if budget <= bound), "high")}
    except (AttributeError, TypeError, KeyError) as error:
        raise RequestUnsupported(f"the request is malformed: {error!r}") from None
    return params


def _items(messages: Any, system: Any) -> list[Item]:
    if not isinstance(messages, list) or not messages:
        raise RequestUnsupported("messages: at least one message is needed")
    items: list[Item] = []
    if isinstance(system, list):
        for index, block in enumerate(system):
            if not isinstance(block, dict) or not isinstance(block.get("text"), str):
                raise RequestUnsupported(f"system.{index}: a text block is needed")
            items.append({"role": "system", "content": block["text"]})
    elif system is not None and not isinstance(system, str):
        raise RequestUnsupported("system: a string or a list of text blocks is needed")
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        try:
            role, content = message["role"], message["content"]
            if role not in ("user", "assistant"):
                raise RequestUnsupported(f"{where}: no message has the role {role!r}")
            if isinstance(content, str):
                items.append({"role": role, "content": content})
            elif role == "user":
                items += _user_items(content, where)
            else:
                items += _assistant_items(content, where)
        except (KeyError, TypeError, AttributeError) as error:
            raise RequestUnsupported(f"{where} is malformed: {error!r}") from None
    return items


def _user_items(blocks: list[Block], where: str) -> list[Item]:
    items: list[Item] = []
    parts: list[dict[str, Any]] | None = None
    for index, block in enumerate(blocks):
        if block["type"] == "tool_result":
            parts = None
            items.append(_output_item(block, f"{where}.content.{index}"))
            continue
        if parts is None:
            parts = []
            items.append({"role": "user", "content": parts})
        parts.append(_input_part(block, f"{where}.content.{index}"))
    return items or [{"role": "user", "content": []}]


def _output_item(block: Block, where: str) -> Item:
    content = block.get("content")
    if isinstance(content, list):
        output: Any = [_input_part(part, f"{where}.content.{index}") for index, part in enumerate(content)]
    elif content is None or isinstance(content, str):
        output = content or ""
    else:
        raise RequestUnsupported(f"{where}: a tool result's content is a string or a list of blocks")
    item = {"type": "function_call_output", "call_id": block["tool_use_id"], "output": output}
    if block.get("is_error"):
        item["status"] = "incomplete"
    return item


def _input_part(block: Block, where: str) -> dict[str, Any]:
    kind = block["type"]
    if kind == "text":
        return {"type": "input_text", "text": block["text"]}
    if kind == "image":
        source = block["source"]
        if source["type"] == "base64":
            return {"type": "input_image", "image_url": f"data:{source['media_type']};base64,{source['data']}"}
        if source["type"] == "url":
            return {"type": "input_image", "image_url": source["url"]}
        if source["type"] == "file":
            return {"type": "input_image", "file_id": source["file_id"]}
        raise RequestUnsupported(f"{where}: no image has a source of type {source['type']!r}")
    raise RequestUnsupported(f"{where}: blocks of type {kind!r} are not supported here")


def _assistant_items(blocks: list[Block], where: str) -> list[Item]:
    items: list[Item] = []
    texts: list[dict[str, Any]] | None = None
    for index, block in enumerate(blocks):
        kind = block["type"]
        if kind == "text":
            if texts is None:
                texts = []
                items.append({"type": "message", "role": "assistant", "content": texts})
            texts.append({"type": "output_text", "text": block["text"], "annotations": []})
            continue
        texts = None
        if kind == "thinking":
            item: Item = {"type": "reasoning", "summary": [{"type": "summary_text", "text": block["thinking"]}]}
            if block.get("signature"):
                item["encrypted_content"] = block["signature"]
        elif kind == "redacted_thinking":
            item = {"type": "reasoning", "summary": [], "encrypted_content": block["data"]}
        elif kind == "tool_use":
            item = {
                "type": "function_call",
                "call_id": block["id"],
                "name": block["name"],
                "arguments": _arguments(block["input"]),
            }
        else:
            raise RequestUnsupported(f"{where}.content.{index}: blocks of type {kind!r} are not supported here")
        items.append(item)
    return items or [{"type": "message", "role": "assistant", "content": []}]


def _arguments(given: Any) -> str:
    if not isinstance(given, dict):
        raise TypeError("a tool_use's input is not an object")
    if given.keys() == {RAW_ARGUMENTS} and isinstance(raw := given[RAW_ARGUMENTS], str):
        return raw
    return orjson.dumps(given).decode()


def _function_tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom"):
        raise RequestUnsupported(f"tools of type {tool['type']!r} are run by their vendor and not supported here")
    ours = {"type": "function", "name": tool["name"], "parameters": tool["input_schema"], "strict": tool.get("strict")}
    if tool.get("description") is not None:
        ours["description"] = tool["description"]
    return ours


def _put_tool_choice(params: dict[str, Any], choice: dict[str, Any]) -> None:
    kind = choice["type"]
    if kind == "tool":
        params["tool_choice"] = {"type": "function", "name": choice["name"]}
    elif kind in _CHOICES:
        params["tool_choice"] = _CHOICES[kind]
    else:
        raise RequestUnsupported(f"tool_choice: no choice is called {kind!r}")
    if choice.get("disable_parallel_tool_use") is not None:
        params["parallel_tool_calls"] = not choice["disable_parallel_tool_use"]


# Requests: Responses -> Messages


def messages_of_params(params: dict[str, Any]) -> dict[str, Any]:
    """The body of ``POST /v1/messages`` for Responses create-params: the way back of ``params_of_messages``.

    Raises:
        RequestUnsupported: an item, part or tool that Messages has no words for.
    """
    get = params.get
    given = params.get("input")
    items: list[Item] = [{"role": "user", "content": given}] if isinstance(given, str) else list(given or ())
    leading = 0
    while leading < len(items) and items[leading].get("role") in ("system", "developer"):
        leading += 1
    systems = [{"type": "text", "text": _plain(item["content"])} for item in items[:leading]]
    body: dict[str, Any] = {}
    if (model := get("model")) is not None:
        body["model"] = model
    if (limit := get("max_output_tokens")) is not None:
        body["max_tokens"] = limit
    if instructions := get("instructions"):
        body["system"] = [{"type": "text", "text": instructions}, *systems] if systems else instructions
    elif systems:
        body["system"] = systems
    body["messages"] = _messages(items[leading:])
    for name in _SAME:
        if (value := get(name)) is not None:
            body[name] = value
    if extra := (get("metadata") or {}).get("extra_body"):
        values = orjson.loads(extra)
        body.update({theirs: values[ours] for theirs, ours in _EXTRA.items() if ours in values})
    if (user := get("user")) is not None:
        body["metadata"] = {"user_id": user}
    if tools := get("tools"):
        body["tools"] = [_messages_tool(tool) for tool in tools]
    if (choice := _messages_choice(get("tool_choice"), get("parallel_tool_calls"))) is not None:
        body["tool_choice"] = choice
    return body


def _messages(items: Iterable[Item]) -> list[dict[str, Any]]:
    """Items as messages: what the assistant says in a row is one; so are tool results and what the user says next."""
    messages: list[dict[str, Any]] = []
    for item in items:
        kind = item.get("type") or "message"
        content: Any = item.get("content")
        if kind == "function_call_output":
            _join(messages, "user", [_result_block(item)])
        elif kind == "message" and item["role"] == "user":
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else _input_blocks(content)
            if messages and _only_results(messages[-1]):
                messages[-1]["content"] += blocks
            else:
                messages.append({"role": "user", "content": content if isinstance(content, str) else blocks})
        elif kind == "message" and item["role"] == "assistant" and isinstance(content, str):
            messages.append({"role": "assistant", "content": content})
        else:
            _join(messages, "assistant", _assistant_blocks(item))
    return messages


def _join(messages: list[dict[str, Any]], role: str, blocks: list[Block]) -> None:
    last: dict[str, Any] = messages[-1] if messages else {"role": None, "content": ""}
    if last["role"] == role and (_only_results(last) if role == "user" else isinstance(last["content"], list)):
        last["content"] += blocks
    else:
        messages.append({"role": role, "content": blocks})


def _only_results(message: dict[str, Any]) -> bool:
    content = message["content"]
    return isinstance(content, list) and bool(content) and all(block["type"] == "tool_result" for block in content)


def _result_block(item: Item) -> Block:
    output = item["output"]
    content = output if isinstance(output, str) else _input_blocks(output)
    block: Block = {"type": "tool_result", "tool_use_id": item["call_id"], "content": content}
    if item.get("status") == "incomplete":
        block["is_error"] = True
    return block


def _input_blocks(parts: Iterable[dict[str, Any]]) -> list[Block]:
    return [_input_block(part) for part in parts]


def _input_block(part: dict[str, Any]) -> Block:
    kind = part["type"]
    if kind in ("input_text", "text", "output_text"):
        return {"type": "text", "text": part["text"]}
    if kind == "input_image":
        if part.get("file_id"):
            return {"type": "image", "source": {"type": "file", "file_id": part["file_id"]}}
        url = part["image_url"]
        head, comma, data = url.partition(";base64,")
        if comma and head.startswith("data:"):
            return {"type": "image", "source": {"type": "base64", "media_type": head[5:], "data": data}}
        return {"type": "image", "source": {"type": "url", "url": url}}
    raise RequestUnsupported(f"Messages has no words for a content part of type {kind!r}")


def _messages_tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise RequestUnsupported(f"Messages has no words for a tool of type {tool.get('type')!r}")
    theirs = {"name": tool["name"], "input_schema": tool.get("parameters") or {"type": "object"}}
    for name in ("description", "strict"):
        if tool.get(name) is not None:
            theirs[name] = tool[name]
    return theirs


def _messages_choice(choice: Any, parallel: bool | None) -> dict[str, Any] | None:
    if choice is None and parallel is None:
        return None
    if isinstance(choice, dict):
        theirs = {"type": "tool", "name": choice["name"]}
    else:
        theirs = {"type": next(name for name, ours in _CHOICES.items() if ours == (choice or "auto"))}
    return theirs if parallel is None else {**theirs, "disable_parallel_tool_use": not parallel}


# Replies: Responses -> Messages


def message_of_response(response: dict[str, Any], stop: StopReason | None = None) -> dict[str, Any]:
    """The reply of ``POST /v1/messages`` for a Responses object.

    Args:
        response: as ``read_completion`` gives it.
        stop: why it is cut short, where the caller knows more than ``incomplete_details`` says.
    """
    content = [block for item in response["output"] for block in _assistant_blocks(item)]
    usage = response.get("usage") or {}
    cached = (usage.get("input_tokens_details") or {}).get("cached_tokens") or 0
    return {
        "id": "msg_" + response["id"].removeprefix("resp_"),
        "type": "message",
        "role": "assistant",
        "model": response["model"],
        "content": [block for block in content if block.get("text") != ""],
        "stop_reason": _stop_reason(response, stop),
        "stop_sequence": None,
        "usage": {
            "input_tokens": (usage.get("input_tokens") or 0) - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": usage.get("output_tokens") or 0,
        },
    }


def _assistant_blocks(item: Item) -> list[Block]:
    kind = item.get("type") or "message"
    if kind == "message":
        if item.get("role") != "assistant":
            raise RequestUnsupported(f"Messages has no words for a message of role {item.get('role')!r} here")
        content = item["content"]
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        return [{"type": "text", "text": part.get("refusal") or part.get("text") or ""} for part in content]
    if kind == "reasoning":
        texts, signature = reasoning_texts(item), item.get("encrypted_content")
        if not texts and signature:
            return [{"type": "redacted_thinking", "data": signature}]
        return [{"type": "thinking", "thinking": "\n".join(texts), "signature": signature or ""}]
    if kind == "function_call":
        given = _call_input(item["arguments"])
        return [{"type": "tool_use", "id": item["call_id"], "name": item["name"], "input": given}]
    raise RequestUnsupported(f"Messages has no words for an item of type {kind!r}")


def _call_input(arguments: str) -> dict[str, Any]:
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        value = None
    return value if isinstance(value, dict) else {RAW_ARGUMENTS: arguments}


def _stop_reason(response: dict[str, Any], stop: StopReason | None) -> str:
    if stop == "context_window":
        return "model_context_window_exceeded"
    reason = stop or (response.get("incomplete_details") or {}).get("reason")
    if reason is not None:
        return "max_tokens" if reason == "max_output_tokens" else "refusal"
    kinds = {item.get("type") for item in response["output"]}
    if "function_call" in kinds:
        return "tool_use"
    refused = any(part.get("type") == "refusal" for item in response["output"] for part in item.get("content") or ())
    return "refusal" if refused else "end_turn"


def _plain(content: Any) -> str:
    return content if isinstance(content, str) else parts_text(content)
