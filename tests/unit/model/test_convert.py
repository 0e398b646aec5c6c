from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym.core.messages import is_assistant_message, item_text, tool_calls
from kubegym.model.convert import (
    chat_messages,
    chat_request,
    overflow_completion,
    read_completion,
    split_thoughts,
)
from kubegym.model.errors import ModelAborted, ModelReplyInvalid, RequestUnsupported

pytestmark = pytest.mark.unit

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=12)
NAMES = st.sampled_from(["add", "look_up"])


def reply(message: dict[str, Any], finish: Any = "stop") -> dict[str, Any]:
    return {"created": 1, "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def call_item(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


@st.composite
def model_outputs(draw: st.DrawFn) -> dict[str, Any]:
    """What one model call may put out, as a chat message."""
    calls = draw(st.lists(st.tuples(NAMES, TEXT), max_size=3))
    message: dict[str, Any] = {"role": "assistant", "content": draw(st.none() | TEXT)}
    if thought := draw(st.none() | TEXT):
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = [
            {"id": f"c{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for index, (name, arguments) in enumerate(calls)
        ]
    return message


class TestRoundTrip:
    @given(model_outputs())
    def test_what_the_model_said_goes_back_as_it_said_it(self, message: dict[str, Any]) -> None:
        output = read_completion(reply(message), {}, "x").response["output"]
        (back,) = chat_messages([{"role": "user", "content": "q"}, *output])[1:]
        assert back["content"] == (message["content"] or "")
        assert back.get("tool_calls") == message.get("tool_calls")
        assert back.get("reasoning_content") == message.get("reasoning_content")

    @given(model_outputs())
    def test_an_output_is_never_empty_and_every_item_has_a_type(self, message: dict[str, Any]) -> None:
        output = read_completion(reply(message), {}, "x").response["output"]
        assert output
        assert all(item["type"] in ("message", "reasoning", "function_call") for item in output)
        assert len({item["id"] for item in output}) == len(output)

    @given(st.lists(model_outputs(), max_size=4), st.booleans())
    def test_a_whole_history_alternates_as_templates_want(self, outputs: list[dict[str, Any]], string: bool) -> None:
        """Each model call is one assistant message; every tool message follows the message that called."""
        items: list[dict[str, Any]] = [{"role": "user", "content": "q"}]
        for message in outputs:
            items += read_completion(reply(message), {}, "x").response["output"]
            for call in tool_calls(items[-3:]):
                items.append({"type": "function_call_output", "call_id": call.call_id, "output": "out"})
            items.append({"role": "user", "content": "next" if string else [{"type": "input_text", "text": "next"}]})
        unchanged = copy.deepcopy(items)
        messages = chat_messages(items)
        assert items == unchanged
        assert sum(message["role"] == "assistant" for message in messages) == len(outputs)
        for before, after in pairwise(messages):
            if after["role"] == "tool":
                assert before["role"] == "tool" or before.get("tool_calls")

    @given(TEXT, TEXT)
    def test_think_tags_keep_every_character(self, thought: str, rest: str) -> None:
        assert split_thoughts(f"<think>{thought}</think>{rest}") == (thought, rest)
        output = read_completion(reply({"content": f"<think>{thought}</think>{rest}"}), {}, "x").response["output"]
        (message,) = chat_messages(output, reasoning="tags")
        assert message["content"] == (f"<think>{thought}</think>{rest}" if thought else rest)


class TestRequest:
    def test_no_tools_no_tool_fields(self) -> None:
        params = {"input": "q", "tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
        assert chat_request(params, "m") == {"model": "m", "messages": [{"role": "user", "content": "q"}]}

    def test_no_calls_no_tool_calls_key(self) -> None:
        assert "tool_calls" not in chat_messages([{"role": "assistant", "content": "a"}])[0]

    def test_text_after_a_call_joins_its_message(self) -> None:
        """Else a message without calls would stand between a call and its output."""
        items = [
            call_item("c", "f", "{}"),
            {"role": "assistant", "content": "calling"},
            {"type": "function_call_output", "call_id": "c", "output": "o"},
        ]
        assert [message["role"] for message in chat_messages(items)] == ["assistant", "tool"]

    def test_reasoning_can_be_left_out(self) -> None:
        items = [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"role": "assistant", "content": "a"},
        ]
        assert chat_messages(items, reasoning="drop") == [{"role": "assistant", "content": "a"}]

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({}, "no input"),
            ({"input": "q", "tool_choice": "required"}, "no tools"),
            ({"input": "q", "tools": [], "tool_choice": {"type": "function", "name": "f"}}, "no tools"),
            ({"input": "q", "tools": [{"type": "web_search"}]}, "web_search"),
            ({"input": "q", "tools": [{"type": "function"}]}, "name"),
            ({"input": "q", "tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "mcp"}}, "mcp"),
            ({"input": [{"type": "mcp_call"}]}, "mcp_call"),
            ({"input": [{"role": "user", "content": "q"}, {"type": "function_call", "name": "f"}]}, "item 1"),
            ({"input": ["q"]}, "item 0"),
            ({"input": [{"role": "user"}]}, "item 0"),
            ({"input": [{"role": "wizard", "content": "q"}]}, "wizard"),
            ({"input": [{"role": "user", "content": [{"type": "input_file"}, {"type": "input_text"}]}]}, "input_file"),
            ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "image_url"),
            ({"input": "q", "metadata": {"extra_body": "{"}}, "metadata.extra_body"),
            ({"input": "q", "metadata": {"chat_template_kwargs": "[1]"}}, "metadata.chat_template_kwargs"),
            ({"input": "q", "metadata": {"extra_body": {"a": 1}}}, "metadata.extra_body"),
            ({"input": "q", "text": {"format": {"type": "grammar"}}}, "grammar"),
        ],
    )
    def test_what_chat_has_no_words_for(self, params: dict[str, Any], message: str) -> None:
        with pytest.raises(RequestUnsupported, match=message) as caught:
            chat_request(params, "m")
        assert not caught.value.retryable


class TestReply:
    @pytest.mark.parametrize(
        ("content", "thought", "text"),
        [
            ("plain", "", "plain"),
            ("a < b", "", "a < b"),
            ("opened by the template</think>answer", "opened by the template", "answer"),
            ("<think>cut off", "cut off", ""),
            ("  <think>cut off", "cut off", "  "),
            ("see <think> in the text", "", "see <think> in the text"),
            ("<think>a</think>b<think>c</think>d", "a\nc", "bd"),
            ("<think>a</think>b <think> open", "a", "b <think> open"),
            ("<think></think>b", "", "b"),
        ],
    )
    def test_think_tags(self, content: str, thought: str, text: str) -> None:
        assert split_thoughts(content) == (thought, text)

    def test_a_parsers_reasoning_and_tags_together(self) -> None:
        message = {"reasoning_content": "one", "content": "<think>two</think>answer"}
        output = read_completion(reply(message), {}, "x").response["output"]
        assert output[0]["summary"][0]["text"] == "one\ntwo"
        assert item_text(output[1]) == "answer"

    @pytest.mark.parametrize("finish", ["abort", "error"])
    def test_what_the_engine_gave_up_is_never_a_sample(self, finish: str) -> None:
        with pytest.raises(ModelAborted) as caught:
            read_completion(reply({"content": "half an ans"}, finish), {}, "x")
        assert caught.value.retryable

    @pytest.mark.parametrize(
        ("finish", "stop"),
        [
            *(("stop", None), ("tool_calls", None), (None, None)),
            *(("length", "max_output_tokens"), ("content_filter", "content_filter")),
        ],
    )
    def test_finish_reasons(self, finish: str | None, stop: str | None) -> None:
        completion = read_completion(reply({"content": "a"}, finish), {}, "x")
        assert completion.stop == stop
        assert completion.response["incomplete_details"] == ({"reason": stop} if stop else None)
        assert completion.response["status"] == ("incomplete" if stop else "completed")

    @pytest.mark.parametrize(
        "chat",
        [
            *(None, [], "text", 3, {}, {"choices": []}, {"choices": None}, {"choices": {}}, {"choices": ["x"]}),
            {"choices": [{}]},
            {"choices": [{"message": None}]},
            {"choices": [{"message": "text"}]},
            {"choices": [{"message": {"content": 3}}]},
            {"choices": [{"message": {"reasoning_content": ["x"]}}]},
            {"choices": [{"message": {"tool_calls": [{"function": {"arguments": "{}"}}]}}]},
            {"choices": [{"message": {"tool_calls": [{"function": {"name": 3}}]}}]},
            {"choices": [{"message": {"tool_calls": ["f"]}}]},
            {"choices": [{"message": {"content": "a"}, "finish_reason": []}]},
            {"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": "many"}},
            {"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens_details": "many"}},
            {"error": {"message": "no"}},
        ],
    )
    def test_garbage(self, chat: Any) -> None:
        with pytest.raises(ModelReplyInvalid) as caught:
            read_completion(chat, {}, "x")
        assert not caught.value.retryable

    def test_content_in_parts(self) -> None:
        message = {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
        assert item_text(read_completion(reply(message), {}, "x").response["output"][0]) == "ab"

    def test_a_conversation_too_long_is_an_empty_reply(self) -> None:
        completion = overflow_completion({"input": "q"}, "m", "x", 7)
        assert completion.stop == "context_window"
        assert completion.response["incomplete_details"] == {"reason": "max_output_tokens"}
        (item,) = completion.response["output"]
        assert is_assistant_message(item)
        assert item_text(item) == ""


def test_images_of_tool_outputs_follow_the_last_of_them_as_a_user_s() -> None:
    def shown(call: str, *parts: dict[str, Any]) -> dict[str, Any]:
        return {"type": "function_call_output", "call_id": call, "output": list(parts)}

    text, first = {"type": "input_text", "text": "here"}, {"type": "input_image", "image_url": "data:image/png,1"}
    second = {"type": "input_image", "image_url": "data:image/png,2", "detail": "low"}
    calls = [{"type": "function_call", "name": "look", "arguments": "{}", "call_id": name} for name in "ab"]
    messages = chat_messages([*calls, shown("a", text, first), shown("b", second), {"role": "user", "content": "?"}])
    assert messages[1:] == [
        {"role": "tool", "tool_call_id": "a", "content": "here"},
        {"role": "tool", "tool_call_id": "b", "content": "(The image follows.)"},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png,1"}},
                {"type": "image_url", "image_url": {"url": "data:image/png,2", "detail": "low"}},
            ],
        },
        {"role": "user", "content": "?"},
    ]
    assert chat_messages([calls[0], shown("a", first)])[-1]["role"] == "user"
