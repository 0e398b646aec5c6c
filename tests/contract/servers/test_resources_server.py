"""The resources server over sockets: replicas, processes, large and broken bodies, a real MCP client."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from contract.environment import worlds
from kubegym import Environment, Rollout, Verdict, tool
from kubegym.agent.resources_client import ResourcesClient
from kubegym.core.errors import AgentError, VerifierError
from kubegym.core.protocols import Assignment
from kubegym.http import HttpClient, Response, Url
from kubegym.resources import EnvironmentRuntime, SessionLimits
from kubegym.resources.server import ResourcesServer
from testbed.resources_server import SECRET, served_process, server_of
from testbed.served import serving

pytestmark = pytest.mark.contract

ROW = {"responses_create_params": {"input": "?"}}
COUNTER = {**ROW, "initial": 2, "expected": 7}
SECONDS = 120.0


class Client:
    """One session's client, which may change the address it talks to."""

    def __init__(self, http: HttpClient, url: str) -> None:
        self._http = http
        self.url = url
        self.cookie = b""

    async def post(self, path: str, body: Any = None, headers: bytes = b"") -> Response:
        data = body if isinstance(body, bytes) else orjson.dumps(body if body is not None else {})
        lines = headers + (b"cookie: %b\r\n" % self.cookie if self.cookie else b"")
        url = Url(self.url) / path
        response = await self._http.request(b"POST", url, lines, data, SECONDS, repeatable=False)
        given = response.header(b"set-cookie")
        if given is not None:
            self.cookie = given.partition(b";")[0]
        return response


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    client = HttpClient()
    yield client
    await client.close()


