"""The model server over real sockets, before a simulated endpoint and before engines in process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kubegym.model.engine_client import EngineClient
from kubegym.model.simulated import Answers, SimulatedConfig, SimulatedEngine, serve_simulated
from testbed.models import Caller, calling, events

pytestmark = pytest.mark.contract

CONFIG = SimulatedConfig(
    model="policy", context_window=64, policy_version=7, answers=Answers(text="The answer is 42."), tool_probability=1.0
)
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
CHAT_TOOL = {"type": "function", "function": {"name": "add", "parameters": TOOL["parameters"]}}
LONG = "word " * 2000


@pytest.fixture(params=["endpoint", "engine"])
async def model(request: pytest.FixtureRequest) -> AsyncIterator[Caller]:
    if request.param == "engine":
        async with calling([EngineClient(SimulatedEngine(CONFIG))]) as caller:
            yield caller
        return
    server = await serve_simulated(CONFIG)
    async with calling([server.url]) as caller:
        yield caller
    await server.close()


def ask(content: str = "q", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **fields}


class TestResponses:
    async def test_an_answer(self, model: Caller) -> None:
        reply = await model.post("/v1/responses", {"input": "q", "temperature": 0.5, "metadata": {"a": "b"}})
        response = json.loads(reply.body)
        assert reply.status == 200
        assert response["object"] == "response"
        assert response["output"][0]["content"][0]["text"] == "The answer is 42."
        assert (response["temperature"], response["metadata"]) == (0.5, {"a": "b"})
        assert response["usage"]["output_tokens"] > 0

    async def test_a_tool_call_and_its_output(self, model: Caller) -> None:
        items: list[dict[str, Any]] = [{"role": "user", "content": "q"}]
        first = json.loads((await model.post("/v1/responses", {"input": items, "tools": [TOOL]})).body)
        call = first["output"][-1]
        assert (call["type"], call["name"]) == ("function_call", "add")
        call |= {"prompt_token_ids": [1], "generation_token_ids": [2], "generation_log_probs": [-0.5]}
        items += [*first["output"], {"type": "function_call_output", "call_id": call["call_id"], "output": "3"}]
        second = json.loads((await model.post("/v1/responses", {"input": items, "tools": [TOOL]})).body)
        assert second["output"][0]["type"] == "message"

    @pytest.mark.parametrize(
        "body",
        [{"input": "q", "n": 2}, {}, {"input": 3}, {"input": [{"type": "mcp_call"}]}, {"input": "q", "tools": [{}]}],
    )
    async def test_what_is_wrong_is_422(self, model: Caller, body: dict[str, Any]) -> None:
        reply = await model.post("/v1/responses", body)
        assert reply.status == 422
        assert json.loads(reply.body)["detail"]

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff"])
    async def test_malformed_bodies(self, model: Caller, body: bytes) -> None:
        for path in ("/v1/responses", "/v1/chat/completions", "/v1/messages"):
            assert (await model.post(path, body)).status == 422

    async def test_a_conversation_that_does_not_fit_is_an_empty_reply(self, model: Caller) -> None:
        reply = await model.post("/v1/responses", {"input": LONG})
        response = json.loads(reply.body)
        assert reply.status == 200
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert response["output"][0]["content"][0]["text"] == ""
        assert reply.header(b"x-kubegym-stop") == b"context_window"

    async def test_streamed(self, model: Caller) -> None:
        """A harness' stream: unknown fields are dropped, the reply is replayed as events."""
        body = {"input": "q", "stream": True, "prompt_cache_key": "k"}
        reply = await model.post("/ng-rollout/task-0/v1/responses", body)
        assert (reply.header(b"content-type") or b"").startswith(b"text/event-stream")
        told = events(reply.body)
        assert [event["type"] for event in told] == [
            "response.created",
            "response.output_item.done",
            "response.completed",
        ]
        assert told[1]["item"] == told[2]["response"]["output"][0]
        assert [event["sequence_number"] for event in told] == [0, 1, 2]

    async def test_streamed_with_a_namespace(self, model: Caller) -> None:
        space = {"type": "namespace", "name": "math", "tools": [TOOL]}
        reply = await model.post("/v1/responses", {"input": "q", "stream": True, "tools": [space]})
        call = events(reply.body)[-1]["response"]["output"][-1]
        assert (call["namespace"], call["name"]) == ("math", "add")


