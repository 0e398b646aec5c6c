"""Anthropic Messages <-> Responses: nothing of a conversation is lost, and what has no words is refused."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym.model.convert import (
    chat_messages,
    message_of_response,
    messages_of_params,
    params_of_messages,
    read_completion,
)
from kubegym.model.convert.messages import RAW_ARGUMENTS
from kubegym.model.errors import RequestUnsupported

pytestmark = pytest.mark.unit

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
SOME = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
NAMES = st.sampled_from(["add", "look_up"])
JSON = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | TEXT, lambda inner: st.lists(inner, max_size=2))
INPUTS = st.dictionaries(SOME.filter(lambda key: key != RAW_ARGUMENTS), JSON, max_size=2)
SOURCES = st.sampled_from(
    [
        {"type": "base64", "media_type": "image/png", "data": "aGk="},
        {"type": "url", "url": "https://example.org/a.png"},
        {"type": "file", "file_id": "file-1"},
    ]
)
TEXT_BLOCKS = st.builds(lambda text: {"type": "text", "text": text}, TEXT)
IMAGE_BLOCKS = st.builds(lambda source: {"type": "image", "source": source}, SOURCES)
INPUT_BLOCKS = TEXT_BLOCKS | IMAGE_BLOCKS
THOUGHTS = st.one_of(
    st.builds(lambda text, sign: {"type": "thinking", "thinking": text, "signature": sign}, SOME, TEXT),
    st.builds(lambda data: {"type": "redacted_thinking", "data": data}, SOME),
)
USER_CONTENT = TEXT | st.lists(INPUT_BLOCKS, min_size=1, max_size=3)


@st.composite
def turns(draw: st.DrawFn, index: int) -> list[dict[str, Any]]:
    """An assistant's message and what the user says to it."""
    blocks = draw(st.lists(THOUGHTS, max_size=2))
    blocks += draw(st.lists(TEXT_BLOCKS, min_size=1, max_size=2))
    calls = draw(st.lists(st.tuples(NAMES, INPUTS), max_size=3))
    ids = [f"toolu_{index}_{number}" for number in range(len(calls))]
    blocks += [
        {"type": "tool_use", "id": call_id, "name": name, "input": arguments}
        for call_id, (name, arguments) in zip(ids, calls, strict=True)
    ]
    if not calls:
        content = draw(st.sampled_from([blocks, draw(TEXT)]))
        return [{"role": "assistant", "content": content}, {"role": "user", "content": draw(USER_CONTENT)}]
    answers: list[dict[str, Any]] = []
    for call_id in ids:
        content = draw(TEXT | st.lists(INPUT_BLOCKS, max_size=2))
        answers.append({"type": "tool_result", "tool_use_id": call_id, "content": content})
        if draw(st.booleans()):
            answers[-1]["is_error"] = True
    answers += draw(st.lists(INPUT_BLOCKS, max_size=2))
    return [{"role": "assistant", "content": blocks}, {"role": "user", "content": answers}]


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    body: dict[str, Any] = {"model": "m", "max_tokens": draw(st.integers(1, 9))}
    if system := draw(st.none() | SOME | st.lists(TEXT_BLOCKS, min_size=1, max_size=2)):
        body["system"] = system
    body["messages"] = [{"role": "user", "content": draw(USER_CONTENT)}]
    for index in range(draw(st.integers(0, 3))):
        body["messages"] += draw(turns(index))
    optional = {
        "temperature": st.floats(0, 1),
        "top_p": st.floats(0, 1),
        "top_k": st.integers(1, 9),
        "stop_sequences": st.lists(SOME, min_size=1, max_size=2),
        "metadata": st.just({"user_id": "u"}),
        "tools": st.just([{"name": "add", "description": "Add.", "input_schema": {"type": "object"}}]),
        "tool_choice": st.sampled_from(
            [
                {"type": "auto"},
                {"type": "any", "disable_parallel_tool_use": True},
                {"type": "none"},
                {"type": "tool", "name": "add", "disable_parallel_tool_use": False},
            ]
        ),
    }
    return body | {name: draw(values) for name, values in optional.items() if draw(st.booleans())}


@given(requests())
def test_a_request_comes_back_as_it_was(body: dict[str, Any]) -> None:
    before = copy.deepcopy(body)
    params = params_of_messages(body)
    assert body == before
    unchanged = copy.deepcopy(params)
    assert messages_of_params(params) == body
    assert params == unchanged


@given(requests())
def test_a_chat_model_understands_it(body: dict[str, Any]) -> None:
    items = params_of_messages(body)["input"]
    parts = [part for item in items for name in ("content", "output") for part in item.get(name) or ()]
    if not any(isinstance(part, dict) and part.get("file_id") for part in parts):
        messages = chat_messages(items)
        tools = [message["tool_call_id"] for message in messages if message["role"] == "tool"]
        assert tools == [item["call_id"] for item in items if item.get("type") == "function_call_output"]


