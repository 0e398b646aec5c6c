"""A whole chat completion as the events of a stream."""

from __future__ import annotations

import re
from typing import Any

import orjson

_PIECES = re.compile(r"\S+\s*|\s+")


def stream_events(reply: dict[str, Any], include_usage: bool) -> list[bytes]:
    """The reply as HTTP chunks of server-sent events: role, text word by word, calls, finish, usage, ``[DONE]``.

    The last chunk also ends the chunked body.
    """
    choice = reply["choices"][0]
    message = choice["message"]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in _PIECES.findall(message.get("content") or "")]
    deltas += [{"tool_calls": [{"index": index, **call}]} for index, call in enumerate(message.get("tool_calls") or ())]
    base = {name: reply[name] for name in ("id", "created", "model", "system_fingerprint")}
    base["object"] = "chat.completion.chunk"
    chunks = [{**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    if include_usage:
        chunks.append({**base, "choices": [], "usage": reply["usage"]})
    events = [_chunk(b"data: %b\n\n" % orjson.dumps(chunk)) for chunk in chunks]
    return [*events, _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"]


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
