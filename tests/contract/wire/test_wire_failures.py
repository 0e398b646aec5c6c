"""What goes wrong between servers: each outcome is the one DESIGN 3.2 and 7 name, nothing hangs, nothing is left."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from testbed.wire_client import ROW, Target, Wire
from testbed.wire_targets import COUNTER, Fleet, script, server

pytestmark = pytest.mark.contract

OURS = {"x-kubegym-wire": "1"}
LIMIT_SECONDS = 240.0
TEN_MEGABYTES = 10 << 20
GAUGES = {
    "resources": "kubegym_resources_sessions[ {]",
    "agent": "kubegym_agent_rollouts_in_flight",
    "model": "kubegym_model_server_in_flight",
}


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition. Fails after a generous limit."""
    ends = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < ends, what
        time.sleep(0.02)


def held(kind: str, url: str) -> float:
    """Sessions, rollouts or calls on a server; those of other tests, too, where it is shared."""
    return Wire(url).metric(GAUGES[kind])


def nothing_left(kind: str, url: str, before: float = 0) -> None:
    """No session, rollout or call is left on a server, beyond those that were there before."""
    until(lambda: held(kind, url) <= before, f"something is left on the {kind} server: {GAUGES[kind]}")


def row(*steps: Any, **fields: Any) -> dict[str, Any]:
    params = {"input": script(*steps)} if steps else ROW["responses_create_params"]
    return {**ROW, "responses_create_params": params, **fields}


