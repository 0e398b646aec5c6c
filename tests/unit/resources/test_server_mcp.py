"""Tools over MCP: the messages, without sockets. The real client is in ``tests/contract/servers``."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from contract.environment import worlds
from kubegym import Environment, Image, Rollout, Verdict, tool
from kubegym.resources.server import ResourcesServer
from testbed.resources_server import Caller, call, server_of, started

pytestmark = pytest.mark.unit

ROW = {"responses_create_params": {"input": "?"}}
COUNTER = {**ROW, "initial": 2, "expected": 7}
TOKEN = "x_nemo_gym_session_token"


class Harness:
    """Speaks JSON-RPC with a session's token and no cookie."""

    def __init__(self, server: ResourcesServer, token: str | None) -> None:
        self._caller = Caller(server.app(), **({TOKEN: token} if token else {}))

    async def ask(self, method: str, params: Any = None) -> dict[str, Any]:
        message = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params or {}}
        reply: dict[str, Any] = await self._caller.json("mcp", message)
        assert (reply["jsonrpc"], reply["id"]) == ("2.0", 7)
        return reply

    async def call(self, name: str, arguments: Any = None) -> tuple[str, bool, Any]:
        result = (await self.ask("tools/call", {"name": name, "arguments": arguments}))["result"]
        return result["content"][0]["text"], result["isError"], result.get("structuredContent")


async def joined(server: ResourcesServer, row: dict[str, Any]) -> tuple[Harness, dict[str, Any], Caller]:
    caller = Caller(server.app())
    told = (await caller.json("seed_session", row))["mcp"]
    return Harness(server, told["headers"]["X-NeMo-Gym-Session-Token"]), told, caller


def mcp_server(cls: type[Environment]) -> ResourcesServer:
    return server_of(cls, expose_tools_over_mcp=True)


async def test_tools_are_called_in_the_rollout_s_session() -> None:
    server = mcp_server(worlds.Counter)
    async with started(server):
        harness, told, caller = await joined(server, COUNTER)
        assert (told["server_name"], told["url_path"], told["transport"]) == ("Counter", "/mcp", "http")
        begun = (await harness.ask("initialize", {"protocolVersion": "2025-06-18"}))["result"]
        assert (begun["protocolVersion"], begun["serverInfo"]["name"]) == ("2025-06-18", "Counter")
        tools = (await harness.ask("tools/list"))["result"]["tools"]
        assert [(one["name"], one["description"], list(one["inputSchema"]["properties"])) for one in tools] == [
            ("increment", "Add to the counter.", ["count"]),
            ("read", "Read the counter.", []),
        ]
        assert await harness.call("increment", {"count": 5}) == ('{"value":7}', False, {"value": 7})
        assert await harness.call("read") == ("7", False, None)
        assert (await caller.post("read")).body == b"7"
        text, is_error, _ = await harness.call("fly")
        assert (text, is_error) == ("Unknown tool: fly. Tools: increment, read", True)
        text, is_error, _ = await harness.call("increment", {"count": -1})
        assert (text, is_error) == ("HTTP 400 from POST /increment: count must not be negative", True)
        assert (await harness.ask("ping"))["result"] == {}


async def test_a_row_s_own_tools_are_all_there_is() -> None:
    server = mcp_server(worlds.Counter)
    offered = [{"type": "function", "name": "read", "parameters": {"type": "object"}}, {"type": "web_search"}]
    async with started(server):
        row = {**COUNTER, "responses_create_params": {"input": "?", "tools": offered}}
        harness, _, _ = await joined(server, row)
        assert [tool["name"] for tool in (await harness.ask("tools/list"))["result"]["tools"]] == ["read"]
        assert (await harness.call("read"))[1] is False
        assert await harness.call("increment", {"count": 1}) == ("Unknown tool: increment. Tools: read", True, None)


