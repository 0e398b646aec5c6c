"""Create-params from outside; token ids; whole conversations there and back."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubegym.core.tokens import TOKEN_FIELDS
from kubegym.model.convert import (
    chat_messages,
    chat_request,
    param_problems,
    read_completion,
    response_items,
    sanitise,
)
from kubegym.model.errors import RequestUnsupported

pytestmark = pytest.mark.unit

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1, max_size=12)
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}


FIELDS = ("input", "tools", "tool_choice", "text", "reasoning", "metadata", "instructions", "include", "x")
KEYS = st.sampled_from(["type", "role", "content", "tools", "name", "text", "format", "call_id"])
WORDS = st.sampled_from(["message", "user", "system", "function", "namespace", "additional_tools", "function_call", ""])
NONSENSE = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=4),
)


class TestStrict:
    def test_every_field_of_the_contract(self) -> None:
        params = {
            "input": [],
            "instructions": "i",
            "max_output_tokens": 3,
            "metadata": {"a": "b"},
            "temperature": 1,
            "top_p": 0.5,
            "tools": [],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "store": False,
            "background": False,
            "previous_response_id": None,
            "stream": False,
        }
        assert param_problems(params) == []

    @pytest.mark.parametrize(
        ("params", "kind", "name"),
        [
            ({}, "missing", "input"),
            ({"input": None}, "missing", "input"),
            ({"input": "q", "n": 2}, "extra_forbidden", "n"),
            ({"input": 3}, "type_error", "input"),
            ({"input": "q", "temperature": "hot"}, "type_error", "temperature"),
            ({"input": "q", "temperature": True}, "type_error", "temperature"),
            ({"input": "q", "max_output_tokens": 1.5}, "type_error", "max_output_tokens"),
            ({"input": "q", "metadata": {"a": 1}}, "string_type", "metadata"),
            ({"input": "q", "background": True}, "value_error", "background"),
            ({"input": "q", "previous_response_id": "resp_1"}, "value_error", "previous_response_id"),
        ],
    )
    def test_problems_are_told_as_fastapi_tells_them(self, params: dict[str, Any], kind: str, name: str) -> None:
        (problem,) = param_problems(params)
        assert (problem["type"], problem["loc"]) == (kind, ["body", name])
        assert set(problem) == {"type", "loc", "msg", "input"}

    @given(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, NONSENSE)))
    @settings(max_examples=400)
    def test_nonsense_is_refused_and_never_crashes(self, params: dict[str, Any]) -> None:
        for judged in (params, sanitise(params).params):
            if not param_problems(judged):
                with contextlib.suppress(RequestUnsupported):
                    chat_request(judged, "m")


class TestSanitise:
    def test_unknown_fields_items_and_tools_are_left_out(self) -> None:
        given = {
            "input": [{"role": "user", "content": "q"}, {"type": "web_search_call"}, "junk"],
            "tools": [TOOL, {"type": "web_search"}, TOOL],
            "prompt_cache_key": "k",
            "previous_response_id": "resp_1",
            "stream": True,
        }
        before = copy.deepcopy(given)
        made = sanitise(given)
        assert given == before
        assert made.params == {"input": [{"role": "user", "content": "q"}], "tools": [TOOL], "stream": True}
        assert sorted(made.dropped) == [
            "previous_response_id",
            "prompt_cache_key",
            "str",
            "web_search",
            "web_search_call",
        ]

    def test_namespaces_are_flattened_and_restored(self) -> None:
        space = {"type": "namespace", "name": "git", "tools": [TOOL, {"type": "custom", "name": "c"}]}
        history = {"type": "function_call", "namespace": "git", "name": "f", "call_id": "c", "arguments": "{}"}
        made = sanitise({"input": [history], "tools": [space, TOOL]})
        assert [tool["name"] for tool in made.params["tools"]] == ["git__f", "f"]
        assert made.params["input"][0]["name"] == "git__f"
        call = {"type": "function_call", "name": "git__f"}
        assert made.restore([call, {"type": "function_call", "name": "f"}, {"type": "message"}]) == [
            {"type": "function_call", "namespace": "git", "name": "f"},
            {"type": "function_call", "name": "f"},
            {"type": "message"},
        ]

    def test_leading_system_messages_become_instructions(self) -> None:
        items = [
            {"type": "additional_tools", "tools": [TOOL]},
            {"role": "developer", "content": [{"type": "input_text", "text": "one"}]},
            {"role": "system", "content": "two"},
            {"role": "user", "content": "q"},
            {"role": "system", "content": "late"},
        ]
        made = sanitise({"input": items, "instructions": "zero"})
        assert made.params["instructions"] == "zero\n\none\n\ntwo"
        assert made.params["input"] == items[3:]
        assert made.params["tools"] == [TOOL]

    @pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "gone"}, {"type": "web_search"}])
    def test_a_choice_of_what_was_left_out_goes_with_it(self, choice: Any) -> None:
        tools = [] if choice == "required" else [TOOL]
        assert "tool_choice" not in sanitise({"input": "q", "tools": tools, "tool_choice": choice}).params


def completion(message: dict[str, Any], **choice: Any) -> dict[str, Any]:
    return {"created": 1, "model": "m", "choices": [{"message": message, "finish_reason": "stop", **choice}]}


LOGPROBS = {"content": [{"token": "token_id:5", "logprob": -0.5}, {"token": "token_id:6", "logprob": -0.25}]}
TOKENS = dict(zip(TOKEN_FIELDS, ([1, 2], [5, 6], [-0.5, -0.25]), strict=True))


class TestTokenIds:
    @pytest.mark.parametrize(
        "chat",
        [
            {**completion({"content": "a"}, token_ids=[5, 6], logprobs=LOGPROBS), "prompt_token_ids": [1, 2]},
            completion({"content": "a"}, token_ids=[5, 6], logprobs=LOGPROBS, prompt_token_ids=[1, 2]),
            {**completion({"content": "a"}, logprobs=LOGPROBS), "prompt_token_ids": [1, 2]},
            completion({"content": "a", **TOKENS}),
        ],
        ids=["vllm", "beside the message", "spelled in the log-probs", "a bundle"],
    )
    def test_come_with_the_reply(self, chat: dict[str, Any]) -> None:
        completed = read_completion(chat, {}, "x")
        assert completed.tokens is not None
        assert completed.tokens.fields() == TOKENS
        (item,) = completed.response["output"]
        assert "logprobs" not in item["content"][0]

    def test_log_probs_stay_where_they_were_asked_for(self) -> None:
        chat = {**completion({"content": "a"}, token_ids=[5, 6], logprobs=LOGPROBS), "prompt_token_ids": [1, 2]}
        for params in ({"top_logprobs": 0}, {"include": ["message.output_text.logprobs"]}):
            (item,) = read_completion(chat, params, "x").response["output"]
            assert item["content"][0]["logprobs"] == LOGPROBS["content"]
            assert chat_request({"input": "q", **params}, "m")["logprobs"] is True

    @pytest.mark.parametrize(
        "chat",
        [
            completion({"content": "a"}, token_ids=[5, 6], logprobs=LOGPROBS),
            {**completion({"content": "a"}, token_ids=[5, 6]), "prompt_token_ids": [1]},
            {**completion({"content": "a"}, token_ids=[5], logprobs=LOGPROBS), "prompt_token_ids": [1]},
            {
                **completion({"content": "a"}, logprobs={"content": [{"token": "word", "logprob": -1.0}]}),
                "prompt_token_ids": [1],
            },
        ],
        ids=["no prompt", "no log-probs", "lengths differ", "no ids"],
    )
    def test_all_three_or_none(self, chat: dict[str, Any]) -> None:
        assert read_completion(chat, {}, "x").tokens is None

    def test_never_go_upstream(self) -> None:
        chat = {**completion({"content": "a"}, token_ids=[5, 6], logprobs=LOGPROBS), "prompt_token_ids": [1, 2]}
        completed = read_completion(chat, {}, "x")
        assert completed.tokens is not None
        output = completed.response["output"]
        output[-1].update(completed.tokens.fields())
        assert chat_messages(output) == [{"role": "assistant", "content": "a"}]


PARTS = st.one_of(
    st.builds(lambda text: {"type": "input_text", "text": text}, TEXT),
    st.sampled_from(
        [
            {"type": "input_image", "image_url": "data:image/png;base64,aGk=", "detail": "low"},
            {"type": "input_image", "image_url": "https://example.org/a.png"},
            {"type": "input_video", "video_url": "https://example.org/a.mp4"},
        ]
    ),
)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Items as a chat can say them: reasoning, text, calls in this order; lone text parts as strings."""
    items: list[dict[str, Any]] = []
    if system := draw(st.none() | TEXT):
        items.append({"role": "system", "content": system})
    items.append({"role": "user", "content": draw(TEXT | st.lists(PARTS, min_size=2, max_size=3))})
    for turn in range(draw(st.integers(0, 3))):
        if thought := draw(st.none() | TEXT):
            summary = [{"type": "summary_text", "text": thought}]
            items.append({"type": "reasoning", "summary": summary})
        calls = draw(st.lists(st.sampled_from(["add", "look_up"]), max_size=3))
        if (text := draw(st.none() | TEXT)) or not calls:
            part = {"type": "output_text", "text": text or "so", "annotations": []}
            items.append({"type": "message", "role": "assistant", "status": "completed", "content": [part]})
        ids = [f"c{turn}_{index}" for index in range(len(calls))]
        for call_id, name in zip(ids, calls, strict=True):
            call = {"type": "function_call", "call_id": call_id, "name": name, "arguments": draw(TEXT)}
            items.append({**call, "status": "completed"})
        items += [{"type": "function_call_output", "call_id": call_id, "output": draw(TEXT)} for call_id in ids]
        if not calls or draw(st.booleans()):
            items.append({"role": "user", "content": draw(TEXT)})
    return items


def without_ids(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in item.items() if name != "id"} for item in items]


@given(conversations())
def test_a_conversation_comes_back_as_it_was(items: list[dict[str, Any]]) -> None:
    messages = chat_messages(items)
    back = response_items(messages)
    assert without_ids(back) == items
    assert chat_messages(back) == messages


@pytest.mark.parametrize(
    "message",
    [{}, {"role": "wizard", "content": "q"}, {"role": "user"}, {"role": "user", "content": [{"type": "file"}]}, "q"],
)
def test_what_responses_has_no_words_for(message: Any) -> None:
    with pytest.raises(RequestUnsupported):
        response_items([message])