def address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def request_bytes(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: test", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    with socket.create_connection(address(url), timeout=LIMIT_SECONDS) as connection:
        yield connection


# Replicas and restarts


def test_a_replica_killed_between_seed_and_verify(fleet: Fleet) -> None:
    options = '{"secret": "both of us know it"}'
    with server("resources", str(COUNTER), options) as first, server("resources", str(COUNTER), options) as second:
        wire = Wire(first.url)
        assert wire.post("/seed_session", ROW).status == 200
        wire.url = second.url
        assert wire.post("/increment_counter", {"count": 1}).status == 200, "the second one forwards"
        first.kill()
        reply = wire.post("/verify", {**ROW, "response": {"output": []}}, OURS)
        assert reply.status == 410
        assert reply.header("x-kubegym-failure") == "1"
        failure = reply.json()["kubegym"]["failure"]
        assert (failure["stage"], failure["reason"], failure["retryable"]) == ("agent", "SessionLost", True)
        nothing_left("resources", second.url)


def test_a_replica_killed_under_a_rollout(fleet: Fleet) -> None:
    with (
        server("resources", str(COUNTER)) as doomed,
        server("resources", str(COUNTER)) as other,
        server("agent", f"{doomed.url},{other.url}", fleet.url("model")) as agent,
        ThreadPoolExecutor(8) as pool,
    ):
        waiting = row([["wait", {"seconds": 3000}]], "done")
        replies = [pool.submit(Wire(agent.url).post, "/run", waiting, OURS) for _ in range(4)]
        sessions = GAUGES["resources"]
        until(lambda: Wire(doomed.url).metric(sessions) == Wire(other.url).metric(sessions) == 2, "four sessions")
        doomed.kill()
        failed = [pool.submit(lambda reply: reply.result().json(), reply) for reply in replies]
        until(lambda: sum(one.done() for one in failed) == 2, "the doomed rollouts fail at once, not at a deadline")
        for one in failed:
            if one.done():
                failure = one.result()["kubegym"]["failure"]
                assert (failure["stage"], failure["reason"]) == ("tool", "ToolUnavailable")
                assert failure["retryable"] is True
                assert one.result()["reward"] is None
        # The next ones go to the server that is left.
        assert [Wire(agent.url).post("/run", row()).json()["reward"] for _ in range(4)] == [1.0] * 4
        other.kill()
        for one in failed:
            assert one.result(LIMIT_SECONDS)["kubegym"]["failure"]["reason"] == "ToolUnavailable"
        nothing_left("agent", agent.url)


def test_a_resources_server_restarts(fleet: Fleet) -> None:
    with server("resources", str(COUNTER)) as before, server("agent", before.url, fleet.url("model")) as agent:
        assert Wire(agent.url).post("/run", row()).json()["reward"] == 1.0
        wire = Wire(before.url)
        assert wire.post("/seed_session", ROW).status == 200
        before.kill()
        gone = Wire(agent.url).post("/run", row(), OURS).json()
        failure = gone["kubegym"]["failure"]
        assert (failure["reason"], failure["retryable"], gone["reward"]) == ("SeedUnavailable", True, None)
        with server("resources", str(COUNTER), json.dumps({"port": before.port})) as after:
            assert after.url == before.url
            lost = wire.post("/increment_counter", {"count": 1})
            assert (lost.status, lost.json()["kubegym"]["failure"]["reason"]) == (410, "SessionLost")
            ready = Wire(agent.url)
            until(lambda: ready.post("/run", row()).json()["reward"] == 1.0, "rollouts run again")
            nothing_left("resources", after.url)


def test_the_end_of_a_server_waits_for_what_runs(fleet: Fleet, tmp_path: Path) -> None:
    there = tmp_path / "there"
    with (
        server("resources", str(COUNTER)) as resources,
        server("agent", resources.url, fleet.url("model")) as agent,
        ThreadPoolExecutor(1) as pool,
    ):
        try:
            waiting = row([["wait_for", {"path": str(there)}]], "done")
            running = pool.submit(Wire(agent.url).post, "/run", waiting)
            until(lambda: Wire(agent.url).metric(GAUGES["agent"]) == 1, "it runs")
            agent.process.terminate()
            until(lambda: not listens(agent.url), "nobody new is let in")
            assert not running.done()
        finally:
            there.touch()
        assert running.result(LIMIT_SECONDS).json()["reward"] == 1.0
        assert agent.process.wait(LIMIT_SECONDS) == 0


def listens(url: str) -> bool:
    try:
        socket.create_connection(address(url), timeout=LIMIT_SECONDS).close()
    except ConnectionError:
        return False
    return True


# Models


def test_a_model_that_answers_late(fleet: Fleet) -> None:
    resources = fleet.url("resources")
    before = held("resources", resources)
    with server("upstream", '{"faults": {"hang": 1.0}}') as hanging, server("model", hanging.url) as model:
        reply = Wire(model.url).post("/v1/responses", {"input": "x"}, {"x-kubegym-deadline": "0.5"})
        assert reply.status == 504
        assert reply.header("x-kubegym-failure") == "1"
        assert reply.json()["kubegym"]["failure"]["reason"] == "ModelTimeout"
        with server("agent", resources, model.url) as agent:
            late = Wire(agent.url).post("/run", row(), {**OURS, "x-kubegym-deadline": "1"}).json()
            failure = late["kubegym"]["failure"]
            assert late["reward"] is None
            assert failure["reason"] in ("DeadlineExceeded", "ModelTimeout")
            theirs = Wire(agent.url).post("/run", row(), {"x-kubegym-deadline": "1"}).json()
            assert (theirs["reward"], theirs["mask_sample"]) == (0.0, True)
            nothing_left("agent", agent.url)
        nothing_left("model", model.url)
    nothing_left("resources", resources, before)


def test_a_model_that_is_not_there(fleet: Fleet) -> None:
    with server("upstream") as upstream, server("model", upstream.url) as model:
        upstream.kill()
        reply = Wire(model.url).post("/v1/responses", {"input": "x"})
        assert reply.status == 502
        assert reply.json()["kubegym"]["failure"] | {"message": ""} == {
            "stage": "model",
            "reason": "ModelUnavailable",
            "message": "",
            "retryable": True,
        }
        events = Wire(model.url).post("/v1/responses", {"input": "x", "stream": True})
        assert b"response.failed" in events.body
        assert b'"code":"server_error"' in events.body
        nothing_left("model", model.url)


# Clients


@pytest.mark.parametrize("ending", ["closed", "half closed", "reset"])
def test_a_client_that_leaves_a_rollout(our_agent: Target, ending: str) -> None:
    body = json.dumps(row([["wait", {"seconds": 3000}]], "done")).encode()
    wire = our_agent.wire()
    with connected(our_agent.url) as connection:
        connection.sendall(request_bytes("POST", "/run", body))
        until(lambda: wire.metric(GAUGES["agent"]) == 1, "it runs")
        if ending == "half closed":
            connection.shutdown(socket.SHUT_WR)
            nothing_left("agent", our_agent.url)
        elif ending == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    nothing_left("agent", our_agent.url)


def test_requests_that_end_in_the_middle(fleet: Fleet) -> None:
    whole = request_bytes("POST", "/seed_session", json.dumps(ROW).encode())
    url = fleet.url("resources")
    before = held("resources", url)
    for length in (1, 20, whole.index(b"\r\n\r\n") + 2, whole.index(b"\r\n\r\n") + 10, len(whole) - 1):
        for shut in (True, False):
            with connected(url) as connection:
                connection.sendall(whole[:length])
                if shut:
                    connection.shutdown(socket.SHUT_WR)
                    assert connection.recv(100) == b"", "the server closes, too"
    assert Wire(url).get("/healthz").status == 200
    nothing_left("resources", url, before)


@pytest.mark.parametrize("kind", ["resources", "agent", "model"])
def test_what_is_no_http(fleet: Fleet, kind: str) -> None:
    url = fleet.url(kind)
    for sent in (
        b"\x16\x03\x01\x02\x00\x01\x00",  # TLS
        b"GET\r\n\r\n",
        b"POST /run HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /run HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * (1 << 20) + b"\r\n\r\n",
        b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /verify HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /%ff%00 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET //[ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    ):
        with connected(url) as connection:
            try:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                answer = b""
                while piece := connection.recv(65536):
                    answer += piece
            except OSError:
                continue  # the server would not read on
            assert answer == b"" or answer.split(b" ")[1][:1] == b"4", answer[:200]
    assert Wire(url).get("/healthz").status == 200


def test_expectations_and_chunks(fleet: Fleet) -> None:
    url = fleet.url("resources")
    with connected(url) as connection:
        head = b"POST /seed_session HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n"
        connection.sendall(head)
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        body = json.dumps(ROW).encode()
        for start in range(0, len(body), 50):
            piece = body[start : start + 50]
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        connection.sendall(b"0\r\n\r\n")
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 200 ")
    given = SimpleCookie(answer.partition(b"set-cookie: ")[2].partition(b"\r\n")[0].decode())
    wire = Wire(url, {name: morsel.value for name, morsel in given.items()})
    assert wire.post("/get_counter_value", {}).body == b"3", "the session of it"


def test_close_stops_what_runs_in_the_session(our_resources: Target) -> None:
    wire = our_resources.wire()
    assert wire.post("/seed_session", our_resources.row).status == 200
    with ThreadPoolExecutor(1) as pool:
        calls = Wire(our_resources.url, dict(wire.cookies))
        running = pool.submit(calls.post, "/wait", {"seconds": 600})
        assert calls.other().post("/close", {}).status == 200, "somebody else's"
        until(lambda: wire.post("/close", {}).status == 200 and running.done(), "the call goes on")
        reply = running.result()
    assert (reply.status, reply.json()["kubegym"]["failure"]["reason"]) == (410, "SessionLost")


# Sizes and numbers


def test_bodies_of_ten_megabytes(fleet: Fleet) -> None:
    wire = Wire(fleet.url("replicas"))
    text = "x" * TEN_MEGABYTES
    assert wire.post("/seed_session", {**ROW, "long": text}).status == 200
    assert wire.post("/measure", {"text": text}).body == b"%d" % TEN_MEGABYTES
    reply = wire.post("/verify", {**ROW, "long": text, "response": {"output": []}})
    assert reply.json()["reward"] == 1.0
    assert reply.json()["long"] == text
    result = Wire(fleet.url("agent")).post("/run", row("done", long=text)).json()
    assert result["reward"] == 1.0
    assert result["long"] == text
    chat = {"model": "stub", "messages": [{"role": "user", "content": text}]}
    assert Wire(fleet.url("model")).post("/v1/chat/completions", chat).status == 200
    assert Wire(fleet.url("model")).post("/v1/responses", {"input": text}).status == 200


def test_a_thousand_connections_at_once(fleet: Fleet) -> None:
    count = 1024
    resources = fleet.url("resources")
    before = held("resources", resources)

    async def ask(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes) -> bytes:
        reader, writer = connection
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return head + await reader.readexactly(int(lengths[0].split(b":")[1]))

    async def all_at_once() -> list[bytes]:
        address_of = address(fleet.url("agent"))
        connections = await asyncio.gather(*(asyncio.open_connection(*address_of) for _ in range(count)))
        data = [
            request_bytes("POST", "/run", json.dumps({**ROW, "_ng_rollout_index": number}).encode())
            for number in range(count)
        ]
        try:
            return await asyncio.gather(*map(ask, connections, data))
        finally:
            for _, writer in connections:
                writer.close()

    replies = asyncio.run(asyncio.wait_for(all_at_once(), LIMIT_SECONDS))
    assert {reply.split(b" ")[1] for reply in replies} == {b"200"}
    results = [json.loads(reply.partition(b"\r\n\r\n")[2]) for reply in replies]
    assert {result["reward"] for result in results} == {1.0}
    assert sorted(result["_ng_rollout_index"] for result in results) == list(range(count))
    nothing_left("agent", fleet.url("agent"))
    nothing_left("model", fleet.url("model"))
    nothing_left("resources", resources, before)


def test_a_reader_who_is_slow(fleet: Fleet) -> None:
    url = fleet.url("resources")
    wire = Wire(url)
    assert wire.post("/seed_session", ROW).status == 200
    cookie = "; ".join(f"{name}={value}" for name, value in wire.cookies.items())
    body = json.dumps({**ROW, "response": {"output": []}, "long": "x" * TEN_MEGABYTES}).encode()
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(LIMIT_SECONDS)
        slow.connect(address(url))
        slow.sendall(request_bytes("POST", "/verify", body, {"cookie": cookie, "connection": "close"}))
        first = slow.recv(1024)
        assert first.startswith(b"HTTP/1.1 200 ")
        assert Wire(url).post("/run_nothing", {}).status == 404, "others are served meanwhile"
        received = len(first)
        while piece := slow.recv(65536):
            received += len(piece)
        assert received > TEN_MEGABYTES


def test_a_long_tool_output_is_cut(fleet: Fleet) -> None:
    wire = Wire(fleet.url("resources"))
    assert wire.post("/seed_session", ROW).status == 200
    reply = wire.post("/repeat", {"text": "x" * 1024, "times": TEN_MEGABYTES >> 10})
    assert reply.status == 200
    assert 1_000_000 <= len(reply.body) < 1_001_000
    assert wire.post("/close", {}).status == 200


@pytest.mark.parametrize("kind", ["resources", "agent", "model"])
def test_a_head_without_end(fleet: Fleet, kind: str) -> None:
    with connected(fleet.url(kind)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n")
        answer = b""
        try:
            for _ in range(64):
                connection.sendall(b"x: %b\r\n" % (b"a" * 65536))
            while piece := connection.recv(65536):
                answer += piece
        except OSError:
            pass  # the server has closed its side already
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert Wire(fleet.url(kind)).get("/healthz").status == 200
