"""An engine whose replies become other tokens when their text comes back: a tokenizer of characters and one merge."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from testbed.http_script import Answer, Request

END = 3
"""The end of a turn, a special token."""
MERGED = 300
"""Reads "ab"; the policy says it letter by letter."""


@dataclass
class DriftingEngine:
    """Says "ab" at every turn, as two tokens, which its tokenizer makes one.

    Attributes:
        takes_ids: whether it takes a prompt's ids; else it renders the messages, as older engines do.
        tokenizes: whether it has ``/tokenize``.
        forgets: whether its template leaves earlier replies out.
        spaces: what its template writes around a reply.
        prompts: the ids of the prompts that it answered.
        refused: how often it was asked what it does not know.
    """

    takes_ids: bool = True
    tokenizes: bool = True
    forgets: bool = False
    spaces: str = ""
    prompts: list[list[int]] = field(default_factory=list)
    refused: int = 0

    def __call__(self, request: Request, before: int) -> Answer:
        body = json.loads(request.body)
        if request.target == "/v1/chat/completions":
            return _ok(self._chat(body))
        if request.target == "/tokenize" and self.tokenizes:
            return _ok({"tokens": self.render(body["messages"])})
        if request.target == "/detokenize" and self.tokenizes:
            return _ok({"prompt": "".join("ab" if one == MERGED else chr(one) for one in body["tokens"])})
        self.refused += 1
        return Answer(404)

    def render(self, messages: list[dict[str, Any]]) -> list[int]:
        """The ids of a conversation, with the beginning of the reply that is wanted."""
        texts = [f"{message['role'][0]}:{self._text(message)}\x03\n" for message in messages]
        ids: list[int] = []
        for letter in ("".join(texts) + "a:").replace("ab", chr(MERGED)):
            ids.append(ord(letter))
        return ids

    def _text(self, message: dict[str, Any]) -> str:
        if message["role"] != "assistant":
            return str(message["content"])
        return "..." if self.forgets else f"{self.spaces}{message['content']}{self.spaces}"

    def _chat(self, body: dict[str, Any]) -> dict[str, Any]:
        forced = (body.get("kv_transfer_params") or {}).get("prompt_token_ids")
        prompt = forced if forced and self.takes_ids else self.render(body["messages"])
        self.prompts.append(prompt)
        said = [ord("a"), ord("b"), END]
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": "ab"},
            "finish_reason": "stop",
            "token_ids": said,
            "logprobs": {"content": [{"token": "", "logprob": -0.5} for _ in said]},
        }
        return {"object": "chat.completion", "model": "policy", "choices": [choice], "prompt_token_ids": prompt}


def _ok(body: dict[str, Any]) -> Answer:
    return Answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())
