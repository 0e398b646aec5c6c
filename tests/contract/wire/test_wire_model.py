"""The model server's part of the contract (1.4)."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.wire_client import Answer, Target, events
from testbed.wire_targets import script

pytestmark = pytest.mark.contract

TOOLS = [
    {
        "type": "function",
        "name": "increment_counter",
        "description": "Increase the counter.",
        "strict": True,
        "parameters": {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]},
    }
]
CALL = script([["increment_counter", {"count": 1}], ["increment_counter", {"count": 2}]], "three")
KNOWN: dict[str, Any] = {
    **{"background": False, "include": [], "instructions": "Be brief.", "max_output_tokens": 64},
    **{"max_tool_calls": 3, "metadata": {"a": "b"}, "model": "stub", "parallel_tool_calls": True},
    **{"previous_response_id": None, "prompt": None, "reasoning": None, "service_tier": None, "store": False},
    **{"temperature": 0.5, "text": None, "tool_choice": "auto", "tools": [], "top_logprobs": None, "top_p": 0.9},
    **{"truncation": "disabled", "user": "me", "stream": False},
}


def responses(server: Target, /, **params: Any) -> Answer:
    return server.wire().post("/v1/responses", {"input": "hello", **params})


def test_a_response_object(model: Target) -> None:
    reply = responses(model, instructions="Be brief.")
    assert reply.status == 200
    response = reply.json()
    assert response["object"] == "response"
    assert {"id", "created_at", "model", "output", "parallel_tool_calls", "tool_choice", "tools"} <= response.keys()
    (message,) = response["output"]
    assert (message["type"], message["role"], message["status"]) == ("message", "assistant", "completed")
    assert message["content"][0]["text"] == "four"
    usage = response["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0
    assert {"input_tokens_details", "output_tokens_details"} <= usage.keys()


def test_every_param_of_the_contract_is_taken(model: Target) -> None:
    assert responses(model, **KNOWN).status == 200


def test_null_and_absent_are_alike(model: Target) -> None:
    # NeMo Gym's agents dump with unset left out to model servers, but rows may say null.
    nullable = [name for name in KNOWN if name not in ("tool_choice", "tools", "parallel_tool_calls")]
    assert responses(model, **dict.fromkeys(nullable)).status == 200


@pytest.mark.parametrize(
    "params",
    [
        {"unheard_of": 1},
        {"temperature": "hot"},
        {"input": 4},
        {"input": None},
        {"tools": {"type": "function"}},
        {"metadata": {"a": 1}},
        {"max_output_tokens": "many"},
    ],
    ids=lambda params: next(iter(params)),
)
def test_params_that_are_none(model: Target, params: dict[str, Any]) -> None:
    reply = responses(model, **params)
    assert reply.status == 422
    detail = reply.json()["detail"]
    assert all({"type", "loc", "msg"} <= problem.keys() for problem in detail)
    assert detail[0]["loc"][1] == next(iter(params))


def test_input_is_required(model: Target) -> None:
    assert model.wire().post("/v1/responses", {"temperature": 1.0}).status == 422


def test_calls_in_parallel_and_their_outputs(model: Target) -> None:
    first = responses(model, input=CALL, tools=TOOLS).json()
    calls = first["output"]
    assert [call["type"] for call in calls] == ["function_call", "function_call"]
    assert [call["arguments"] for call in calls] == ['{"count": 1}', '{"count": 2}']
    assert len({call["call_id"] for call in calls}) == 2
    outputs = [{"type": "function_call_output", "call_id": call["call_id"], "output": "ok"} for call in calls]
    second = responses(model, input=[{"role": "user", "content": CALL}, *calls, *outputs], tools=TOOLS).json()
    assert second["output"][0]["content"][0]["text"] == "three"


def test_reasoning_becomes_an_item(model: Target) -> None:
    said = script({"content": "four", "reasoning_content": "two and two"})
    items = responses(model, input=said).json()["output"]
    assert [item["type"] for item in items] == ["reasoning", "message"]
    assert items[0]["summary"] == [{"type": "summary_text", "text": "two and two"}]


def test_a_cut_answer_says_so(model: Target) -> None:
    response = responses(model, input=script("word " * 40), max_output_tokens=4).json()
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}


@pytest.mark.parametrize("prefix", ["/ng-rollout/7-2", "/ng-rollout/7-2-a1/training-token-capture"])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions", "/v1/messages"])
def test_rollout_prefixes(model: Target, prefix: str, path: str) -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 9, "model": "stub"}
    reply = model.wire().post(prefix + path, {"input": "hello"} if path.endswith("responses") else body)
    assert reply.status == 200


def test_a_prefix_that_is_none(model: Target) -> None:
    assert model.wire().post("/ng-rollout/-x/v1/responses", {"input": "hello"}).status == 404


def test_chat(model: Target) -> None:
    body = {"model": "stub", "messages": [{"role": "user", "content": "hello"}], "n": 1, "seed": 3, "stop": ["x"]}
    chat = model.wire().post("/v1/chat/completions", body).json()
    assert chat["object"] == "chat.completion"
    assert chat["choices"][0]["message"]["content"] == "four"
    assert chat["choices"][0]["finish_reason"] == "stop"
    assert chat["usage"]["total_tokens"] > 0


def test_messages(model: Target) -> None:
    body = {"model": "stub", "max_tokens": 64, "system": "brief", "messages": [{"role": "user", "content": "hello"}]}
    message = model.wire().post("/v1/messages", body).json()
    assert (message["type"], message["role"], message["stop_reason"]) == ("message", "assistant", "end_turn")
    assert message["content"] == [{"type": "text", "text": "four"}]
    assert message["usage"]["output_tokens"] > 0


def test_messages_with_tools(model: Target) -> None:
    tools = [{"name": "increment_counter", "description": "", "input_schema": TOOLS[0]["parameters"]}]
    asked = {"role": "user", "content": CALL}
    body: dict[str, Any] = {"model": "stub", "max_tokens": 64, "tools": tools, "messages": [asked]}
    message = model.wire().post("/v1/messages", body).json()
    assert message["stop_reason"] == "tool_use"
    assert [block["input"] for block in message["content"]] == [{"count": 1}, {"count": 2}]
    results = [{"type": "tool_result", "tool_use_id": block["id"], "content": "ok"} for block in message["content"]]
    body["messages"] += [
        {"role": "assistant", "content": message["content"]},
        {"role": "user", "content": results},
    ]
    assert model.wire().post("/v1/messages", body).json()["content"][0]["text"] == "three"


def test_models(model: Target) -> None:
    listed = model.wire().get("/v1/models").json()
    assert listed["object"] == "list"
    assert listed["data"][0]["object"] == "model"


def test_responses_as_events(model: Target) -> None:
    reply = responses(model, input=CALL, tools=TOOLS, stream=True)
    assert (reply.header("content-type") or "").startswith("text/event-stream")
    found = events(reply.body)
    assert [name for name, _ in found] == [
        "response.created",
        *["response.output_item.done"] * 2,
        "response.completed",
    ]
    assert [data["type"] for _, data in found] == [name for name, _ in found]
    assert [data["sequence_number"] for _, data in found] == list(range(len(found)))
    items = [data["item"] for _, data in found[1:-1]]
    assert found[-1][1]["response"]["output"] == items


def test_streams_take_what_harnesses_send(model: Target) -> None:
    # Unknown fields and items are dropped on the streaming path only.
    given = [{"role": "user", "content": "hello"}, {"type": "compaction_trigger_unheard_of"}]
    reply = responses(model, input=given, stream=True, unheard_of={"a": 1})
    assert events(reply.body)[-1][0] == "response.completed"


def test_chat_as_events(model: Target) -> None:
    body = {
        "model": "stub",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    found = [data for _, data in events(model.wire().post("/v1/chat/completions", body).body)]
    assert found[-1] == "[DONE]"
    chunks = found[:-1]
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]) == "four"
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert reasons == ["stop"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] > 0


def test_only_a_literal_true_streams_chat(model: Target) -> None:
    body = {"model": "stub", "messages": [{"role": "user", "content": "hello"}], "stream": False}
    assert model.wire().post("/v1/chat/completions", body).json()["object"] == "chat.completion"


def test_messages_as_events(model: Target) -> None:
    body = {"model": "stub", "max_tokens": 64, "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    found = events(model.wire().post("/v1/messages", body).body)
    assert [name for name, _ in found] == [
        *("message_start", "content_block_start", "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    assert found[2][1]["delta"] == {"type": "text_delta", "text": "four"}
    assert found[4][1]["delta"]["stop_reason"] == "end_turn"
