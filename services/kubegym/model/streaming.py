"""Whole replies replayed as server-sent events, for harnesses that insist on streams (contract 1.4). Pure."""

from __future__ import annotations

from typing import Any

import orjson

DONE = b"data: [DONE]\n\n"

_CHUNK_FIELDS = ("id", "created", "model", "system_fingerprint")


def response_events(response: dict[str, Any]) -> bytes:
    """A Responses object: ``response.created``, one ``response.output_item.done`` an item, ``response.completed``.

    A reply that is cut short ends so, too (contract); its ``status`` says "incomplete".
    """
    started = {**response, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": started}]
    for index, item in enumerate(response["output"]):
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    events.append({"type": "response.completed", "response": response})
    return _numbered(events)


def failed_events(message: str, identity: str, created: int, model: str) -> bytes:
    """A call that failed: ``response.created``, ``response.failed``, whose error code is always "server_error"."""
    base = {"id": identity, "object": "response", "created_at": created, "model": model, "output": []}
    failed = {**base, "status": "failed", "error": {"code": "server_error", "message": message}}
    return _numbered(
        [
            {"type": "response.created", "response": {**base, "status": "in_progress", "error": None}},
            {"type": "response.failed", "response": failed},
        ]
    )


def _numbered(events: list[dict[str, Any]]) -> bytes:
    parts = []
    for number, event in enumerate(events):
        event["sequence_number"] = number
        parts.append(_event(event))
    return b"".join(parts)


def message_events(message: dict[str, Any]) -> bytes:
    """An Anthropic message: ``message_start``, the blocks, ``message_delta``, ``message_stop``."""
    usage = message["usage"]
    opened = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 0}}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": opened}]
    for index, block in enumerate(message["content"]):
        empty, deltas = _block_deltas(block)
        events.append({"type": "content_block_start", "index": index, "content_block": empty})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    ending = {"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]}
    events.append({"type": "message_delta", "delta": ending, "usage": usage})
    events.append({"type": "message_stop"})
    return b"".join(map(_event, events))


def _block_deltas(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as it starts, and what is added to it."""
    kind = block["type"]
    if kind == "text":
        return {**block, "text": ""}, [{"type": "text_delta", "text": block["text"]}]
    if kind == "thinking":
        deltas = [{"type": "thinking_delta", "thinking": block["thinking"]}]
        if block["signature"]:
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return {**block, "thinking": "", "signature": ""}, deltas
    if kind == "tool_use":
        text = orjson.dumps(block["input"]).decode()
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": text}]
    return block, []  # redacted_thinking comes whole


def _event(event: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))


def chat_events(chat: dict[str, Any], include_usage: bool) -> bytes:
    """A chat completion: role, reasoning, content, calls, finish, usage where asked for, ``[DONE]``; of each choice."""
    base: dict[str, Any] = {
        name: chat[name] for name in ("id", "created", "model", "system_fingerprint") if name in chat
    }
    base["object"] = "chat.completion.chunk"
    chunks: list[dict[str, Any]] = []
    for choice in chat["choices"]:
        message, index = choice["message"], choice.get("index", 0)
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        if thought := message.get("reasoning_content") or message.get("reasoning"):
            deltas.append({"reasoning_content": thought})
        for name in ("content", "refusal"):
            if message.get(name):
                deltas.append({name: message[name]})
        if calls := message.get("tool_calls"):
            deltas.append({"tool_calls": [{"index": number, **call} for number, call in enumerate(calls)]})
        chunks += [{**base, "choices": [{"index": index, "delta": delta, "finish_reason": None}]} for delta in deltas]
        ending = {"index": index, "delta": {}, "finish_reason": choice.get("finish_reason")}
        if choice.get("logprobs") is not None:
            ending["logprobs"] = choice["logprobs"]
        chunks.append({**base, "choices": [ending]})
    if include_usage:
        chunks.append({**base, "choices": [], "usage": chat.get("usage")})
    return b"".join(b"data: %b\n\n" % orjson.dumps(chunk) for chunk in chunks) + DONE
