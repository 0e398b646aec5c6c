"""A Chat Completions reply -> a Responses object."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from kubegym.core.messages import Item, parts_text
from kubegym.core.outcomes import StopReason
from kubegym.core.tokens import TOKEN_FIELDS, CallTokens
from kubegym.model.convert.request import LOGPROBS
from kubegym.model.convert.tags import CLOSE_TAG, OPEN_TAG, split_thoughts
from kubegym.model.errors import ModelAborted, ModelReplyInvalid

_INCOMPLETE: dict[Any, StopReason] = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Completion(NamedTuple):
    """A chat reply, converted: the Responses object, why it is cut short (None: it is not), and its tokens if told."""

    response: dict[str, Any]
    stop: StopReason | None
    tokens: CallTokens | None = None


def read_completion(chat: Any, params: dict[str, Any], identity: str) -> Completion:
    """The Responses object for a chat completion.

    Args:
        chat: the parsed reply.
        params: the create-params it answers, some of which the object repeats.
        identity: a unique string, from which the ids of response and items are made.

    Raises:
        ModelAborted: the engine gave the request up (vLLM's finish_reason "abort", with HTTP 200 and part of a text).
        ModelReplyInvalid: not a chat completion.
    """
    try:
        choice = chat["choices"][0]
        message = choice["message"]
        finish = choice.get("finish_reason")
        if finish == "abort" or finish == "error":
            raise ModelAborted(f"the engine gave the request up (finish_reason {finish!r})")
        output = output_items(message, choice, identity)
        tokens = _tokens(chat, choice, message)
        if tokens is not None and not _wants_logprobs(params):  # they came with the tokens: twice would double the row
            _drop_logprobs(output)
        stop = _INCOMPLETE.get(finish)
        usage = usage_of(chat.get("usage"))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ModelReplyInvalid(f"the reply is no chat completion ({error!r}): {_excerpt(chat)}") from None
    return Completion(_response(chat, params, identity, output, stop, usage), stop, tokens)


def overflow_completion(params: dict[str, Any], model: str, identity: str, created: int) -> Completion:
    """The answer when the conversation no longer fits the model: empty and cut short, not an error (contract 6).

    The wire has one word for both limits; ``Completion.stop`` tells them apart.
    """
    output = [_message_item("", None, identity)]
    chat = {"created": created, "model": model}
    return Completion(_response(chat, params, identity, output, "max_output_tokens", None), "context_window")


def output_items(message: dict[str, Any], choice: dict[str, Any], identity: str) -> list[Item]:
    """The items of an assistant message: reasoning, text (an empty one where there is nothing), calls."""
    content = message.get("content")
    if content is None:
        content = ""
    elif not isinstance(content, str):
        content = parts_text(content)
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    if not isinstance(thought, str):
        raise TypeError("reasoning_content is not a string")
    if CLOSE_TAG in content or OPEN_TAG in content:
        inline, content = split_thoughts(content)
        thought = f"{thought}\n{inline}" if thought and inline else thought or inline
    output: list[Item] = []
    if thought:
        summary = [{"type": "summary_text", "text": thought}]
        output.append({"id": f"rs_{identity}", "type": "reasoning", "summary": summary})
    calls = message.get("tool_calls")
    refusal = message.get("refusal")
    if content or refusal or not (thought or calls):
        logprobs = choice.get("logprobs")
        output.append(_message_item(content, logprobs and logprobs.get("content"), identity, refusal))
    if calls:
        output += [_call_item(call, f"call_{identity}_{index}") for index, call in enumerate(calls)]
    return output


def told_tokens(chat: dict[str, Any]) -> CallTokens | None:
    """The tokens of a chat completion, where it tells them."""
    try:
        choice = chat["choices"][0]
        return _tokens(chat, choice, choice["message"])
    except (KeyError, IndexError, TypeError, AttributeError):
        return None


def _tokens(chat: dict[str, Any], choice: dict[str, Any], message: dict[str, Any]) -> CallTokens | None:
    """The training fields of a call (contract 2.7), all three or none.

    In order of preference (contract 6): a bundle in the message; ``prompt_token_ids`` and ``token_ids`` beside it
    (vLLM's ``return_token_ids``); ids spelled in the log-probs (``return_tokens_as_token_ids``).
    """
    if (bundle := CallTokens.read(message)) is not None:
        return bundle
    prompt = chat.get("prompt_token_ids") or choice.get("prompt_token_ids")
    entries = (choice.get("logprobs") or {}).get("content")
    if not prompt or not entries:
        return None
    generated = choice.get("token_ids")
    if generated is None:
        generated = [_spelled_id(entry["token"]) for entry in entries]
    values = (prompt, generated, [entry["logprob"] for entry in entries])
    return CallTokens.read(dict(zip(TOKEN_FIELDS, values, strict=True)))


def _spelled_id(token: str) -> int | None:
    number = token.removeprefix("token_id:")
    return int(number) if number != token and number.isdigit() else None


def _wants_logprobs(params: dict[str, Any]) -> bool:
    return params.get("top_logprobs") is not None or LOGPROBS in (params.get("include") or ())


def _drop_logprobs(output: list[Item]) -> None:
    for item in output:
        for part in item.get("content") or ():
            part.pop("logprobs", None)


def _message_item(text: str, logprobs: Any, identity: str, refusal: str | None = None) -> Item:
    part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": []}
    if logprobs:
        part["logprobs"] = logprobs
    parts = [part] if text or not refusal else []
    if refusal:
        parts.append({"type": "refusal", "refusal": refusal})
    return {"id": f"msg_{identity}", "type": "message", "role": "assistant", "status": "completed", "content": parts}


def _call_item(call: dict[str, Any], spare_id: str) -> Item:
    function = call["function"]
    name, arguments = function["name"], function.get("arguments")
    if not isinstance(name, str):
        raise TypeError("a tool call's name is not a string")
    if not isinstance(arguments, str):  # Some servers send the object itself, or nothing for no arguments.
        arguments = "{}" if arguments is None else orjson.dumps(arguments).decode()
    call_id = call.get("id") or spare_id
    return {
        "id": call_id,
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": "completed",
    }


def usage_of(usage: Any) -> dict[str, Any] | None:
    """The usage of a chat reply in Responses' words; counts that the endpoint does not tell are null."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = _count(usage, "prompt_tokens") or 0, _count(usage, "completion_tokens") or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": _count(usage.get("prompt_tokens_details"), "cached_tokens")},
        "output_tokens": completion,
        "output_tokens_details": {
            "reasoning_tokens": _count(usage.get("completion_tokens_details"), "reasoning_tokens")
        },
        "total_tokens": prompt + completion,
    }


def _count(counts: Any, name: str) -> int | None:
    """A number of tokens, None where it is not told. Raises TypeError or AttributeError: sums rest on it."""
    value = counts.get(name) if counts else None
    if value is not None and not isinstance(value, int | float):
        raise TypeError(f"{name} is not a number")
    return None if value is None else int(value)  # some say 12.0


def _response(
    chat: dict[str, Any],
    params: dict[str, Any],
    identity: str,
    output: list[Item],
    incomplete: StopReason | None,
    usage: dict[str, Any] | None,
) -> dict[str, Any]:
    get = params.get
    choice = get("tool_choice")
    parallel = get("parallel_tool_calls")
    return {
        "id": f"resp_{identity}",
        "object": "response",
        "created_at": chat.get("created") or 0,
        "model": chat.get("model") or "",
        "status": "incomplete" if incomplete else "completed",
        "output": output,
        "parallel_tool_calls": True if parallel is None else parallel,
        "tool_choice": "auto" if choice is None else choice,
        "tools": get("tools") or [],
        "temperature": get("temperature"),
        "top_p": get("top_p"),
        "incomplete_details": {"reason": incomplete} if incomplete else None,
        "error": None,
        "metadata": get("metadata"),
        "usage": usage,
    }


def _excerpt(value: Any) -> str:
    try:
        return orjson.dumps(value)[:200].decode(errors="replace")
    except TypeError:
        return repr(value)[:200]
