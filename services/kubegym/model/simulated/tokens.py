"""Token ids of the simulated engine: a token is a byte of UTF-8, and a history is only ever appended to. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kubegym.core.messages import parts_text

_BEGIN, _END = b"\x02", b"\x03"


def tell_tokens(reply: dict[str, Any], messages: Sequence[Mapping[str, Any]]) -> None:
    """Add what vLLM's ``return_token_ids`` and ``logprobs`` add to a chat completion; log-probs are made up."""
    [choice] = reply["choices"]
    generated = _said(choice["message"]) + _END
    reply["prompt_token_ids"] = [*b"".join(map(_rendered, messages)), *_BEGIN, *b"assistant\n"]
    choice["token_ids"] = [*generated]
    content = [{"token": f"token_id:{one}", "logprob": -(one % 8 + 1) / 16} for one in generated]
    choice["logprobs"] = {"content": content}


def _rendered(message: Mapping[str, Any]) -> bytes:
    return _BEGIN + str(message.get("role")).encode() + b"\n" + _said(message) + _END


def _said(message: Mapping[str, Any]) -> bytes:
    content = message.get("content") or ""
    text = content if isinstance(content, str) else parts_text(content)
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return (text + "".join(f"{call['name']}({call['arguments']})" for call in calls)).encode()