async def test_a_tool_that_breaks_is_an_error_of_the_call() -> None:
    server = mcp_server(worlds.Trouble)
    async with started(server):
        harness, _, _ = await joined(server, {**ROW, "kind": "crash"})
        text, is_error, _ = await harness.call("act")
        assert is_error
        assert text.startswith("HTTP 500 from POST /act: tool act: ZeroDivisionError")


async def test_calls_need_a_token_and_not_a_cookie() -> None:
    server = mcp_server(worlds.Counter)
    async with started(server):
        _, _, caller = await joined(server, COUNTER)
        assert (await Harness(server, None).ask("tools/call", {"name": "read"}))["error"]["code"] == -32001
        assert caller.cookie is not None
        stolen = caller.cookie.partition(b"=")[2].decode()
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "read"}}
        for token in (stolen, "forged", ""):
            assert (await Caller(server.app()).post("mcp", message, **{TOKEN: token})).status == 410


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, -32700),
        (b"3", 400, -32600),
        (b'{"id":1}', 400, -32600),
        (b'{"id":1,"method":"resources/list"}', 200, -32601),
        (b'{"id":1,"method":"tools/list","params":3}', 200, -32602),
        (b'{"id":1,"method":"tools/call","params":{"name":3}}', 200, -32602),
        (b'{"method":"notifications/initialized"}', 202, None),
        (b'[{"method":"notifications/initialized"}]', 202, None),
        (b'{"id":1,"result":{}}', 202, None),
    ],
)
async def test_messages_that_are_none(body: bytes, status: int, code: int | None) -> None:
    server = mcp_server(worlds.Counter)
    async with started(server):
        reply = await Caller(server.app()).post("mcp", body)
        assert reply.status == status
        assert (orjson.loads(reply.body)["error"]["code"] if reply.body else None) == code


async def test_several_messages_at_once() -> None:
    server = mcp_server(worlds.Counter)
    async with started(server):
        messages = [{"id": 1, "method": "ping"}, {"method": "notifications/x"}, {"id": 2, "method": "ping"}]
        replies = await Caller(server.app()).json("mcp", messages)
        assert [one["id"] for one in replies] == [1, 2]


async def test_a_server_has_no_endpoint_unless_asked_for_one() -> None:
    server = server_of(worlds.Counter)
    async with started(server):
        assert (await Caller(server.app()).post("mcp", {"id": 1, "method": "ping"})).status == 404
    exposed = mcp_server(worlds.Counter)
    assert (await call(exposed.app(), "GET", "/mcp", [], b"")).status == 405


async def test_verifiers_do_not_see_a_harness_s_prefix() -> None:
    class Called(Environment):
        def verify(self, rollout: Rollout) -> Verdict:
            return Verdict(1.0, fields={"called": [one.name for one in rollout.tool_calls]})

    server = mcp_server(Called)
    output = [
        {"type": "function_call", "name": name, "arguments": "{}", "call_id": name}
        for name in ("mcp__Called__look", "mcp__Other__look", "look")
    ]
    body = {**ROW, "response": {"output": output}}
    async with started(server):
        reply = await Caller(server.app()).json("verify", body)
    assert reply["called"] == ["look", "mcp__Other__look", "look"]
    assert reply["response"] == body["response"]


async def test_images_are_blocks() -> None:
    class Album(Environment):
        """Shows pictures."""

        @tool
        def show(self) -> list[str | Image]:
            """Show them."""
            return ["two", Image.of(b"png"), Image("https://example.com/a.png")]

        def verify(self, rollout: Rollout) -> Verdict:
            """Nothing."""
            return Verdict(0.0)

    server = mcp_server(Album)
    async with started(server):
        harness, _, _ = await joined(server, ROW)
        result = (await harness.ask("tools/call", {"name": "show", "arguments": {}}))["result"]
        assert result["content"] == [
            {"type": "text", "text": "two"},
            {"type": "image", "data": "cG5n", "mimeType": "image/png"},
            {"type": "text", "text": "https://example.com/a.png"},
        ]
