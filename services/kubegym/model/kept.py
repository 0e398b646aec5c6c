"""Chat calls that stay at an engine while its weights change, and which weights made which of their tokens.

vLLM notes with every step of its engine by what label of weights it was made, and keeps that for each request; the
label changes only while it is paused, so that this is exact. It tells it on ``/inference/v1/generate`` and nowhere else
(0.32), so such a call is asked in vLLM's own three steps instead of one, for which it needs ``--enable-scale-out``:

=======================================  =======================================================
``/v1/chat/completions/render``          the prompt's ids, and sampling, as it would use them
``/inference/v1/generate``               tokens, text, log-probs, and ``weight_versions``
``/v1/chat/completions/derender``        tool calls and reasoning, only where there may be some
=======================================  =======================================================

A reply with tokens of weights that are not proven waits until they are; where they do not prove it was given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from kubegym.core.tokens import Runs
from kubegym.http.headers import Pair
from kubegym.model.errors import ModelAborted, ModelReplyInvalid, ModelTimeout
from kubegym.model.question import JSON_PAIRS, Endpoint, once

RENDER: Final = "v1/chat/completions/render"
GENERATE: Final = "inference/v1/generate"
DERENDER: Final = "v1/chat/completions/derender"
OURS: Final = "kubegym:"
"""Before every label that a model server gives: an engine that started anew says something of its own."""

_TAKEN: Final = frozenset(
    {
        *("messages", "model", "tools", "tool_choice", "parallel_tool_calls", "response_format", "structured_outputs"),
        *("temperature", "top_p", "top_k", "min_p", "seed", "logit_bias", "bad_words", "ignore_eos", "min_tokens"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "max_tokens", "max_completion_tokens"),
        *("logprobs", "top_logprobs", "return_token_ids", "chat_template_kwargs", "reasoning_effort", "n", "user"),
        *("metadata", "store", "stream", "stream_options", "kv_transfer_params"),
    }
)
"""Fields of a chat call that mean the same in three steps. One with any other (``stop`` strings are taken out of the
text in one step only, say) is asked in one step, and waited for when weights change."""


def label_of(told: Any) -> str:
    """A label as it was given: empty for what the engine started with."""
    return told.removeprefix(OURS) if isinstance(told, str) and told.startswith(OURS) else ""


class KeptCalls:
    """Calls of one engine that go on with other weights.

    Attributes:
        versions: of labels whose weights have proved, or were there from the start.
        open: calls that are under way.
    """

    def __init__(self) -> None:
        self.versions: dict[str, int] = {}
        self.open = 0
        self._settled = asyncio.Event()
        self._settled.set()

    @property
    def changing(self) -> bool:
        """Whether the engine has, or is given, weights that are not proven."""
        return not self._settled.is_set()

    def begin(self) -> None:
        """From now on the engine may have weights that are not proven."""
        self._settled.clear()

    def settle(self) -> None:
        """What the engine has is proven, or what it made is given up."""
        self._settled.set()

    def takes(self, body: Mapping[str, Any]) -> bool:
        """Whether a chat call can be kept: one reply, of whose fields each is known to mean the same."""
        extra = body.get("kv_transfer_params")
        return (
            bool(self.versions)
            and body.keys() <= _TAKEN
            and body.get("n") in (None, 1)
            and (extra is None or (isinstance(extra, dict) and extra.keys() <= {"prompt_token_ids"}))
        )

    async def chat(
        self, endpoint: Endpoint, body: Mapping[str, Any], timeout: float, pairs: Sequence[Pair] = JSON_PAIRS
    ) -> tuple[dict[str, Any], Runs]:
        """A chat completion, whole, and which versions made its tokens.

        Args:
            endpoint: the engine.
            body: of the chat call; ``takes`` says yes to it.
            timeout: seconds for all of it.
            pairs: header lines.

        Raises:
            ModelError: no completion, or one with tokens of weights that did not prove (``ModelAborted``).
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        asked = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}

        async def step(path: str, question: Mapping[str, Any]) -> dict[str, Any]:
            return await once(endpoint, path, question, deadline - loop.time(), pairs, limit=body.get("max_tokens"))

        self.open += 1
        try:
            rendered = await step(RENDER, asked)
            wanted = {"output_mode": "text", "return_token_ids": bool(body.get("return_token_ids"))}
            told = await step(GENERATE, {**rendered, **wanted})
            choice = _choice(told)
            runs = await self._runs(choice, deadline)
            message: dict[str, Any] = {"role": "assistant", "content": choice["text"]}
            if (kept := _parsed(asked, rendered, choice)) is not None:
                message = _message(await step(DERENDER, kept))
            return completion(asked, rendered, told, message), runs
        finally:
            self.open -= 1

    async def _runs(self, choice: Mapping[str, Any], deadline: float) -> Runs:
        """Raises ModelAborted where a token is of weights that did not prove, or of none that is known."""
        try:
            spans = [(label_of(span["version"]), int(span["start"])) for span in choice["weight_versions"] or ()]
        except (LookupError, TypeError, ValueError):
            spans = []
        if choice["token_ids"] and (not spans or spans[0][1] != 0):
            raise ModelReplyInvalid("the engine does not say which weights made its tokens", retryable=True)
        if any(label not in self.versions for label, _ in spans):
            try:
                async with asyncio.timeout_at(deadline):
                    await self._settled.wait()
            except TimeoutError:
                raise ModelTimeout("the weights that made the reply were not proven in time") from None
        runs: list[tuple[int, int]] = []
        for label, start in spans:
            version = self.versions.get(label)
            if version is None:
                raise ModelAborted("tokens of the reply were made by weights that are not proven")
            if not runs or runs[-1][0] != version:
                runs.append((version, start))
        return runs


