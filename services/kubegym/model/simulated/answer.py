"""Deciding what the simulated engine answers. Pure, given the request, the random generator and the arrival number."""

from __future__ import annotations

import random
import re
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from kubegym.core.messages import parts_text
from kubegym.model.simulated.config import Fault, SimulatedConfig
from kubegym.model.simulated.sample import sample
from kubegym.model.simulated.tokens import tell_tokens

FINGERPRINT = "kubegym-simulated"
"""``system_fingerprint`` and ``owned_by``: nobody shall take a simulated answer for a model's."""

_CHARACTERS_A_TOKEN = 4
_WORDS = ("so", "the", "answer", "may", "well", "be", "seven", "but", "we", "should", "check", "each", "step", "again")


class Plan(NamedTuple):
    """What happens to a request.

    Attributes:
        first: seconds to the first token.
        total: seconds to the whole answer.
        status: HTTP status.
        reply: the reply's JSON.
        fault: what goes wrong beside the status, or None.
        prompt_tokens: size of the prompt.
        tokens: size of the answer.
    """

    first: float
    total: float
    status: int
    reply: dict[str, Any]
    fault: Fault | None
    prompt_tokens: int
    tokens: int


class Answerer:
    """Plans the answers of one engine. Latencies and faults are drawn in order of arrival, answers by content."""

    def __init__(self, config: SimulatedConfig) -> None:
        self.config = config
        self._rng = random.Random(config.seed)
        self._script = [(re.compile(pattern), answer) for pattern, answer in config.answers.script]
        self._faulty = any(rate for _, rate in config.faults.rates())
        self._arrivals = 0

    def plan(self, body: Any, created: int) -> Plan:
        """Decide everything about one request.

        Args:
            body: the parsed request.
            created: the reply's time stamp.
        """
        self._arrivals += 1
        config = self.config
        if (problem := _problem(body)) is not None:
            return _error(400, problem, "BadRequestError")
        fault = config.faults.draw(self._rng) if self._faulty else None
        if fault == "rate_limited":
            return _error(429, "simulated: too many requests", "RateLimitError", fault)
        if fault == "internal_error":
            return _error(500, "simulated: internal error", "InternalServerError", fault)
        if fault == "unavailable":
            return overloaded(fault)
        messages = body["messages"]
        prompt_tokens = sum(_size(message) for message in messages)
        if config.context_window is not None and prompt_tokens >= config.context_window:
            problem = (
                f"This model's maximum context length is {config.context_window} tokens, "
                f"but the prompt has {prompt_tokens}."
            )
            return _error(400, problem, "BadRequestError")
        message, finish, tokens = self._answer(body, messages)
        if fault == "abort":
            message["content"], finish = (message.get("content") or "")[: tokens // 2], "abort"
        first = config.latency.draw(self._rng)
        reply = {
            "id": f"chatcmpl-{self._arrivals}",
            "object": "chat.completion",
            "created": created,
            "model": config.model,
            "system_fingerprint": FINGERPRINT,
            "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": tokens,
                "total_tokens": prompt_tokens + tokens,
            },
        }
        if body.get("return_token_ids"):
            tell_tokens(reply, messages)
        if fault == "empty_choices":
            reply["choices"] = []
        return Plan(first, first + tokens * config.seconds_per_token, 200, reply, fault, prompt_tokens, tokens)

    def _answer(self, body: dict[str, Any], messages: list[Any]) -> tuple[dict[str, Any], str, int]:
        """The assistant message, its finish reason and its tokens."""
        config = self.config
        if body.get("tools") and messages[-1].get("role") != "tool":
            tool = _called_tool(body)
            if tool is not None and (config.tool_probability >= 1 or self._rng.random() < config.tool_probability):
                return self._tool_call(tool), "tool_calls", 16
        if config.answers.function is not None:
            answer = config.answers.function(body)
            if isinstance(answer, dict):
                finish = "tool_calls" if answer.get("tool_calls") else "stop"
                return {"role": "assistant", **answer}, finish, _size(answer)
            text = answer
        else:
            text = self._text(body, messages)
        drawn = config.tokens
        tokens = max(1, round(drawn.draw(self._rng)) if drawn else -(-len(text) // _CHARACTERS_A_TOKEN))
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        if limit is not None and tokens > limit:
            return {"role": "assistant", "content": text[: limit * _CHARACTERS_A_TOKEN]}, "length", limit
        return {"role": "assistant", "content": text}, "stop", tokens

    def _text(self, body: dict[str, Any], messages: list[Any]) -> str:
        answers = self.config.answers
        if answers.mode == "fixed":
            return answers.text
        if answers.mode == "scripted":
            asked = next((_text(message) for message in reversed(messages) if message.get("role") == "user"), "")
            for pattern, text in self._script:
                if pattern.search(asked):
                    return text
            if not answers.turns:
                return answers.text
            turn: int = sum(message.get("role") == "assistant" for message in messages)
            return answers.turns[min(turn, len(answers.turns) - 1)]
        number = self._content_number(body)
        if answers.mode == "mcq":
            return "\\boxed{" + answers.letters[number % len(answers.letters)] + "}"
        words = []
        for _ in range(4 + number % 13):
            number, index = divmod(number, len(_WORDS))
            words.append(_WORDS[index])
        return " ".join(words) + f" {number % 100}"

    def _content_number(self, body: dict[str, Any]) -> int:
        """A number that seed and content determine, in every process."""
        content = [self.config.seed, body["messages"], body.get("tools"), body.get("seed")]
        if self.config.answers.vary:
            content.append(self._arrivals)
        packed = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
        return int.from_bytes(blake2b(packed, digest_size=24).digest())

    def _tool_call(self, tool: dict[str, Any]) -> dict[str, Any]:
        arguments = sample(tool.get("parameters") or {"type": "object"})
        function = {"name": tool["name"], "arguments": orjson.dumps(arguments).decode()}
        call = {"id": f"call_{self._arrivals}", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}


def overloaded(fault: Fault | None = None) -> Plan:
    """The answer of vLLM when its queue is full."""
    return _error(503, "simulated: the queue is full", "ServiceUnavailableError", fault)


def _error(status: int, message: str, kind: str, fault: Fault | None = None) -> Plan:
    return Plan(0.0, 0.0, status, error_body(status, message, kind), fault, 0, 0)


def error_body(status: int, message: str, kind: str) -> dict[str, Any]:
    """An error as vLLM words it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def _problem(body: Any) -> str | None:
    """What is wrong with a request, or None."""
    if not isinstance(body, dict):
        return "the body must be a JSON object"
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return "messages must be a list with at least one message"
    if not all(isinstance(message, dict) for message in messages):
        return "every message must be an object"
    tools = body.get("tools")
    if tools is not None and (not isinstance(tools, list) or not tools):
        return "tools must be a list with at least one tool, or left out"
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        return f"max_tokens must be at least 1, got {limit}"
    return None


def _called_tool(body: dict[str, Any]) -> dict[str, Any] | None:
    choice = body.get("tool_choice")
    if choice == "none":
        return None
    functions = [
        tool["function"] for tool in body["tools"] if isinstance(tool, dict) and isinstance(tool.get("function"), dict)
    ]
    if isinstance(choice, dict):
        wanted = (choice.get("function") or {}).get("name")
        functions = [function for function in functions if function.get("name") == wanted]
    return functions[0] if functions and "name" in functions[0] else None


def _text(message: dict[str, Any]) -> str:
    content: Any = message.get("content")
    if isinstance(content, str):
        return content
    return parts_text(content) if isinstance(content, list) else ""


def _size(message: dict[str, Any]) -> int:
    return 1 + len(_text(message)) // _CHARACTERS_A_TOKEN