class TestChat:
    async def test_an_answer(self, model: Caller) -> None:
        reply = await model.post("/v1/chat/completions", ask(model="any name"))
        assert reply.status == 200
        assert json.loads(reply.body)["choices"][0]["message"]["content"] == "The answer is 42."

    @pytest.mark.parametrize("usage", [False, True])
    async def test_streamed(self, model: Caller, usage: bool) -> None:
        reply = await model.post(
            "/v1/chat/completions", ask(stream=True, stream_options={"include_usage": usage}, model="policy")
        )
        assert reply.body.endswith(b"data: [DONE]\n\n")
        told = events(reply.body)
        deltas = [choice["delta"] for event in told for choice in event["choices"]]
        assert deltas[0]["role"] == "assistant"
        assert "".join(delta.get("content") or "" for delta in deltas) == "The answer is 42."
        finishes = [choice["finish_reason"] for event in told for choice in event["choices"]]
        assert finishes[-1] == "stop"
        assert [event for event in told if event.get("usage")] == ([told[-1]] if usage else [])

    async def test_streamed_tool_calls(self, model: Caller) -> None:
        reply = await model.post("/v1/chat/completions", ask(stream=True, tools=[CHAT_TOOL]))
        calls = [
            call for event in events(reply.body) for c in event["choices"] for call in c["delta"].get("tool_calls", [])
        ]
        assert [call["function"]["name"] for call in calls] == ["add"]

    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_conversation_that_does_not_fit_is_an_empty_completion(self, model: Caller, stream: bool) -> None:
        reply = await model.post("/v1/chat/completions", ask(LONG, stream=stream))
        assert reply.status == 200
        choice = events(reply.body)[-1]["choices"][0] if stream else json.loads(reply.body)["choices"][0]
        assert choice["finish_reason"] == "length"

    @pytest.mark.parametrize("body", [{}, {"messages": "q"}, {"messages": None}])
    async def test_no_messages(self, model: Caller, body: dict[str, Any]) -> None:
        assert (await model.post("/v1/chat/completions", body)).status == 422


class TestMessages:
    async def test_an_answer(self, model: Caller) -> None:
        reply = await model.post("/v1/messages", ask(max_tokens=50, system="be brief"))
        message = json.loads(reply.body)
        assert (message["type"], message["role"], message["stop_reason"]) == ("message", "assistant", "end_turn")
        assert message["content"] == [{"type": "text", "text": "The answer is 42."}]

    async def test_streamed(self, model: Caller) -> None:
        tool = {"name": "add", "input_schema": TOOL["parameters"]}
        reply = await model.post("/v1/messages", ask(max_tokens=50, stream=True, tools=[tool]))
        told = events(reply.body)
        assert told[0]["type"] == "message_start"
        assert [event["type"] for event in told[-2:]] == ["message_delta", "message_stop"]
        assert told[-2]["delta"]["stop_reason"] == "tool_use"
        started = next(event["content_block"] for event in told if event["type"] == "content_block_start")
        assert (started["type"], started["name"], started["input"]) == ("tool_use", "add", {})
        deltas = [event["delta"] for event in told if event["type"] == "content_block_delta"]
        assert isinstance(json.loads("".join(delta["partial_json"] for delta in deltas)), dict)

    async def test_an_unknown_block_is_a_clear_422(self, model: Caller) -> None:
        body = {"max_tokens": 5, "messages": [{"role": "user", "content": [{"type": "document"}]}]}
        reply = await model.post("/v1/messages", body)
        told = json.loads(reply.body)
        assert reply.status == 422
        assert (told["type"], told["error"]["type"]) == ("error", "invalid_request_error")
        assert "messages.0.content.0" in told["error"]["message"]

    async def test_a_conversation_that_does_not_fit(self, model: Caller) -> None:
        message = json.loads((await model.post("/v1/messages", ask(LONG, max_tokens=5))).body)
        assert message["stop_reason"] == "model_context_window_exceeded"