def _choice(told: Mapping[str, Any]) -> dict[str, Any]:
    """The one choice. Raises ModelError where there is none, or it was given up."""
    try:
        (choice,) = told["choices"]
        finish, text, ids = choice["finish_reason"], choice["text"], choice["token_ids"]
    except (KeyError, TypeError, ValueError):
        raise ModelReplyInvalid(f"/{GENERATE} answered without one choice") from None
    if finish in ("abort", "error"):
        raise ModelAborted("the engine gave the request up")
    if not isinstance(text, str) or not isinstance(ids, list):
        raise ModelReplyInvalid(f"/{GENERATE} answered without text or tokens")
    return dict(choice)


def _parsed(asked: Mapping[str, Any], rendered: Mapping[str, Any], choice: Mapping[str, Any]) -> dict[str, Any] | None:
    """The question for tool calls and reasoning; None where there can be neither.

    What ends a turn is no part of its text, but ``/derender`` would write it there.
    """
    tools = bool(asked.get("tools")) and asked.get("tool_choice") != "none"
    ids = choice["token_ids"][: -1 if choice["finish_reason"] == "stop" else None]
    if not ids or not (tools or rendered.get("reasoning_parser_kwargs") is not None):
        return None
    prompt = rendered.get("token_ids")
    told = {"request_id": "", "output_mode": "tokens", "prompt_token_ids": prompt}
    one = {"index": 0, "finish_reason": choice["finish_reason"], "token_ids": ids}
    return {
        "model": asked.get("model"),
        "chat_request": asked,
        "prompt_token_ids": prompt,
        "generate_response": {**told, "choices": [one]},
    }


def _message(derendered: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(derendered["choices"][0]["message"])
    except (LookupError, TypeError, ValueError):
        raise ModelReplyInvalid(f"/{DERENDER} answered without a message") from None


def completion(
    asked: Mapping[str, Any], rendered: Mapping[str, Any], told: Mapping[str, Any], message: dict[str, Any]
) -> dict[str, Any]:
    """The chat completion that one step would have given. Pure.

    Args:
        asked: the chat call.
        rendered: what ``/render`` said.
        told: what ``/generate`` said.
        message: the reply's message.
    """
    choice, choice_of_tool = told["choices"][0], asked.get("tool_choice")
    calls, finish = message.get("tool_calls") or [], choice["finish_reason"]
    if calls and asked.get("parallel_tool_calls") is False:
        message = {**message, "tool_calls": calls[:1]}
    if (calls and choice_of_tool in (None, "auto")) or (choice_of_tool == "required" and finish == "stop"):
        finish = "tool_calls"
    logprobs = choice.get("logprobs") if asked.get("logprobs") else None
    if logprobs and not asked.get("top_logprobs"):
        logprobs = {**logprobs, "content": [{**one, "top_logprobs": []} for one in logprobs.get("content") or ()]}
    ids = bool(asked.get("return_token_ids"))
    made = {
        "index": 0,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": finish,
        "stop_reason": choice.get("stop_reason"),
        "token_ids": choice["token_ids"] if ids else None,
    }
    return {
        "id": rendered.get("request_id"),
        "object": "chat.completion",
        "created": told.get("created"),
        "model": told.get("model"),
        "choices": [made],
        "usage": told.get("usage"),
        "prompt_token_ids": (told.get("prompt_token_ids") or rendered.get("token_ids")) if ids else None,
    }