@asynccontextmanager
async def replica(cls: type[Environment], secret: bytes = SECRET) -> AsyncIterator[tuple[str, ResourcesServer]]:
    """A server that knows its address."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server = server_of(cls, secret=secret, self_address=f"127.0.0.1:{bound.getsockname()[1]}")
        async with serving(server.app(), bound=bound) as url:
            yield url, server


def lost(response: Response) -> bool:
    if response.status != 410 or response.header(b"x-kubegym-failure") != b"1":
        return False
    failure = orjson.loads(response.body)["kubegym"]["failure"]
    return (failure["reason"], failure["retryable"]) == ("SessionLost", True)


# Replicas


async def test_a_request_that_meets_another_replica_reaches_its_session(http: HttpClient) -> None:
    async with replica(worlds.Counter) as (first, owner), replica(worlds.Counter) as (second, other):
        client = Client(http, first)
        assert (await client.post("seed_session", COUNTER)).status == 200
        cookie = client.cookie
        client.url = second
        output = await client.post("increment", {"count": 5})
        assert (output.status, output.body, output.header(b"content-type")) == (
            200,
            b'{"value":7}',
            b"text/plain; charset=utf-8",
        )
        assert client.cookie == cookie
        assert (await client.post("increment", {"count": -1})).status == 400
        verdict = await client.post("verify", {**COUNTER, "response": {"output": []}}, b"x-kubegym-wire: 1\r\n")
        assert orjson.loads(verdict.body)["reward"] == 1.0
        assert (await client.post("close")).status == 200
        assert (len(owner.sessions), len(other.sessions)) == (0, 0)


async def test_a_failure_passes_through_another_replica(http: HttpClient) -> None:
    async with replica(worlds.Trouble) as (first, _), replica(worlds.Trouble) as (second, _):
        client = Client(http, first)
        await client.post("seed_session", {**ROW, "kind": "crash"})
        client.url = second
        reply = await client.post("act")
        assert (reply.status, reply.header(b"x-kubegym-failure")) == (500, b"1")
        assert orjson.loads(reply.body)["kubegym"]["failure"]["reason"] == "ToolCrashed"


async def test_a_session_whose_replica_is_gone_is_lost(http: HttpClient) -> None:
    async with replica(worlds.Counter) as (second, _):
        async with replica(worlds.Counter) as (first, _):
            client = Client(http, first)
            await client.post("seed_session", COUNTER)
        client.url = second
        assert lost(await client.post("read"))
        assert lost(await client.post("verify", {**COUNTER, "response": {"output": []}}))
        assert (await client.post("close")).status == 200
        assert (await client.post("seed_session", COUNTER)).status == 200


async def test_a_stateless_verdict_survives_its_replica(http: HttpClient) -> None:
    row = {**ROW, "expected": "four"}
    async with replica(worlds.Stateless) as (second, _):
        async with replica(worlds.Stateless) as (first, _):
            client = Client(http, first)
            await client.post("seed_session", row)
        client.url = second
        said = {"type": "message", "role": "assistant", "content": "four"}
        reply = await client.post("verify", {**row, "response": {"output": [said]}})
        assert orjson.loads(reply.body)["reward"] == 1.0


async def test_a_replica_of_another_secret_forwards_nothing(http: HttpClient) -> None:
    async with replica(worlds.Counter) as (first, _), replica(worlds.Counter, b"another secret!!") as (second, other):
        client = Client(http, first)
        await client.post("seed_session", COUNTER)
        client.url = second
        assert lost(await client.post("read"))
        assert other._forwarder.forwarded == 0


async def test_a_request_is_forwarded_once(http: HttpClient) -> None:
    """Two servers that each believe the other to be the owner must not send a request round for ever."""
    async with replica(worlds.Counter) as (first, _), replica(worlds.Counter) as (second, other):
        client = Client(http, first)
        await client.post("seed_session", COUNTER)
        client.url = second
        assert lost(await client.post("read", headers=b"x-kubegym-forwarded: 1\r\n"))
        assert other._forwarder.forwarded == 0


# Processes

FOLDER = '''
    """An environment for processes."""

    import os

    from kubegym import Environment, Rollout, Row, Verdict, tool


    class Where(Environment):
        class Task(Row):
            name: str

        def seed(self) -> None:
            self.calls = 0

        @tool
        def call(self) -> str:
            """Say who asks whom."""
            self.calls += 1
            return f"{self.task.name} {self.calls} {os.getpid()}"

        def verify(self, rollout: Rollout) -> Verdict:
            return Verdict(float(self.calls))
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "where"
    place.mkdir()
    (place / "app.py").write_text(textwrap.dedent(FOLDER))
    return place


def say(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": text}


async def test_processes_share_a_port_and_its_sessions(folder: Path, tmp_path: Path, http: HttpClient) -> None:
    async def rollout(name: str, url: str) -> str:
        client = Client(http, url)
        row = {**ROW, "name": name}
        await client.post("seed_session", row)
        seen = set()
        for count in range(1, 5):
            # A connection of its own, so that any of the processes may take it.
            fresh = HttpClient()
            other = Client(fresh, url)
            other.cookie = client.cookie
            who, number, pid = (await other.post("call")).body.decode().split()
            assert (who, number) == (name, str(count))
            seen.add(pid)
            await fresh.close()
        (owner,) = seen
        verdict = await client.post("verify", {**row, "response": {"output": [say("x")]}})
        assert orjson.loads(verdict.body)["reward"] == 4.0
        return owner

    with served_process(folder, tmp_path / "serve.py", processes=2) as server:
        owners = await asyncio.gather(*(rollout(f"r{number}", server.url) for number in range(24)))
        assert len(server.children()) == 2
        assert set(map(int, owners)) <= set(server.children())
        status, log = server.terminate()
    assert status == 0, log
    assert "Traceback" not in log


async def test_a_process_that_dies_loses_its_sessions_and_is_replaced(
    folder: Path, tmp_path: Path, http: HttpClient
) -> None:
    async def call(client: Client) -> Response:
        fresh = HttpClient()
        try:
            other = Client(fresh, client.url)
            other.cookie = client.cookie
            return await other.post("call")
        finally:
            await fresh.close()

    with served_process(folder, tmp_path / "serve.py", processes=2) as server:
        before = set(server.children())
        client = Client(http, server.url)
        await client.post("seed_session", {**ROW, "name": "a"})
        owner = int((await call(client)).body.split()[-1])
        os.kill(owner, signal.SIGKILL)
        await until(lambda: owner not in server.children() and len(server.children()) == 2)
        assert lost(await call(client))
        assert set(server.children()) - before
        again = Client(http, server.url)
        assert (await again.post("seed_session", {**ROW, "name": "b"})).status == 200
        assert server.terminate()[0] == 0


async def test_processes_end_with_the_one_that_started_them(folder: Path, tmp_path: Path) -> None:
    with served_process(folder, tmp_path / "serve.py", processes=2) as server:
        children = server.children()
        assert len(children) == 2
        server.kill()
        await until(lambda: not any(runs(child) for child in children))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what other processes do, of which nobody tells."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


async def test_our_agent_s_client_meets_a_server_that_was_killed(folder: Path, tmp_path: Path) -> None:
    with served_process(folder, tmp_path / "serve.py") as server:
        client = ResourcesClient([server.url])
        row = {**ROW, "name": "a"}
        session = client.session(Assignment("e", row, "t", 0, 0, "r-0-0"))
        await session.seed()
        assert (await session.call_tool("call", {})).startswith("a 1 ")
        server.kill()
        with pytest.raises(VerifierError, match="127") as caught:
            await session.verify(Rollout([], [say("x")], "completed", {"output": [say("x")]}))
        assert (caught.value.reason, caught.value.retryable) == ("VerifierUnavailable", True)
        await session.close()
        await client.close()


async def test_our_agent_s_client_hears_of_a_lost_session() -> None:
    now = [0.0]
    server = server_of(worlds.Counter, clock=lambda: now[0])
    async with serving(server.app()) as url:
        client = ResourcesClient([url])
        session = client.session(Assignment("e", COUNTER, "t", 0, 0, "r-0-0"))
        await session.seed()
        now[0] = 1e6
        assert await server.expire() == 1
        with pytest.raises(AgentError) as caught:
            await session.call_tool("read", {})
        assert (caught.value.reason, caught.value.retryable) == ("SessionLost", True)
        await session.close()
        await client.close()


# Bodies


class Large(Environment):
    """Ten megabytes in, ten megabytes out."""

    @tool
    def double(self, text: str) -> str:
        """Say it."""
        return text

    def verify(self, rollout: Rollout) -> Verdict:
        return Verdict(float(len(rollout.final_text)))


async def test_ten_megabytes_each_way(http: HttpClient) -> None:
    text = "x" * 10_000_000
    runtime = EnvironmentRuntime(Large, limits=SessionLimits(output_characters=20_000_000))
    server = ResourcesServer(runtime, secret=SECRET, self_address="127.0.0.1:1")
    async with serving(server.app()) as url:
        client = Client(http, url)
        await client.post("seed_session", ROW)
        assert (await client.post("double", {"text": text})).body.decode() == text
        reply = await client.post("verify", {**ROW, "response": {"output": [say(text)]}})
        body = orjson.loads(reply.body)
        assert (body["reward"], body["response"]["output"]) == (1e7, [say(text)])


async def test_a_slow_body_and_a_half_one_harm_nobody(http: HttpClient) -> None:
    server = server_of(worlds.Counter)
    server.app()._body_seconds = 0.2
    async with serving(server.app()) as url:
        host, port = url.removeprefix("http://").split(":")
        head = b"POST /seed_session HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{"
        slow_reader, slow = await asyncio.open_connection(host, int(port))
        slow.write(head)
        _, half = await asyncio.open_connection(host, int(port))
        half.write(head)
        await half.drain()
        half.close()
        assert (await Client(http, url).post("seed_session", COUNTER)).status == 200
        async with asyncio.timeout(SECONDS):
            assert (await slow_reader.readline()).startswith(b"HTTP/1.1 408")
        slow.close()
        assert len(server.sessions) == 1


async def test_what_is_no_json_is_refused_and_the_connection_goes_on(http: HttpClient) -> None:
    server = server_of(worlds.Counter)
    async with serving(server.app()) as url:
        client = Client(http, url)
        await client.post("seed_session", COUNTER)
        for path in ("seed_session", "verify", "step", "reset", "increment"):
            for body in (b"{", b"\xff\xfe", b"null", b'"x"', b"\0"):
                reply = await client.post(path, body)
                assert reply.status == 422, (path, body, reply.body)
                assert isinstance(orjson.loads(reply.body)["detail"], list)
        assert (await client.post("read")).body == b"2"
        assert http.opened == 1


# MCP


async def test_a_real_mcp_client_uses_the_tools(http: HttpClient) -> None:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared._httpx_utils import create_mcp_http_client

    server = server_of(worlds.Counter, expose_tools_over_mcp=True)
    async with serving(server.app()) as url:
        client = Client(http, url)
        told = orjson.loads((await client.post("seed_session", COUNTER)).body)["mcp"]
        async with (
            create_mcp_http_client(headers=told["headers"]) as transport,
            streamable_http_client(url + told["url_path"], http_client=transport) as (read, write, *_),
            ClientSession(read, write) as session,
        ):
            begun = await session.initialize()
            assert begun.server_info.name == "Counter"
            await session.send_ping()
            assert [one.name for one in (await session.list_tools()).tools] == ["increment", "read"]
            result = await session.call_tool("increment", {"count": 5})
            assert (result.is_error, result.structured_content) == (False, {"value": 7})
            assert (await session.call_tool("increment", {"count": -1})).is_error
        assert (await client.post("read")).body == b"7"
