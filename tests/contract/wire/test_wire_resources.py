"""The resources server's part of the contract (1.1, 1.5, 1.6, 1.7): ours, several of ours, and others'."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from testbed.wire_client import Answer, Target, Wire

pytestmark = pytest.mark.contract

OURS = {"x-kubegym-wire": "1"}
COOKIE = "kubegym-session"


def response_of(text: str = "done", *items: dict[str, Any]) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    message = {"type": "message", "role": "assistant", "id": "m1", "status": "completed", "content": content}
    return {
        **{"id": "r1", "object": "response", "created_at": 0, "model": "stub", "output": [*items, message]},
        **{"parallel_tool_calls": True, "tool_choice": "auto", "tools": []},
    }


def seeded(target: Target, headers: dict[str, str] | None = None, **fields: Any) -> Wire:
    """Somebody with a session."""
    wire = target.wire()
    reply = wire.post("/seed_session", {**target.row, **fields}, headers)
    assert reply.status == 200, reply.text
    assert isinstance(reply.json(), dict)
    assert wire.cookies, "a session is a cookie"
    return wire


def verify(wire: Wire, target: Target, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
    return wire.post("/verify", {**target.row, "response": response_of(), **fields}, headers)


# Every resources server of the contract


def test_a_rollout(resources: Target) -> None:
    wire = seeded(resources, expected_count=4)
    name, arguments = resources.tool
    reply = wire.post(f"/{name}", arguments)
    assert reply.status == 200
    assert reply.body
    result = verify(wire, resources, expected_count=4).json()
    assert result["reward"] == 1.0
    assert result["responses_create_params"]["input"] == resources.row["responses_create_params"]["input"]
    assert result["response"]["output"] == response_of()["output"]


def test_the_cookie_comes_with_every_reply(resources: Target) -> None:
    wire = seeded(resources)
    names = set(wire.cookies)
    name, arguments = resources.tool
    for path, body in (
        (f"/{name}", arguments),
        (f"/{name}", {"count": "two"}),
        ("/no_such_tool", {}),
        ("/verify", None),
    ):
        reply = verify(wire, resources) if body is None else wire.post(path, body)
        assert reply.set_cookies().keys() >= names, path
        assert all("path=/" in value.lower() for header, value in reply.headers if header == "set-cookie")


def test_bad_arguments_and_unknown_tools(resources: Target) -> None:
    wire = seeded(resources)
    bad = wire.post("/increment_counter", {"count": "two"})
    assert bad.status == 422
    assert bad.json()["detail"][0]["loc"] == ["body", "count"]
    unknown = wire.post("/no_such_tool", {})
    assert (unknown.status, unknown.json()) == (404, {"detail": "Not Found"})
    assert verify(wire, resources).json()["reward"] == 1.0, "the session goes on"


def test_sessions_do_not_see_each_other(resources: Target) -> None:
    wires = [seeded(resources) for _ in range(4)]
    assert len({json.dumps(wire.cookies) for wire in wires}) == 4
    for count, wire in enumerate(wires):
        for _ in range(count):
            assert wire.post("/increment_counter", {"count": 10}).status == 200
    values = [verify(wire, resources).json()["final_value"] for wire in wires]
    assert values == [3, 13, 23, 33]


def test_nulls_and_extra_fields_come_back(resources: Target) -> None:
    wire = seeded(resources, agent_ref=None, skills_ref=None)
    params = {"input": "count", "temperature": None, "tools": None, "metadata": None}
    result = verify(wire, resources, responses_create_params=params, agent_ref=None, unheard_of={"a": None}).json()
    assert result["reward"] == 1.0
    assert result["mine"] == {"kept": [1, None, "ä"]}
    assert result["unheard_of"] == {"a": None}
    assert result["responses_create_params"]["input"] == "count"
    assert result["final_value"] == 3


# Ours


def test_a_tool_s_text_is_the_raw_body(our_resources: Target) -> None:
    wire = seeded(our_resources)
    value = wire.post("/get_counter_value", {})
    assert (value.status, value.body, value.header("content-type")) == (200, b"3", "text/plain; charset=utf-8")
    made = wire.post("/increment_counter", {"count": 1})
    assert made.json() == {"success": True, "note": None}
    refused = wire.post("/refuse", {})
    assert (refused.status, refused.body) == (400, b"the counter is locked")
    odd = wire.post("/repeat", {"text": "ä\u2028\x00", "times": 2})
    assert odd.text == "ä\u2028\x00" * 2
    assert wire.call("POST", "/get_counter_value", b"").status == 200, "no arguments at all"


def test_a_crash_fails_the_attempt_and_keeps_the_session(our_resources: Target) -> None:
    wire = seeded(our_resources)
    reply = wire.post("/crash", {})
    assert reply.status == 500
    assert reply.header("x-kubegym-failure") == "1"
    assert COOKIE in reply.set_cookies()
    failure = reply.json()["kubegym"]["failure"]
    assert (failure["stage"], failure["reason"], failure["retryable"]) == ("tool", "ToolCrashed", False)
    assert wire.post("/get_counter_value", {}).body == b"4"


def test_seed_tells_our_agents_what_there_is(our_resources: Target) -> None:
    ours = our_resources.wire().post("/seed_session", our_resources.row).json()["kubegym"]
    assert {tool["name"] for tool in ours["tools"]} >= {"increment_counter", "get_counter_value"}
    assert all(tool["type"] == "function" for tool in ours["tools"])


def test_a_row_that_does_not_fit(our_resources: Target) -> None:
    reply = our_resources.wire().post("/seed_session", {**our_resources.row, "expected_count": "many"})
    assert reply.status in (422, 500)
    assert "expected_count" in reply.text


@pytest.mark.parametrize("prefix", ["/ng-rollout/7-2", "/ng-rollout/7-2-a1/training-token-capture"])
def test_rollout_prefixes(our_resources: Target, prefix: str) -> None:
    wire = our_resources.wire()
    row = {**our_resources.row, "expected_count": 4}
    assert wire.post(f"{prefix}/seed_session", row).status == 200
    assert wire.post(f"{prefix}/increment_counter", {"count": 1}).status == 200
    reply = wire.post(f"{prefix}/verify", {**row, "response": response_of()})
    assert reply.json()["reward"] == 1.0


@pytest.mark.parametrize(
    ("verdict", "kind", "terminal"),
    [("decline", "unscored", True), ("crash", "verifier_error", True), ("busy", "verifier_error", False)],
)
def test_no_reward_is_null_for_us_and_marked_for_others(
    our_resources: Target, verdict: str, kind: str, terminal: bool
) -> None:
    theirs = verify(seeded(our_resources, verdict=verdict), our_resources, verdict=verdict)
    assert theirs.status == 200
    result = theirs.json()
    assert (result["reward"], result["mask_sample"], result["_ng_failure_class"]) == (0.0, True, kind)
    assert result.get("_ng_failure_terminal", False) is terminal
    ours = verify(seeded(our_resources, verdict=verdict), our_resources, OURS, verdict=verdict).json()
    assert ours["reward"] is None
    assert ours["_ng_failure_class"] == kind
    assert (ours["kubegym"]["failure"] is None) is (kind == "unscored")


def test_components_and_their_copies(our_resources: Target) -> None:
    result = verify(seeded(our_resources, verdict="components"), our_resources, verdict="components").json()
    assert result["reward_components"] == {"right": 1.0, "polite": 0.5}
    assert (result["right"], result["polite"], result["reward"]) == (1.0, 0.5, 1.0)


def test_verify_may_be_repeated(our_resources: Target) -> None:
    wire = seeded(our_resources)
    first = verify(wire, our_resources)
    again = verify(wire, our_resources)
    assert first.status == again.status == 200
    assert first.json() == again.json()


@pytest.mark.parametrize("change", [{"response": None}, {"response": 4}, {"response": {"output": "text"}}])
def test_a_response_that_is_none(our_resources: Target, change: dict[str, Any]) -> None:
    wire = seeded(our_resources)
    reply = wire.post("/verify", {**our_resources.row, "response": response_of(), **change})
    assert reply.status == 422
    assert "response" in reply.json()["detail"][0]["loc"]
    assert COOKIE in reply.set_cookies()


def forgeries(value: str) -> list[str]:
    data = bytearray(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)))
    flipped = []
    for place in (0, 1, len(data) // 2, len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        flipped.append(base64.urlsafe_b64encode(changed).rstrip(b"=").decode())
    return [*flipped, value[:-1], value + "A", value[:20], "x", "", "%00", "A" * 5000]


def test_a_session_cannot_be_made_up(our_resources: Target) -> None:
    wire = seeded(our_resources)
    for forged in forgeries(wire.cookies[COOKIE]):
        other = Wire(our_resources.url, {COOKIE: forged})
        reply = other.post("/increment_counter", {"count": 100})
        assert reply.status == 410, forged
        assert reply.header("x-kubegym-failure") == "1"
        failure = reply.json()["kubegym"]["failure"]
        assert (failure["reason"], failure["retryable"]) == ("SessionLost", True)
    assert verify(wire, our_resources).json()["final_value"] == 3


def test_a_session_that_is_closed(our_resources: Target) -> None:
    wire = seeded(our_resources)
    cookies = dict(wire.cookies)
    assert wire.post("/close", {}).status == 200
    assert wire.post("/close", {}).status == 200, "closing twice is closing"
    late = Wire(our_resources.url, cookies)
    reply = late.post("/increment_counter", {"count": 1})
    assert (reply.status, reply.json()["kubegym"]["failure"]["reason"]) == (410, "SessionLost")


def test_reverify_mode(our_resources: Target, fleet: Any) -> None:
    assert our_resources.wire().get("/reverify_mode").json() in ("stateless", "unsupported", "unknown")
    assert Wire(fleet.url("any-tool")).get("/reverify_mode").json() == "stateless"


def test_metrics_over_rollouts(our_resources: Target) -> None:
    rows = [{**our_resources.row, "reward": reward, "response": response_of()} for reward in (0.0, 1.0)]
    metrics = our_resources.wire().post("/aggregate_metrics", {"verify_responses": rows}).json()
    assert metrics["agent_metrics"]["mean/reward"] == 0.5
    assert {"group_level_metrics", "key_metrics"} <= metrics.keys()


# The gymnasium protocol (1.6)


def step(wire: Wire, target: Target, text: str, identity: str, **fields: Any) -> Any:
    body = {**target.row, "turns": 2, "response": response_of(text), "_ng_step_request_id": identity, **fields}
    reply = wire.post("/step", body)
    assert reply.status == 200, reply.text
    return reply.json()


def test_reset_step_and_close(our_resources: Target) -> None:
    wire = our_resources.wire()
    begun = wire.post("/reset", {**our_resources.row, "turns": 2})
    assert begun.status == 200
    assert "info" in begun.json()
    first = step(wire, our_resources, "one", "s1")
    assert first["observation"] == "again 1"
    assert (first["terminated"], first["truncated"]) == (False, False)
    assert first["info"]["supports_explicit_close"] is True
    assert first["info"]["supports_step_idempotency"] is True
    assert step(wire, our_resources, "one", "s1") == first, "a repeated request is answered, not repeated"
    assert step(wire, our_resources, "two", "s2")["observation"] == "again 2"
    last = step(wire, our_resources, "three", "s3")
    assert last["terminated"] is True
    assert last["reward"] == 1.0, "who never calls /verify is told by the last step"
    assert step(wire, our_resources, "three", "s3") == last
    assert wire.post("/close", {}).status == 200


def test_reset_begins_anew(our_resources: Target) -> None:
    wire = our_resources.wire()
    for _ in range(2):
        assert wire.post("/reset", {**our_resources.row, "turns": 2}).status == 200
        assert wire.post("/get_counter_value", {}).body == b"3"
        assert wire.post("/increment_counter", {"count": 1}).status == 200


# The catch-all


def test_a_catch_all_answers_every_name(fleet: Any) -> None:
    wire = Wire(fleet.url("any-tool"))
    assert wire.post("/seed_session", {"responses_create_params": {"input": "x"}}).status == 200
    assert wire.post("/anything", {"a": 1}).json() == {"tool": "anything", "arguments": {"a": 1}}
    assert wire.post("/known", {"text": "x"}).body == b"x"
    assert wire.post("/known", {}).status == 422


# Tools over MCP


async def test_tools_over_mcp(our_resources: Target) -> None:
    import httpx2
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    wire = our_resources.wire()
    row = {**our_resources.row, "expected_count": 5}
    told = wire.post("/seed_session", row).json()["mcp"]
    assert (told["url_path"], told["transport"]) == ("/mcp", "http")
    async with (
        httpx2.AsyncClient(headers=told["headers"], trust_env=False, timeout=240) as http,
        streamable_http_client(our_resources.url + told["url_path"], http_client=http) as streams,
        ClientSession(streams[0], streams[1]) as client,
    ):
        await client.initialize()
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert tools["increment_counter"].description
        made = await client.call_tool("increment_counter", {"count": 2})
        assert not made.is_error
        assert made.structured_content == {"success": True, "note": None}
        value = await client.call_tool("get_counter_value", {})
        assert [block.text for block in value.content] == ["5"]
        bad = await client.call_tool("increment_counter", {"count": "two"})
        assert bad.is_error
        unknown = await client.call_tool("no_such_tool", {})
        assert unknown.is_error
        assert "increment_counter" in unknown.content[0].text
    name = f"mcp__{told['server_name']}__increment_counter"
    call = {"type": "function_call", "name": name, "arguments": '{"count": 2}', "call_id": "c1"}
    result = wire.post("/verify", {**row, "response": response_of("done", call)}).json()
    assert result["reward"] == 1.0
    assert result["response"]["output"][0]["name"] == name, "the conversation comes back as it was"


def test_mcp_needs_its_token(our_resources: Target) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "get_counter_value", "arguments": {}}}
    wire = our_resources.wire()
    told = wire.post("/seed_session", our_resources.row).json()["mcp"]
    (header, token), *_ = told["headers"].items()
    accept = {"accept": "application/json, text/event-stream"}
    good = our_resources.wire().post("/mcp", call, {**accept, header: token})
    assert good.json()["result"]["content"][0]["text"] == "3"
    for headers in ({}, {header: token[:-2]}, {header: wire.cookies[COOKIE]}):
        reply = our_resources.wire().post("/mcp", call, {**accept, **headers})
        answered = reply.json()
        refused = reply.status >= 400 or "error" in answered or answered.get("result", {}).get("isError")
        assert refused, answered
