"""Every route under requests made from its OpenAPI document, and under valid requests with one part replaced.

Whatever comes, a server answers, with a status that its document declares, keeps answering others, and holds nothing.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from testbed.wire_client import LIMIT_SECONDS, ROW, Answer, Wire
from testbed.wire_targets import Fleet, script

pytestmark = pytest.mark.contract

SERVERS = ("resources", "agent", "model")
EXAMPLES = 25
OBEDIENT = ("/wait", "/wait_for", "/repeat")
"""Tools of the test's own environment that take as long, or answer as much, as their arguments say."""
QUIET = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
RESPONSE = {
    "id": "r1",
    "object": "response",
    "created_at": 0,
    "model": "stub",
    "output": [
        {"type": "reasoning", "id": "rs1", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "name": "increment_counter", "arguments": '{"count": 1}', "call_id": "c1"},
        {"type": "function_call_output", "call_id": "c1", "output": "ok"},
        {
            "type": "message",
            "id": "m1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "three", "annotations": []}],
        },
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "incomplete_details": {"reason": "max_output_tokens"},
    "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
}
TOOLS = [{"type": "function", "name": "increment_counter", "parameters": {"type": "object", "properties": {}}}]
PARAMS = {
    "input": [
        {"role": "system", "content": "brief"},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": script([["increment_counter", {"count": 1}]], "x")}],
        },
        *RESPONSE["output"],
    ],
    "tools": TOOLS,
    "tool_choice": {"type": "function", "name": "increment_counter"},
    "reasoning": {"effort": "low"},
    "text": {"format": {"type": "text"}},
    "metadata": {"a": "b"},
    "temperature": 0.5,
    "max_output_tokens": 9,
}
CHAT = {
    "model": "stub",
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        {
            "role": "assistant",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "ok"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "stream_options": {"include_usage": True},
    "max_tokens": 9,
}
MESSAGES = {
    "model": "stub",
    "max_tokens": 9,
    "system": [{"type": "text", "text": "brief"}],
    "messages": [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "ok"}]}],
        },
    ],
    "tools": [{"name": "f", "description": "", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "auto"},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
}
BODIES: dict[tuple[str, str], Any] = {
    ("resources", "/seed_session"): ROW,
    ("resources", "/increment_counter"): {"count": 1},
    ("resources", "/verify"): {**ROW, "response": RESPONSE, "kubegym": {"stop_reason": "completed"}},
    ("resources", "/reset"): ROW,
    ("resources", "/step"): {**ROW, "turns": 3, "response": RESPONSE, "_ng_step_request_id": "s1"},
    ("resources", "/close"): {"reason": "done"},
    ("resources", "/aggregate_metrics"): {"verify_responses": [{**ROW, "response": RESPONSE, "reward": 1.0}] * 2},
    ("resources", "/mcp"): {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"cursor": None}},
    ("agent", "/run"): {**ROW, "responses_create_params": PARAMS, "kubegym": {"seed": 1, "max_steps": 3}},
    ("agent", "/v1/responses"): PARAMS,
    ("agent", "/aggregate_metrics"): {"verify_responses": [{**ROW, "response": RESPONSE, "reward": 1.0}] * 2},
    ("model", "/v1/responses"): PARAMS,
    ("model", "/v1/chat/completions"): CHAT,
    ("model", "/v1/messages"): MESSAGES,
}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Servers over a stub."""
    fleet = Fleet()
    yield fleet
    fleet.stop()


def declared(document: dict[str, Any], path: str, method: str) -> set[str]:
    operation = document["paths"].get(path, {}).get(method.lower(), {})
    return set(operation.get("responses", {}))


def check(status: int, kind: str | None, body: bytes, allowed: set[str]) -> None:
    if status >= 500:
        assert {str(status), f"{status // 100}XX"} & allowed, f"{status} is not declared: {body[:500]!r}"
        assert isinstance(json.loads(body), dict), f"an unhandled exception: {body[:500]!r}"
    if 400 <= status < 500 and not (kind or "").startswith("text/plain"):  # a tool's own words
        assert "detail" in json.loads(body) or "error" in json.loads(body)


def send_by(operation: schemathesis.APIOperation, mode: GenerationMode, url: str, allowed: set[str]) -> None:
    @QUIET
    @given(case=operation.as_strategy(mode))
    def holds(case: schemathesis.Case) -> None:
        reply = case.call(base_url=url, timeout=LIMIT_SECONDS)
        check(reply.status_code, (reply.headers.get("content-type") or [None])[0], reply.content, allowed)

    holds()


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
def test_requests_by_the_document(fleet: Fleet, server: str, mode: GenerationMode) -> None:
    url = fleet.url(server)
    document = Wire(url).get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    operations = [result.ok() for result in schema.get_all_operations()]
    operations = [operation for operation in operations if operation.path not in OBEDIENT]
    if mode is GenerationMode.NEGATIVE:  # a GET without parameters has no wrong form
        operations = [operation for operation in operations if operation.method == "post"]
    assert operations
    for operation in operations:
        send_by(operation, mode, url, declared(document, operation.path, operation.method))
    assert Wire(url).get("/readyz").status == 200


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2**31, 2**63, 2**70, 1e308, -0.0, 1.5]),
    st.sampled_from(["", "x", "\x00", "\ud83d\ude00", "ä" * 300, "../..", "null", "{"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "a", "", "role"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to every part of a JSON value, itself included."""
    yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from places(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


def replaced(value: Any, path: tuple[Any, ...], part: Any, remove: bool) -> Any:
    """A copy with one part removed, or another in its place."""
    if not path:
        return part
    changed = copy.deepcopy(value)
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    if remove:
        del inner[path[-1]]
    else:
        inner[path[-1]] = part
    return changed


@pytest.mark.parametrize(("server", "path"), BODIES, ids=lambda value: str(value))
def test_valid_requests_with_one_part_replaced(fleet: Fleet, server: str, path: str) -> None:
    url = fleet.url(server)
    allowed = declared(Wire(url).get("/openapi.json").json(), path, "post")
    body = BODIES[server, path]
    everywhere = list(places(body))

    @settings(QUIET, max_examples=4 * EXAMPLES)
    @given(place=st.sampled_from(everywhere), part=VALUES, remove=st.booleans(), stream=st.booleans())
    def holds(place: tuple[Any, ...], part: Any, remove: bool, stream: bool) -> None:
        sent = replaced(body, place, part, remove)
        if stream and server == "model" and isinstance(sent, dict):
            sent["stream"] = True
        wire = Wire(url)
        if server == "resources" and path not in ("/seed_session", "/reset", "/mcp", "/aggregate_metrics"):
            assert wire.post("/seed_session", {**ROW, "turns": 3}).status == 200
        reply: Answer = wire.post(path, sent)
        check(reply.status, reply.header("content-type"), reply.body, allowed)
        if server == "resources":
            wire.post("/close", {})

    holds()
    assert Wire(url).get("/readyz").status == 200
