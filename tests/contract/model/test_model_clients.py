"""What every ModelClient does, whatever makes the text: an endpoint over HTTP, or an engine in process."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from kubegym.core.clock import Deadline
from kubegym.core.errors import ModelError
from kubegym.core.messages import is_assistant_message, item_text, tool_calls, tool_output
from kubegym.core.outcomes import STOP_REASONS
from kubegym.core.protocols import CallContext, ModelClient
from kubegym.model.client import ChatClient
from kubegym.model.engine_client import EngineClient
from kubegym.model.errors import ModelTimeout, RequestUnsupported
from kubegym.model.simulated import Answers, Distribution, SimulatedConfig, SimulatedEngine, serve_simulated
from testbed.required import unavailable

pytestmark = pytest.mark.contract

QUESTION = {"role": "user", "content": "What is 12 + 30?"}
TOOL = {
    "type": "function",
    "name": "add",
    "description": "Add two integers.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
    "strict": True,
}
SIMULATED = SimulatedConfig(
    model="policy",
    context_window=512,
    latency=Distribution.constant(0.005),
    answers=Answers(text="The answer is 42."),
)


@pytest.fixture(params=["endpoint", "simulated", "embedded"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[ModelClient]:
    if request.param == "endpoint":
        server = await serve_simulated(SIMULATED)
        over_http = ChatClient(server.url, "policy")
        yield over_http
        await over_http.close()
        await server.close()
        return
    if request.param == "simulated":
        in_process = EngineClient(SimulatedEngine(SIMULATED))
    else:
        try:
            import xllamacpp  # noqa: F401
        except ImportError:
            unavailable("the embedded engine needs xllamacpp")
        from kubegym.model.embedded import EmbeddedEngine

        in_process = EngineClient(EmbeddedEngine(slots=4))
    yield in_process
    await in_process.close()


def call(seconds: float = 60.0, seed: int | None = None) -> CallContext:
    return CallContext("1a2b3c4d-0-0", Deadline(seconds), seed)


async def test_the_reply_is_a_responses_object(client: ModelClient) -> None:
    request = {"input": [QUESTION], "max_output_tokens": 64, "temperature": 0.0, "metadata": {"note": "kept"}}
    before = copy.deepcopy(request)
    reply = await client.respond(request, call(seed=1))
    assert request == before
    response = reply.response
    assert response["object"] == "response"
    assert response["id"].startswith("resp_")
    assert response["status"] == "completed"
    assert response["incomplete_details"] is None
    assert isinstance(response["created_at"], int)
    assert response["model"] == client.model
    assert (response["tools"], response["tool_choice"], response["parallel_tool_calls"]) == ([], "auto", True)
    assert (response["temperature"], response["metadata"]) == (0.0, {"note": "kept"})
    assert [is_assistant_message(item) for item in response["output"]] == [True]
    assert item_text(response["output"][0])
    usage = response["usage"]
    assert usage["input_tokens"] > 0
    assert usage["output_tokens"] > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert set(usage["input_tokens_details"]) == {"cached_tokens"}
    assert set(usage["output_tokens_details"]) == {"reasoning_tokens"}
    assert reply.stop is None
    assert reply.seconds >= 0
    assert reply.waited == 0
    orjson.dumps(response)


async def test_a_string_is_one_user_message(client: ModelClient) -> None:
    first = await client.respond({"input": QUESTION["content"], "temperature": 0.0}, call(seed=1))
    second = await client.respond({"input": [QUESTION], "temperature": 0.0}, call(seed=1))
    assert item_text(first.response["output"][0]) == item_text(second.response["output"][0])


async def test_null_and_absent_are_alike(client: ModelClient) -> None:
    names = ("instructions", "max_output_tokens", "metadata", "reasoning", "temperature", "text", "top_p", "user")
    reply = await client.respond({"input": [QUESTION], "tools": [], **dict.fromkeys(names)}, call())
    assert reply.response["status"] == "completed"


async def test_the_limit_cuts(client: ModelClient) -> None:
    reply = await client.respond({"input": [QUESTION], "max_output_tokens": 1}, call())
    assert reply.stop == "max_output_tokens"
    assert reply.response["status"] == "incomplete"
    assert reply.response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert reply.response["usage"]["output_tokens"] == 1


async def test_a_conversation_that_does_not_fit_is_an_empty_reply(client: ModelClient) -> None:
    long = {"role": "user", "content": "7 + " * 4000}
    reply = await client.respond({"input": [long], "max_output_tokens": 16}, call())
    assert reply.stop == "context_window"
    assert reply.stop in STOP_REASONS
    assert reply.response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item_text(item) for item in reply.response["output"]] == [""]


async def test_a_tool_loop(client: ModelClient) -> None:
    """Every call made can be answered, and the conversation goes on until there is text."""
    items: list[dict[str, Any]] = [QUESTION]
    for _ in range(4):
        request = {"input": items, "tools": [TOOL], "max_output_tokens": 64, "temperature": 0.0}
        output = (await client.respond(request, call(seed=1))).response["output"]
        items = [*items, *output]
        calls = tool_calls(output)
        if not calls:
            break
        for made in calls:
            assert made.name == "add"
            assert set(orjson.loads(made.arguments)) == {"a", "b"}
            items = [*items, tool_output(made.call_id, "42")]
    assert any(item.get("type") == "function_call" for item in items)
    assert is_assistant_message(items[-1])


async def test_many_at_once(client: ModelClient) -> None:
    replies = await asyncio.gather(
        *(client.respond({"input": [QUESTION], "max_output_tokens": 16}, call()) for _ in range(64))
    )
    assert len({reply.response["id"] for reply in replies}) == 64


async def test_what_cannot_be_asked(client: ModelClient) -> None:
    for request in ({}, {"input": [{"type": "mcp_call"}]}, {"input": [QUESTION], "tools": [{"type": "web_search"}]}):
        with pytest.raises(RequestUnsupported) as caught:
            await client.respond(request, call())
        assert not caught.value.retryable


async def test_no_time_left(client: ModelClient) -> None:
    with pytest.raises(ModelTimeout) as caught:
        await client.respond({"input": [QUESTION]}, call(0.0))
    assert isinstance(caught.value, ModelError)
    assert caught.value.retryable


async def test_a_cancelled_call_harms_no_other(client: ModelClient) -> None:
    request = {"input": [QUESTION], "max_output_tokens": 32}
    task = asyncio.ensure_future(client.respond(request, call()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await client.respond(request, call())).response["output"]


async def test_close_may_come_twice(client: ModelClient) -> None:
    await client.respond({"input": [QUESTION], "max_output_tokens": 8}, call())
    await client.close()
    await client.close()
    with pytest.raises(ModelError):
        await client.respond({"input": [QUESTION]}, call(1.0))
