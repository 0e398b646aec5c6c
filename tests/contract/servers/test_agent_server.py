"""The agent server's part of the contract (1.1, 1.3, 1.7), asked over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from contract.environment import worlds
from kubegym.agent import AgentSettings
from kubegym.agent.resources_client import ResourcesClient
from kubegym.agent.server import AgentServer
from kubegym.core.errors import ModelError
from kubegym.resources import EnvironmentRuntime
from kubegym.testing import Reply, ScriptedModel
from testbed.caller import Caller, calling
from testbed.foreign_servers import COOKIE, ForeignCounter, Told, answering

WIRE = {"x-kubegym-wire": "1"}
TOOLS = [{"type": "function", "name": "increment_counter", "parameters": {"type": "object"}}]
ROW = {
    "responses_create_params": {"input": "Count.", "tools": TOOLS},
    "initial_count": 2,
    "expected_count": 7,
    "note_of_the_row": None,
    "_ng_task_index": 3,
    "_ng_rollout_index": 1,
}
PARAMS = ["body", "responses_create_params"]
CALL: Reply = {"name": "increment_counter", "arguments": {"count": 5}}
Serve = Callable[..., Any]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """``await serve(resources, replies, settings, **options)`` gives a caller of an agent before ``resources``."""
    async with AsyncExitStack() as stack:

        async def made(
            resources: Any, replies: Any, settings: AgentSettings | None = None, **options: Any
        ) -> tuple[Caller, ScriptedModel]:
            model = replies if isinstance(replies, ScriptedModel) else ScriptedModel(replies)
            client = ResourcesClient([await stack.enter_async_context(answering(resources))])
            agent = AgentServer.over(client, model, settings, **options)
            return await stack.enter_async_context(calling(agent.app())), model

        yield made


async def test_run_answers_as_a_verifier(serve: Serve) -> None:
    server = ForeignCounter()
    agent, model = await serve(server, [CALL, "seven"])
    response = await agent.post("run", ROW)
    assert response.status == 200
    reply = json.loads(response.body)
    assert reply["reward"] == 1.0
    assert reply["final_value"] == 7
    assert reply["note_of_the_row"] is None
    assert (reply["_ng_task_index"], reply["_ng_rollout_index"]) == (3, 1)
    assert reply["responses_create_params"] == ROW["responses_create_params"]
    output = reply["response"]["output"]
    assert [item["type"] for item in output] == ["function_call", "function_call_output", "message"]
    assert reply["response"]["usage"]["total_tokens"] == 4
    ours = reply["kubegym"]
    assert (ours["outcome"], ours["failure"], ours["stop_reason"]) == ("scored", None, "completed")
    assert ours["usage"]["policy"]["calls"] == 2
    assert len(ours["turns"]) == 2
    assert set(ours["timing"]) == {"queue", "model", "tool", "verify", "total"}
    assert not {"_ng_failure_class", "mask_sample"} & reply.keys()
    assert server.lost == []
    assert model.contexts[0].rollout_id == "3-1"


@pytest.mark.parametrize(
    ("path", "fields", "identity"),
    [
        ("run", {"_ng_rollout_id": "job7.x"}, "job7.x"),
        ("run", {"_ng_rollout_id": "job7", "_ng_attempt_index": 2}, "job7-a2"),
        ("run", {"_ng_rollout_id": "job7-a2", "_ng_attempt_index": 2}, "job7-a2"),
        ("run", {"_ng_attempt_index": 1}, "3-1-a1"),
        ("ng-rollout/abc-a1/run", {"_ng_attempt_index": 1}, "abc-a1"),
        ("ng-rollout/abc/training-token-capture/run", {}, "abc"),
    ],
)
async def test_rollout_ids(serve: Serve, path: str, fields: dict[str, Any], identity: str) -> None:
    server = ForeignCounter()
    agent, model = await serve(server, ["x"])
    assert (await agent.post(path, ROW | fields)).status == 200
    assert model.contexts[0].rollout_id == identity
    assert server.seen[0].body["_ng_rollout_id"] == identity


@pytest.mark.parametrize(
    ("body", "where", "kind"),
    [
        (b"{", ["body"], "json_invalid"),
        (b"[]", ["body"], "dict_type"),
        ({"question": 1}, PARAMS, "missing"),
        ({"responses_create_params": None}, PARAMS, "model_attributes_type"),
        (
            {"responses_create_params": {"input": "x", "n": 2}},
            ["body", "responses_create_params", "n"],
            "extra_forbidden",
        ),
        ({"responses_create_params": {"input": 3}}, ["body", "responses_create_params", "input"], "list_type"),
        ({"responses_create_params": {"input": ["x"]}}, ["body", "responses_create_params", "input"], "dict_type"),
        (ROW | {"_ng_task_index": -1}, ["body", "_ng_task_index"], "int_type"),
        (ROW | {"_ng_rollout_id": "../x"}, ["body", "_ng_rollout_id"], "value_error"),
        (ROW | {"kubegym": {"max_steps": "3"}}, ["body", "kubegym", "max_steps"], "value_error"),
    ],
)
async def test_rows_that_are_refused(serve: Serve, body: Any, where: list[str], kind: str) -> None:
    server = ForeignCounter()
    agent, model = await serve(server, ["x"])
    response = await agent.post("run", body)
    assert response.status == 422
    (detail,) = json.loads(response.body)["detail"]
    assert (detail["loc"], detail["type"]) == (where, kind)
    assert set(detail) == {"type", "loc", "msg", "input"}
    assert server.seen == []
    assert model.requests == []


async def test_unknown_fields_at_the_top_are_the_environment_s(serve: Serve) -> None:
    server = ForeignCounter()
    agent, _ = await serve(server, ["x"])
    await agent.post("run", ROW | {"deep": {"x": [1, None]}})
    assert server.seen[0].body["deep"] == {"x": [1, None]}


async def test_a_failure_in_their_words_and_in_ours(serve: Serve) -> None:
    trouble = ModelError("the endpoint is away", reason="ModelUnavailable", retryable=True)
    agent, _ = await serve(ForeignCounter(), [trouble, trouble])
    theirs = json.loads((await agent.post("run", ROW)).body)
    assert (theirs["reward"], theirs["_ng_failure_class"], theirs["mask_sample"]) == (0.0, "model_error", True)
    assert "_ng_failure_terminal" not in theirs
    assert theirs["response"]["output"] == []
    ours = json.loads((await agent.post("run", ROW, WIRE)).body)
    assert (ours["reward"], ours["response"]) == (None, None)
    assert ours["kubegym"]["outcome"] == "failed"
    assert ours["kubegym"]["failure"] == {
        "stage": "model",
        "reason": "ModelUnavailable",
        "message": "the endpoint is away",
        "retryable": True,
        "attempt": 0,
    }


async def test_a_failed_judge_is_no_zero(serve: Serve) -> None:
    server = ForeignCounter()
    server.verify = lambda seen, value: Told({**seen.body, "reward": 0.0, "_ng_failure_class": "judge_failed"})
    agent, _ = await serve(server, ["x", "x"])
    theirs = json.loads((await agent.post("run", ROW)).body)
    assert (theirs["reward"], theirs["_ng_failure_class"]) == (0.0, "judge_failed")
    ours = json.loads((await agent.post("run", ROW, WIRE)).body)
    assert (ours["reward"], ours["kubegym"]["failure"]["stage"]) == (None, "judge")


@pytest.mark.parametrize(("headers", "reward"), [({}, 0.25), (WIRE, None)])
async def test_verification_may_be_skipped(serve: Serve, headers: dict[str, str], reward: float | None) -> None:
    server = ForeignCounter()
    agent, _ = await serve(server, ["x"], AgentSettings(verify=False), skip_verification_reward=0.25)
    reply = json.loads((await agent.post("run", ROW, headers)).body)
    assert reply["reward"] == reward
    assert reply["verification_skipped"] is True
    assert "_ng_failure_class" not in reply
    assert reply["kubegym"]["outcome"] == "unscored"
    assert "/verify" not in server.paths()


async def test_a_caller_of_ours_sets_seed_limits_and_deadline(serve: Serve) -> None:
    server = ForeignCounter()
    agent, model = await serve(server, [CALL, CALL, CALL])
    row = ROW | {"kubegym": {"task_id": "t", "seed": 5, "max_steps": 2}}
    reply = json.loads((await agent.post("run", row, WIRE | {"x-kubegym-deadline": "40"})).body)
    assert (reply["kubegym"]["stop_reason"], reply["kubegym"]["seed"]) == ("max_steps", 5)
    assert [context.seed is None for context in model.contexts] == [False, False]
    assert 0 < float(server.seen[0].headers["x-kubegym-deadline"]) <= 40
    assert "kubegym" not in server.seen[0].body
    late = json.loads((await agent.post("run", row, WIRE | {"x-kubegym-deadline": "1e-9"})).body)
    assert late["kubegym"]["failure"]["reason"] == "DeadlineExceeded"
    assert (await agent.post("run", row, {"x-kubegym-deadline": "soon"})).status == 422


async def test_the_caller_s_cookies_reach_the_seed(serve: Serve) -> None:
    server = ForeignCounter()
    agent, _ = await serve(server, ["x"])
    await agent.post("run", ROW, {"cookie": "route=7"})
    assert all(seen.cookies["route"] == "7" for seen in server.seen)
    assert server.lost == []


@pytest.mark.parametrize("prefix", ["", "ng-rollout/r1/", "ng-rollout/r1/training-token-capture/"])
async def test_responses_go_on_with_the_caller_s_session(serve: Serve, prefix: str) -> None:
    server = ForeignCounter()
    agent, model = await serve(server, [CALL, "seven"])
    async with answering(server) as url:
        seeding = Caller(url, agent.http)
        seeded = await seeding.post("seed_session", ROW)
        cookie = (seeded.header(b"set-cookie") or b"").decode().partition(";")[0]
        response = await agent.post(f"{prefix}v1/responses", ROW["responses_create_params"], {"cookie": cookie})
        assert response.status == 200
        reply = json.loads(response.body)
        assert [item["type"] for item in reply["output"]] == ["function_call", "function_call_output", "message"]
        handed = (response.header(b"set-cookie") or b"").decode().partition(";")[0]
        assert handed.startswith(COOKIE)
        assert handed != cookie
        verified = await seeding.post("verify", ROW | {"response": reply}, {"cookie": handed})
    assert json.loads(verified.body)["reward"] == 1.0
    assert server.paths() == ["/seed_session", "/increment_counter", "/verify"]
    assert server.lost == []
    if prefix:
        assert model.contexts[0].rollout_id == "r1"


async def test_responses_that_fail_or_are_refused(serve: Serve) -> None:
    agent, _ = await serve(ForeignCounter(), [ModelError("away", reason="ModelUnavailable", retryable=True)])
    failed = await agent.post("v1/responses", {"input": "x"})
    assert (failed.status, failed.header(b"x-kubegym-failure")) == (503, b"1")
    assert json.loads(failed.body)["kubegym"]["failure"]["reason"] == "ModelUnavailable"
    for body in ({}, {"input": "x", "n": 1}, {"input": "x", "stream": True}):
        assert (await agent.post("v1/responses", body)).status == 422


async def test_metrics_are_the_resources_server_s(serve: Serve) -> None:
    agent, _ = await serve(ForeignCounter(), [])
    response = await agent.post("aggregate_metrics", {"verify_responses": [{"reward": 1.0}, {"reward": 0.0}]})
    assert json.loads(response.body) == {"agent_metrics": {"count": 2}}


class Waiting(ScriptedModel):
    """Never answers; says when it was asked, and when it was given up."""

    def __init__(self) -> None:
        super().__init__([])
        self.asked = asyncio.Event()
        self.cancelled = asyncio.Event()

    def leave(self, rollout_id: str) -> None:
        pass

    async def respond(self, request: Any, context: Any) -> Any:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()


@pytest.mark.parametrize("path", ["run", "v1/responses"])
async def test_a_caller_that_leaves_cancels_the_rollout(serve: Serve, path: str) -> None:
    model = Waiting()
    agent, _ = await serve(ForeignCounter(), model)
    body = ROW if path == "run" else ROW["responses_create_params"]
    asking = asyncio.ensure_future(agent.post(path, body))
    await asyncio.wait_for(model.asked.wait(), 120)
    asking.cancel()
    await asyncio.wait_for(model.cancelled.wait(), 120)
    text = (await agent.get("metrics")).body.decode()
    if path == "run":
        assert 'kubegym_agent_rollouts_total{outcome="cancelled",reason=""} 1.0' in text
        assert "kubegym_agent_rollouts_in_flight 0.0" in text


async def test_health_and_documentation(serve: Serve) -> None:
    agent, _ = await serve(ForeignCounter(), ["x"])
    assert json.loads((await agent.get("")).body) == {"status": "ok"}
    assert (await agent.get("readyz")).status == 200
    paths = json.loads((await agent.get("openapi.json")).body)["paths"]
    assert sorted(paths) == ["/aggregate_metrics", "/run", "/v1/responses"]
    await agent.post("run", ROW)
    assert 'outcome="scored"' in (await agent.get("metrics")).body.decode()


async def test_not_ready_while_no_replica_answers() -> None:
    client = ResourcesClient(["http://127.0.0.1:1"])
    async with calling(AgentServer.over(client, ScriptedModel([])).app()) as agent:
        assert (await agent.get("readyz")).status == 200  # nothing is known against it
        reply = json.loads((await agent.post("run", ROW, WIRE)).body)
        assert reply["kubegym"]["failure"]["reason"] == "SeedUnavailable"
        assert (await agent.get("readyz")).status == 503


async def test_an_environment_in_this_process() -> None:
    runtime = EnvironmentRuntime(worlds.Counter)
    model = ScriptedModel([{"name": "increment", "arguments": {"count": 5}}, "seven", "nothing"])
    agent_server = AgentServer(
        lambda assignment, cookies=None: runtime.session(assignment),
        model,
        name="counter",
        start=runtime.start,
        stop=runtime.close,
    )
    row = {"responses_create_params": {"input": "?"}, "initial": 2, "expected": 7}
    async with calling(agent_server.app()) as agent:
        reply = json.loads((await agent.post("run", row)).body)
        assert (reply["reward"], reply["value"]) == (1.0, 7)
        assert [tool["name"] for tool in reply["responses_create_params"]["tools"]] == ["increment", "read"]
        assert reply["responses_create_params"]["input"][-1]["content"] == "The counter is at 2."
        assert (await agent.post("aggregate_metrics", {})).status == 404


async def test_responses_of_an_environment_in_this_process_begin_a_session() -> None:
    runtime = EnvironmentRuntime(worlds.Drawn)
    model = ScriptedModel([{"name": "draw"}, "done"])
    agent_server = AgentServer(
        lambda assignment, cookies=None: runtime.session(assignment), model, start=runtime.start, stop=runtime.close
    )
    async with calling(agent_server.app()) as agent:
        response = await agent.post("v1/responses", {"input": "Draw."})
    assert [item["type"] for item in json.loads(response.body)["output"]][1] == "function_call_output"
    assert model.requests[0]["tools"][0]["name"] == "draw"
    assert response.header(b"set-cookie") is None