@given(
    st.none() | SOME,
    TEXT,
    st.lists(st.tuples(NAMES, st.builds(lambda value: orjson.dumps(value).decode(), INPUTS) | TEXT), max_size=3),
)
def test_a_reply_goes_back_with_the_history(thought: str | None, text: str, calls: list[tuple[str, str]]) -> None:
    """What a model said reaches it again through Messages: text, reasoning, arguments, also broken ones."""
    message: dict[str, Any] = {"content": text.replace("<", ""), "reasoning_content": thought}
    message["tool_calls"] = [
        {"id": f"c{index}", "function": {"name": name, "arguments": arguments}}
        for index, (name, arguments) in enumerate(calls)
    ]
    chat = {"created": 1, "model": "m", "choices": [{"message": message, "finish_reason": "stop"}]}
    response = read_completion(chat, {}, "x").response
    reply = message_of_response(response)
    history = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": reply["content"]}]}
    back = params_of_messages(history)["input"][1:]
    if not reply["content"]:
        assert chat_messages(response["output"]) == chat_messages(back)
        return
    for before, after in zip(response["output"], back, strict=True):
        if before["type"] == "function_call":
            assert (before["call_id"], before["name"]) == (after["call_id"], after["name"])
            assert _value(before["arguments"]) == _value(after["arguments"])
        elif before["type"] == "message":
            assert before["content"] == after["content"]
        else:
            assert before["summary"] == after["summary"]


def _value(arguments: str) -> Any:
    try:
        return orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return (arguments,)


class TestStopReason:
    @pytest.mark.parametrize(
        ("finish", "message", "reason"),
        [
            ("stop", {"content": "a"}, "end_turn"),
            ("length", {"content": "a"}, "max_tokens"),
            ("content_filter", {"content": "a"}, "refusal"),
            ("stop", {"refusal": "no"}, "refusal"),
            ("tool_calls", {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}, "tool_use"),
            ("length", {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{"}}]}, "max_tokens"),
        ],
    )
    def test_of_a_reply(self, finish: str, message: dict[str, Any], reason: str) -> None:
        chat = {"created": 1, "model": "m", "choices": [{"message": message, "finish_reason": finish}]}
        assert message_of_response(read_completion(chat, {}, "x").response)["stop_reason"] == reason

    def test_a_full_context_window(self) -> None:
        response = {"id": "resp_1", "model": "m", "output": [], "incomplete_details": {"reason": "max_output_tokens"}}
        assert message_of_response(response, "context_window")["stop_reason"] == "model_context_window_exceeded"
        assert message_of_response(response)["stop_reason"] == "max_tokens"


def test_cached_tokens_are_counted_apart() -> None:
    usage = {"input_tokens": 10, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 3}
    reply = message_of_response({"id": "resp_1", "model": "m", "output": [], "usage": usage})
    assert (reply["usage"]["input_tokens"], reply["usage"]["cache_read_input_tokens"]) == (6, 4)


@pytest.mark.parametrize(("budget", "effort"), [(1024, "low"), (10_000, "medium"), (32_000, "high")])
def test_a_thinking_budget_is_an_effort(budget: int, effort: str) -> None:
    thinking = {"type": "enabled", "budget_tokens": budget}
    params = params_of_messages({"messages": [{"role": "user", "content": "q"}], "thinking": thinking})
    assert params["reasoning"] == {"effort": effort}


def user(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "messages"),
        ({"messages": []}, "at least one"),
        ({"messages": "q"}, "messages"),
        ({"messages": ["q"]}, r"messages\.0"),
        ({"messages": [{"role": "user"}]}, r"messages\.0"),
        ({"messages": [{"role": "system", "content": "s"}]}, "system"),
        (user({"type": "document", "source": {}}), r"messages\.0\.content\.0.*document"),
        (user({"type": "text", "text": "a"}, {"type": "search_result"}), r"content\.1.*search_result"),
        (user({"type": "text"}), r"messages\.0"),
        (user({"type": "image", "source": {"type": "ftp"}}), "ftp"),
        (user({"type": "tool_result", "tool_use_id": "t", "content": 3}), "content"),
        (user({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "document"}]}), "document"),
        ({"messages": [{"role": "assistant", "content": [{"type": "server_tool_use"}]}]}, "server_tool_use"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f"}]}]}, "input"),
        ({**user({"type": "text", "text": "q"}), "system": 3}, "system"),
        ({**user({"type": "text", "text": "q"}), "system": [{"type": "text"}]}, r"system\.0"),
        (
            {**user({"type": "text", "text": "q"}), "tools": [{"type": "bash_20250124", "name": "bash"}]},
            "bash_20250124",
        ),
        ({**user({"type": "text", "text": "q"}), "tools": [{"name": "f"}]}, "input_schema"),
        ({**user({"type": "text", "text": "q"}), "tool_choice": {"type": "some"}}, "some"),
        ({**user({"type": "text", "text": "q"}), "tool_choice": "auto"}, "malformed"),
        ({**user({"type": "text", "text": "q"}), "metadata": "u"}, "malformed"),
    ],
)
def test_what_responses_has_no_words_for(body: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestUnsupported, match=message) as caught:
        params_of_messages(body)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "params",
    [
        {"input": [{"type": "mcp_call"}]},
        {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
        {"input": [{"role": "user", "content": "q"}, {"role": "system", "content": "late"}]},
        {"input": "q", "tools": [{"type": "web_search"}]},
    ],
)
def test_what_messages_has_no_words_for(params: dict[str, Any]) -> None:
    with pytest.raises(RequestUnsupported):
        messages_of_params(params)