class TestAround:
    async def test_models(self, model: Caller) -> None:
        listed = json.loads((await model.get("/v1/models")).body)
        assert [entry["id"] for entry in listed["data"]] == ["policy"]

    async def test_the_context_window_of_the_engine(self) -> None:
        server = await serve_simulated(CONFIG)
        try:
            for upstream in (server.url, EngineClient(SimulatedEngine(CONFIG))):
                async with calling([upstream], probe=True) as model:
                    async with asyncio.timeout(120):
                        while (reply := await model.get("/v1/models")).status == 503:  # noqa: ASYNC110
                            await asyncio.sleep(0.05)
                assert json.loads(reply.body)["data"][0]["max_model_len"] == 64
        finally:
            await server.close()

    async def test_the_models_of_an_engine_that_has_not_told_them(self) -> None:
        async with calling(["http://127.0.0.1:9"], probe=True) as model:
            reply = await model.get("/v1/models")
        assert (reply.status, reply.header(b"retry-after")) == (503, b"1")

    async def test_ready_documented_and_counted(self, model: Caller) -> None:
        assert (await model.get("/readyz")).status == 200
        paths = json.loads((await model.get("/openapi.json")).body)["paths"]
        assert {"/v1/responses", "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/models"} <= set(paths)
        assert {"/tokenize", "/version"} <= set(paths)
        assert not any("rpc" in path or "weights" in path for path in paths)
        await model.post("/v1/responses", {"input": "q"})
        await model.post("/v1/responses", {"input": "q", "n": 1})
        await model.post("/v1/chat/completions", ask(stream=True))
        metrics = await model.metrics()
        assert 'kubegym_model_server_requests_total{route="/v1/responses",status="200"} 1.0' in metrics
        assert 'kubegym_model_server_requests_total{route="/v1/responses",status="422"} 1.0' in metrics
        assert 'kubegym_model_server_requests_total{route="/v1/chat/completions",status="200"} 1.0' in metrics
        assert "kubegym_model_server_in_flight 0.0" in metrics

    async def test_the_policy_version_is_told(self) -> None:
        server = await serve_simulated(CONFIG)
        async with calling([server.url]) as model:
            for path, body in (
                ("/v1/responses", {"input": "q"}),
                ("/v1/chat/completions", ask()),
                ("/v1/chat/completions", ask(stream=True)),
                ("/v1/messages", ask(max_tokens=5)),
            ):
                assert (await model.post(path, body)).header(b"x-kubegym-policy-version") == b"7"
        await server.close()

    @pytest.mark.parametrize("seconds", ["soon", "-1", "inf", "nan"])
    async def test_a_deadline_that_is_none(self, model: Caller, seconds: str) -> None:
        reply = await model.post("/v1/responses", {"input": "q"}, f"x-kubegym-deadline: {seconds}\r\n")
        assert reply.status == 422

    async def test_a_body_of_ten_megabytes(self) -> None:
        server = await serve_simulated(SimulatedConfig(model="policy"))
        async with calling([server.url]) as model:
            image = "data:image/png;base64," + "A" * (10 << 20)
            part = {"type": "input_image", "image_url": image}
            reply = await model.post("/v1/responses", {"input": [{"role": "user", "content": [part]}]})
            assert reply.status == 200
        await server.close()

    async def test_a_thousand_connections_at_once(self) -> None:
        server = await serve_simulated(SimulatedConfig(model="policy", answers=Answers(function=_last_words)))
        async with calling([server.url]) as model:
            replies = await asyncio.gather(
                *(
                    model.post(f"/ng-rollout/r-{n}/v1/responses", {"input": f"word{n}"}, timeout=120)
                    for n in range(1024)
                )
            )
            texts = [json.loads(reply.body)["output"][0]["content"][0]["text"] for reply in replies]
            assert texts == [f"word{n}" for n in range(1024)]
            assert model.http.opened >= 1000
        await server.close()


def _last_words(body: dict[str, Any]) -> str:
    text: str = body["messages"][-1]["content"]
    return text


class TestMetrics:
    async def test_an_engine_beside_it_tells_its_own_through_it(self) -> None:
        server = await serve_simulated(CONFIG)
        async with calling([server.url]) as caller:
            await caller.post("/v1/responses", {"input": "q"})
            said = (await caller.get("/metrics")).body.decode()
            assert 'kubegym_model_server_requests_total{route="/v1/responses",status="200"} 1.0' in said
            assert 'vllm:request_success_total{engine="0",model_name="policy",finished_reason="stop"} ' in said
            await server.close()
            said = (await caller.get("/metrics")).body.decode()
        assert "kubegym_model_server_requests_total" in said
        assert "vllm:" not in said

    async def test_of_several_it_tells_each_and_the_sum(self) -> None:
        servers = [await serve_simulated(CONFIG), await serve_simulated(CONFIG)]
        async with calling([server.url for server in servers]) as caller:
            for number in range(4):
                await caller.post(f"/ng-rollout/r-{number}/v1/responses", {"input": "q"})
            said = (await caller.get("/metrics")).body.decode()
            summed = (await caller.get("/metrics?engines=sum")).body.decode()
            name, labels = "vllm:request_success_total", 'engine="0",model_name="policy",finished_reason="stop"'
            for server in servers:
                assert f'{name}{{replica="127.0.0.1:{server.port}",{labels}}} 2' in said
            assert f"{name}{{{labels}}} 4" in summed
            for text in (said, summed):
                families = {family.name for family in text_string_to_metric_families(text)}
                assert {"vllm:request_success", "vllm:kv_cache_usage_perc", "kubegym_model_upstream_up"} <= families
                assert text.count("# TYPE vllm:request_success_total counter") == 1
            await servers[0].close()
            assert f'replica="127.0.0.1:{servers[0].port}"' not in (await caller.get("/metrics")).body.decode()
        await servers[1].close()
