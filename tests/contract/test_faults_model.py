"""Runs whose model misbehaves: what it says, what it breaks, when it is away (DESIGN 3.2)."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubegym import tool
from kubegym.core.errors import ModelError
from kubegym.core.retry import Backoff
from kubegym.model.client import ChatClient
from kubegym.model.errors import ModelNotFound, ModelOverloaded, ModelUnauthorized, ModelUnavailable
from kubegym.model.simulated import Answers, Faults, SimulatedConfig, serve_simulated
from kubegym.rollout import FailureBudgetExceeded, Progress
from kubegym.storage import open_store
from testbed.local_runs import (
    BAD,
    QUICK,
    Fine,
    assert_fails_alone,
    assert_nothing_written,
    assert_scored,
    completion,
    engine_client,
    last_role,
    number_asked,
    numbered,
    settle_all,
    settled,
    start,
    tool_call,
)
from testbed.ports import kept_port
from testbed.raw_server import Peer, raw_server
from testbed.runs import until

pytestmark = pytest.mark.contract

MODELS = b'{"object": "list", "data": [{"id": "m", "object": "model"}]}'


def script(misbehave: Callable[[Peer], None]) -> Callable[[Peer], Any]:
    """A server that is fine but for what it says to row ``BAD``."""

    async def serve(peer: Peer) -> None:
        while True:
            head, body = await peer.request()
            if head.startswith(b"GET"):
                peer.ok(MODELS)
            elif number_asked(json.loads(body)) != BAD:
                peer.ok(json.dumps(completion()).encode())
            else:
                misbehave(peer)
                return  # and the connection ends

    return serve


def says(
    body: bytes | dict[str, Any], status: str = "200 OK", kind: str = "application/json"
) -> Callable[[Peer], None]:
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n\r\n".encode()
    return lambda peer: peer.say(head + data)


def aborted() -> dict[str, Any]:
    reply = completion("half of a te")
    reply["choices"][0]["finish_reason"] = "abort"
    return reply


@pytest.mark.parametrize(
    ("misbehave", "reason", "retryable"),
    [
        pytest.param(
            lambda peer: peer.say(b"\x16\x03\x01\x00\xff garbage\r\n\r\n"), "ModelUnavailable", True, id="bytes"
        ),
        pytest.param(lambda peer: None, "ModelUnavailable", True, id="hangs-up"),
        pytest.param(
            lambda peer: peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{"),
            "ModelUnavailable",
            True,
            id="hangs-up-in-the-body",
        ),
        pytest.param(says(b"<html>hello", kind="text/html"), "ModelReplyInvalid", True, id="html"),
        pytest.param(says(b'{"choices": [{"mess'), "ModelReplyInvalid", True, id="cut-json"),
        pytest.param(says(b"[1, 2]"), "ModelReplyInvalid", False, id="other-json"),
        pytest.param(says({"object": "chat.completion"}), "ModelReplyInvalid", False, id="no-choices"),
        pytest.param(says({**completion(), "choices": []}), "ModelReplyInvalid", False, id="empty-choices"),
        pytest.param(says({"choices": [{"message": None}]}), "ModelReplyInvalid", False, id="null-message"),
        pytest.param(
            says(completion(**tool_call(7, "{}"))),  # type: ignore[arg-type]  # that is the trouble
            "ModelReplyInvalid",
            False,
            id="tool-name-is-a-number",
        ),
        pytest.param(
            says({**completion(), "usage": {"prompt_tokens_details": {"cached_tokens": "many"}}}),
            "ModelReplyInvalid",
            False,
            id="usage",
        ),
        pytest.param(says(aborted()), "ModelAborted", True, id="abort"),
        pytest.param(says(b"oops", "500 Oops"), "ModelUnavailable", True, id="500"),
        pytest.param(says(b"bad gateway", "502 Bad Gateway"), "ModelUnavailable", True, id="502"),
        pytest.param(says(b"moved", "307 Moved"), "ModelRejectedRequest", False, id="redirect"),
        pytest.param(says(b"no", "400 Bad Request"), "ModelRejectedRequest", False, id="400"),
        pytest.param(says(b"who?", "401 Unauthorized"), "ModelUnauthorized", False, id="401"),
        pytest.param(says(b"where?", "404 Not Found"), "ModelNotFound", False, id="404"),
    ],
)
async def test_a_reply_that_is_none_fails_its_rollout_alone(
    misbehave: Callable[[Peer], None], reason: str, retryable: bool, tmp_path: Path
) -> None:
    async with raw_server(script(misbehave)) as url:
        client = ChatClient(f"{url}/v1", "m", faults=QUICK)
        ended = await settle_all(tmp_path / "out", Fine, client)
        await client.close()
    row = assert_fails_alone(ended, "model", reason, retryable=retryable, message=url)
    assert row["response"] is None
    assert row["kubegym"]["usage"] == {}


@pytest.mark.parametrize("message", [{"content": None}, {"content": ""}, {}, {"content": [], "tool_calls": None}])
async def test_a_message_without_a_word_is_an_answer_and_the_verifiers_to_judge(
    message: dict[str, Any], tmp_path: Path
) -> None:
    reply = completion()
    reply["choices"][0]["message"] = {"role": "assistant", **message}
    async with raw_server(script(lambda peer: peer.ok(json.dumps(reply).encode()))) as url:
        client = ChatClient(f"{url}/v1", "m", faults=QUICK)
        ended = await settle_all(tmp_path / "out", Fine, client)
        await client.close()
    assert_scored(ended, *ended.rows)
    assert ended.rows[BAD]["response"]["output"][0]["content"][0]["text"] == ""


async def test_every_second_reply_is_a_fault_and_nothing_is_lost(tmp_path: Path) -> None:
    """All of the simulated engine's faults at once, but the hang; a run's retries outlast them."""
    faults = Faults(0.08, 0.08, 0.08, 0.0, 0.08, 0.04, 0.08, 0.08, retry_after=0.0)
    server = await serve_simulated(SimulatedConfig(model="m", faults=faults, seed=3))
    client = ChatClient(server.url, "m", faults=Backoff(attempts=20, base=0.001), overload=QUICK)
    ended = await settle_all(tmp_path / "out", Fine, client, rows=numbered(60))
    await client.close()
    await server.close()
    totals = ended.result.manifest.totals
    # JSON without a choice is what an endpoint always says; it is tried once more, then believed.
    assert set(totals.failures) <= {"ModelReplyInvalid"}
    assert (totals.settled, totals.scored) == (60, 60 - totals.failed)
    assert totals.scored >= 55


@pytest.mark.looptime
async def test_429_waits_as_long_as_it_is_asked_to_and_costs_the_rollout_nothing(tmp_path: Path) -> None:
    asked: Counter[int] = Counter()

    def chat(body: dict[str, Any]) -> dict[str, Any]:
        number = number_asked(body)
        asked[number] += 1
        if number == BAD and asked[number] <= 3:
            raise ModelOverloaded("come back later", retry_after=40.0, status=429)
        return completion()

    ended = await settle_all(f"memory://{tmp_path}", Fine, engine_client(chat), rollout_timeout=60.0)
    assert_scored(ended, *ended.rows)
    assert asked[BAD] == 4
    assert ended.rows[BAD]["kubegym"]["attempt"] == 0
    assert ended.rows[BAD]["kubegym"]["timing"]["queue"] == pytest.approx(120, abs=1)


@pytest.mark.looptime
async def test_429_for_ever_fails_the_rollout(tmp_path: Path) -> None:
    def chat(body: dict[str, Any]) -> dict[str, Any]:
        if number_asked(body) == BAD:
            return {"error": {"code": 429, "message": "too many requests", "type": "RateLimitError"}}
        return completion()

    ended = await settle_all(f"memory://{tmp_path}", Fine, engine_client(chat))
    assert_fails_alone(ended, "model", "ModelOverloaded", retryable=True, message="429")


@pytest.mark.looptime
async def test_a_model_that_never_answers_ends_with_the_rollouts_deadline(tmp_path: Path) -> None:
    async def chat(body: dict[str, Any]) -> dict[str, Any]:
        if number_asked(body) == BAD:
            await asyncio.get_running_loop().create_future()
        return completion()

    ended = await settle_all(f"memory://{tmp_path}", Fine, engine_client(chat), rollout_timeout=30.0)
    row = assert_fails_alone(ended, "agent", "DeadlineExceeded", message="30 s")
    assert row["kubegym"]["stop_reason"] == "deadline"


# What a model says to tools


class Calculating(Fine):
    """Has a tool."""

    @tool
    def add(self, a: int, b: int) -> str:
        """Add two integers."""
        return str(a + b)


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("subtract", '{"a": 1}', "Not Found"),
        ("verify", "{}", "Not Found"),
        ("add", "{not json", "Invalid tool call arguments"),
        ("add", "[1, 2]", "Invalid tool call arguments"),
        ("add", "[" * 100_000, "Invalid tool call arguments"),
        ("add", '{"a": 1}', '"loc":["body","b"]'),
        ("add", '{"a": "one", "b": 2}', '"loc":["body","a"]'),
        ("add", '{"a": 1, "b": 1e999}', '"loc":["body","b"]'),
    ],
)
async def test_a_call_that_cannot_be_made_is_answered_and_the_rollout_goes_on(
    name: str, arguments: str, told: str, tmp_path: Path
) -> None:
    def chat(body: dict[str, Any]) -> dict[str, Any]:
        if number_asked(body) == BAD and last_role(body) == "user":
            return completion(**tool_call(name, arguments))
        return completion()

    ended = await settle_all(tmp_path / "out", Calculating, engine_client(chat))
    assert_scored(ended, *ended.rows)
    call, answer, last = ended.rows[BAD]["response"]["output"]
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", name, arguments)
    assert told in answer["output"]
    assert last["content"][0]["text"] == "fine"


async def test_a_tool_loop_without_end_is_cut_at_max_steps_and_verified(tmp_path: Path) -> None:
    def chat(body: dict[str, Any]) -> dict[str, Any]:
        if number_asked(body) == BAD:
            return completion(**tool_call("add", '{"a": 1, "b": 1}'))
        return completion()

    ended = await settle_all(tmp_path / "out", Calculating, engine_client(chat), max_steps=4)
    assert_scored(ended, *ended.rows)
    ours = ended.rows[BAD]["kubegym"]
    assert ours["stop_reason"] == "max_steps"
    assert ours["usage"]["policy"]["calls"] == 4
    skipped = await settle_all(tmp_path / "skip", Calculating, engine_client(chat), max_steps=4, on_truncated="Skip")
    assert (skipped.rows[BAD]["kubegym"]["outcome"], skipped.rows[BAD]["reward"]) == ("unscored", None)
    assert_scored(skipped, *(set(skipped.rows) - {BAD}))


# A model that is away


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (None, ModelUnavailable, "does not answer"),
        (says(b"who?", "401 Unauthorized"), ModelUnauthorized, "refuses the API key"),
        (says({"data": [{"id": "other"}]}), ModelNotFound, "does not serve the model 'm'; it serves: other"),
    ],
)
async def test_without_its_model_a_run_does_not_start(
    answer: Callable[[Peer], None] | None, error: type[ModelError], message: str, tmp_path: Path
) -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        if answer is not None:
            answer(peer)

    output = tmp_path / "out"
    if answer is None:
        with kept_port() as port, pytest.raises(error, match=message):
            await start(output, Fine, ChatClient(f"http://127.0.0.1:{port}/v1", "m"))
    else:
        async with raw_server(serve) as url:
            with pytest.raises(error, match=message):
                await start(output, Fine, ChatClient(f"{url}/v1", "m"))
    assert_nothing_written(output)
    ended = await settle_all(output, Fine, engine_client(lambda body: completion()))
    assert_scored(ended, *ended.rows)


class Watching:
    """A display that keeps the progress."""

    progress: Progress | None = None

    def validating(self, rows: int) -> None:
        return None

    def began(self, output: str, progress: Progress) -> None:
        self.progress = progress

    def merging(self) -> None:
        return None


async def test_an_endpoint_that_goes_away_and_comes_back_costs_nothing(tmp_path: Path) -> None:
    """Its socket is closed while it works, so that calls break and are refused, until some rollouts began again."""
    answered = asyncio.Event()
    count = 0

    def answer(request: dict[str, Any]) -> str:
        nonlocal count
        count += 1
        if count == 10:
            answered.set()
        return "fine"

    config = SimulatedConfig(model="m", answers=Answers(function=answer), max_concurrency=1)
    shown = Watching()
    with kept_port() as port:
        server = await serve_simulated(config, port=port)
        client = ChatClient(server.url, "m", faults=Backoff(attempts=1))
        run = asyncio.create_task(
            settle_all(tmp_path / "out", Fine, client, rows=numbered(60), concurrency=4, display=shown, max_attempts=50)
        )
        async with asyncio.timeout(300):
            await answered.wait()
            await server.close(0)
            await until(lambda: shown.progress is not None and shown.progress.retries >= 4)
            server = await serve_simulated(config, port=port)
            ended = await run
        await client.close()
        await server.close()
    assert_scored(ended, *range(60))
    assert ended.result.manifest.totals.attempts > 60


@pytest.mark.looptime
async def test_an_endpoint_that_stays_away_halts_the_run_and_a_later_start_does_the_rest(tmp_path: Path) -> None:
    output = f"memory://{tmp_path}"
    away = False
    asked: list[int] = []

    def chat(body: dict[str, Any]) -> dict[str, Any]:
        nonlocal away
        away = away or len(asked) >= 30
        if away:
            raise ConnectionRefusedError("nobody there")
        asked.append(number_asked(body))
        return completion()

    client = engine_client(chat)
    options: dict[str, Any] = {"rows": numbered(200), "concurrency": 8, "max_failed_fraction": 0.05}
    with pytest.raises(FailureBudgetExceeded, match="ModelUnavailable"):
        await start(output, Fine, client, **options)
    store = open_store(output)
    assert await store.get("manifest.json") is None
    assert await store.get("manifest.incomplete.json") is not None
    away, first = False, len(asked)
    asked.clear()

    def back(body: dict[str, Any]) -> dict[str, Any]:
        asked.append(number_asked(body))
        return completion()

    result = await start(output, Fine, engine_client(back), **options)
    rows = await settled(output)
    failed = [number for number, row in rows.items() if row["kubegym"]["outcome"] == "failed"]
    assert {row["kubegym"]["failure"]["reason"] for row in rows.values() if row["kubegym"]["failure"]} == {
        "ModelUnavailable"
    }
    assert 20 <= len(failed) < 40
    assert sorted(asked) == sorted(set(range(first, 200)) - set(failed)), "only what was missing was asked for"
    assert (result.resumed, result.exit_code) == (first + len(failed), 1), "what failed stays failed"

    asked.clear()
    again = await start(output, Fine, engine_client(back), retry=["ModelUnavailable"], **options)
    assert sorted(asked) == failed
    assert (again.exit_code, again.manifest.totals.scored, again.manifest.generation) == (0, 200, 2)
    assert {row["reward"] for row in (await settled(output)).values()} == {1.0}
