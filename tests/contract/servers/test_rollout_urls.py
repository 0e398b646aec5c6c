"""A base URL for every rollout: three dialects, routing, retries and capture behind it, and nothing after its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
import pytest

from kubegym.core.clock import Deadline
from kubegym.core.protocols import CallContext
from kubegym.http import HttpClient, Response, Url
from kubegym.model.rollout_urls import CapturedCall, RolloutUrls
from kubegym.model.simulated import SimulatedConfig, serve_simulated
from testbed.models import QUESTION, chat, events, told
from testbed.raw_server import Peer, raw_server

pytestmark = pytest.mark.contract

TOKENS = chat(token_ids=[5], logprobs={"content": [{"token": "a", "logprob": -0.5}]}) | {"prompt_token_ids": [1]}
CALLS = {
    "/v1/responses": {"input": "q"},
    "/v1/chat/completions": QUESTION,
    "/v1/messages": {**QUESTION, "max_tokens": 5},
}


class Kept:
    """Keeps calls in memory."""

    def __init__(self) -> None:
        self.calls: list[CapturedCall] = []

    def captured(self, call: CapturedCall) -> None:
        self.calls.append(call)


class Agent:
    """Knows a base URL."""

    def __init__(self, http: HttpClient, base: str) -> None:
        self.http = http
        self.base = base

    async def ask(self, path: str, body: Any, headers: str = "") -> Response:
        lines = f"content-type: application/json\r\nauthorization: Bearer dummy\r\n{headers}".encode()
        return await self.http.request(b"POST", Url(self.base + path), lines, orjson.dumps(body), 30.0)


@asynccontextmanager
async def urls(upstreams: list[str], **options: Any) -> AsyncIterator[RolloutUrls]:
    async with RolloutUrls(upstreams, model="policy", **options) as opened:
        yield opened


def context(identity: str = "0123abcd-1-0", seconds: float = 60.0) -> CallContext:
    return CallContext(identity, Deadline(seconds))


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    client = HttpClient()
    yield client
    await client.close()


async def test_three_dialects(http: HttpClient) -> None:
    engine = await serve_simulated(SimulatedConfig(model="policy"))
    async with urls([engine.url]) as opened:
        agent = Agent(http, opened.open(context()))
        for path, body in CALLS.items():
            assert (await agent.ask(path, body)).status == 200
            streamed = await agent.ask(path, {**body, "stream": True})
            assert streamed.status == 200
            assert events(streamed.body)
    await engine.close()


async def test_what_is_captured_is_more_than_what_the_agent_sees(http: HttpClient) -> None:
    seen: list[Any] = []

    async def script(peer: Peer) -> None:
        while True:
            seen.append(await peer.request())
            peer.say(told(200, orjson.dumps(TOKENS), extra="x-kubegym-policy-version: 7\r\n"))

    kept = Kept()
    async with raw_server(script) as upstream, urls([upstream], capture=kept, token_ids=True) as opened:
        agent = Agent(http, opened.open(context()))
        heard = [
            (path, streamed, (await agent.ask(path, {**body, "stream": streamed} if streamed else body)).body)
            for path, body in CALLS.items()
            for streamed in (False, True)
        ]
    assert [(call.rollout_id, call.policy) for call in kept.calls] == [("0123abcd-1-0", (7, []))] * 6
    assert [call.dialect for call in kept.calls] == ["responses"] * 2 + ["chat"] * 2 + ["responses"] * 2
    for call in kept.calls:
        if call.dialect == "chat":
            assert call.reply == TOKENS
        else:
            assert call.reply["output"][-1]["generation_token_ids"] == [5]
    for path, streamed, body in heard:
        assert b"token_ids" not in body, path
        assert b"logprob" not in body or path == "/v1/responses", path
        assert b"hello" in body
        assert bool(events(body)) == streamed
    asked = [json.loads(body) for head, body in seen if b"/chat/completions" in head]
    assert len(asked) == 6
    assert all(body["return_token_ids"] is True for body in asked)
    assert all(b"Bearer dummy" not in head for head, _ in seen)


async def test_what_the_agent_asked_for_itself_it_sees(http: HttpClient) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            peer.ok(orjson.dumps(TOKENS))

    async with raw_server(script) as upstream, urls([upstream], capture=Kept(), token_ids=True) as opened:
        agent = Agent(http, opened.open(context()))
        body = {**QUESTION, "logprobs": True, "return_token_ids": True}
        assert json.loads((await agent.ask("/v1/chat/completions", body)).body) == TOKENS


async def test_without_capture_calls_go_through_as_they_are(http: HttpClient) -> None:
    seen: list[bytes] = []
    reply = b'{ "choices": [{"finish_reason": "stop"}], "odd": 1.50 }'

    async def script(peer: Peer) -> None:
        while True:
            seen.append((await peer.request())[1])
            peer.ok(reply)

    async with raw_server(script) as upstream, urls([upstream]) as opened:
        agent = Agent(http, opened.open(context()))
        body = {**QUESTION, "model": "policy", "zzz": 1}
        assert (await agent.ask("/v1/chat/completions", body)).body == reply
        assert seen == [orjson.dumps(body)]


async def test_a_url_is_good_for_its_rollout_while_it_runs(http: HttpClient) -> None:
    engine = await serve_simulated(SimulatedConfig(model="policy"))
    async with urls([engine.url]) as opened:
        one, other = opened.open(context("0123abcd-1-0")), opened.open(context("0123abcd-2-0"))
        forged = one.replace("0123abcd-1-0", "0123abcd-2-0")
        root = one.partition("/ng-rollout/")[0]
        for base in (forged, root, f"{root}/ng-rollout/0123abcd-1-0", one[:-1]):
            for path, body in CALLS.items():
                assert (await Agent(http, base).ask(path, body)).status == 404
        opened.shut("0123abcd-1-0")
        opened.shut("0123abcd-1-0")
        assert (await Agent(http, one).ask("/v1/responses", {"input": "q"})).status == 404
        assert (await Agent(http, other).ask("/v1/responses", {"input": "q"})).status == 200
    assert engine.requests == 1
    await engine.close()


@pytest.mark.parametrize("path", CALLS)
async def test_an_abort_is_asked_again_and_never_a_sample(http: HttpClient, path: str) -> None:
    asked = 0

    async def script(peer: Peer) -> None:
        nonlocal asked
        while True:
            await peer.request()
            asked += 1
            peer.ok(orjson.dumps(chat("half a", finish_reason="abort") if asked < 3 else chat("whole")))

    kept = Kept()
    async with raw_server(script) as upstream, urls([upstream], capture=kept) as opened:
        heard = await Agent(http, opened.open(context())).ask(path, CALLS[path])
    assert heard.status == 200
    assert (b"whole" in heard.body, b"half" in heard.body, len(kept.calls), asked) == (True, False, 1, 3)


async def test_a_rollout_keeps_its_replica(http: HttpClient) -> None:
    async with AsyncExitStack() as stack:
        engines = [await serve_simulated(SimulatedConfig(model="policy")) for _ in range(3)]
        for engine in engines:
            stack.push_async_callback(engine.close)
        opened = await stack.enter_async_context(urls([engine.url for engine in engines]))
        for number in range(6):
            agent = Agent(http, opened.open(context(f"0123abcd-{number}-0")))
            for path, body in CALLS.items():
                await agent.ask(path, body)
        assert [engine.requests for engine in engines] == [6, 6, 6]
        for number in range(6):
            opened.shut(f"0123abcd-{number}-0")
        assert all(rollouts == 0 for *_, rollouts in opened._upstreams.states())


async def test_a_call_ends_with_its_rollouts_deadline(http: HttpClient) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with raw_server(script) as upstream, urls([upstream]) as opened:
        agent = Agent(http, opened.open(context(seconds=0.2)))
        async with asyncio.timeout(120):
            assert (await agent.ask("/v1/chat/completions", QUESTION)).status == 504
