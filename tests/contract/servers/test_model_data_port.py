"""What goes through the data port: byte for byte, what is listed and nothing else."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import orjson
import pytest

from kubegym.core.errors import InvalidSpec
from kubegym.http import ConnectionLost, HttpClient
from kubegym.model.forward import POSTED, READ
from kubegym.model.server import ModelServer
from kubegym.model.upstream import endpoint_client
from testbed.models import QUESTION, STREAM_END, STREAM_HEAD, Caller, chat, chunk, model_behind, told
from testbed.raw_server import Peer, raw_server
from testbed.served import serving

pytestmark = pytest.mark.contract

COMPLETION = orjson.dumps(chat())
ODD = b'{ "model":"policy", "prompt":[1,2], "zzz": {"a": 1.50}, "messages": [], "n":1 }'


class Recorder:
    """Answers everything alike and keeps what it was asked."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply
        self.heads: list[str] = []
        self.bodies: list[bytes] = []

    async def __call__(self, peer: Peer) -> None:
        while True:
            head, body = await peer.request()
            self.heads.append(head.decode("latin-1"))
            self.bodies.append(body)
            peer.say(self.reply)


@pytest.mark.parametrize("path", POSTED)
async def test_a_listed_route_goes_through_as_it_is(path: str) -> None:
    answer = b'{"tokens" : [1, 2],  "odd": 1.50}'
    upstream = Recorder(told(200, answer, extra="X-Engine: 7\r\nConnection: X-Hop\r\nX-Hop: 1\r\n"))
    async with model_behind(upstream) as model:
        heard = await model.post(path + "?a=b", ODD, "x-request-id: r7\r\nx-custom: 1\r\nte: trailers\r\n")
    assert (heard.status, heard.body, heard.header(b"x-engine")) == (200, answer, b"7")
    assert heard.header(b"x-hop") is None
    assert upstream.bodies == [ODD]
    assert upstream.heads[0].startswith(f"POST {path}?a=b HTTP/1.1\r\n")
    assert "x-request-id: r7\r\n" in upstream.heads[0]
    assert "x-custom: 1\r\n" in upstream.heads[0]
    assert "\r\nte: " not in upstream.heads[0]


@pytest.mark.parametrize("path", READ)
async def test_what_an_engine_says_of_itself(path: str) -> None:
    upstream = Recorder(told(200, b"{}"))
    async with model_behind(upstream) as model:
        assert (await model.get(path)).body == b"{}"
    assert upstream.heads[0].startswith(f"GET {path} HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "path",
    [
        *("/collective_rpc", "/pause", "/resume", "/sleep", "/wake_up", "/reset_prefix_cache", "/is_paused"),
        *("/update_weights", "/init_weight_transfer_engine", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
        *("/server_info", "/weight_info", "/update_weight_version", "/start_profile", "/abort_requests"),
        *("//collective_rpc", "/v1/../collective_rpc", "/tokenize/../collective_rpc", "/tokenize%2f..%2fpause"),
        *("/ng-rollout/r/collective_rpc", "/v1/collective_rpc", "/COLLECTIVE_RPC", "/tokenize/"),
    ],
)
async def test_an_engines_controls_are_out_of_reach(path: str) -> None:
    upstream = Recorder(told(200, b"{}"))
    async with model_behind(upstream) as model:
        assert (await model.post(path, {})).status in (404, 405)
        assert (await model.get(path)).status in (404, 405)
    assert upstream.heads == []


async def test_errors_of_a_listed_route_are_the_engines_own() -> None:
    upstream = Recorder(told(418, b"short and stout", "text/plain"))
    async with model_behind(upstream) as model:
        heard = await model.post("/pooling", ODD)
    assert (heard.status, heard.body, heard.header(b"content-type")) == (418, b"short and stout", b"text/plain")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_generation_goes_through_byte_for_byte(path: str) -> None:
    reply = b'{ "choices": [{"finish_reason":"stop", "token_ids": [5]}], "usage":null, "new": 1.50 }'
    upstream = Recorder(told(200, reply, extra="x-engine: 7\r\nkeep-alive: timeout=5\r\n"))
    async with model_behind(upstream) as model:
        heard = await model.post(path, ODD, "x-custom: 1\r\naccept-encoding: gzip\r\n")
    assert (heard.body, heard.header(b"x-engine"), heard.header(b"keep-alive")) == (reply, b"7", None)
    assert upstream.bodies == [ODD]
    assert "x-custom: 1\r\n" in upstream.heads[0]
    assert "accept-encoding" not in upstream.heads[0]  # a compressed reply could not be judged


async def test_a_name_that_the_engine_serves_beside_the_model_is_not_replaced() -> None:
    """An adapter's: once the engine lists it, calls may ask for it."""
    seen: list[Any] = []

    async def script(peer: Peer) -> None:
        while True:
            head, body = await peer.request()
            if head.startswith(b"GET /v1/models "):
                peer.ok(orjson.dumps({"data": [{"id": "policy"}, {"id": "adapter-7"}]}))
            else:
                seen.append(json.loads(body)["model"])
                peer.ok(COMPLETION)

    http = HttpClient()
    async with raw_server(script) as upstream, serving(ModelServer([upstream], model="policy")) as url:
        model = Caller(http, url)
        async with asyncio.timeout(120):
            while (await model.get("/readyz")).status != 200:
                pass
        for name in ("adapter-7", "unheard-of", "policy"):
            await model.post("/v1/chat/completions", {**QUESTION, "model": name})
        await http.close()
    assert seen == ["adapter-7", "policy", "policy"]


@pytest.mark.parametrize("cut", [None, 30, 60], ids=["whole", "in two", "in two elsewhere"])
async def test_a_generation_given_up_within_a_stream_is_never_ended_cleanly(cut: int | None) -> None:
    last = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"abort"}]}\n\n'
    pieces = [last] if cut is None else [last[:cut], last[cut:]]

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.say(STREAM_HEAD + chunk(b'data: {"choices":[{"delta":{"content":"abort"}}]}\n\n'))
        for piece in pieces:
            await peer.writer.drain()
            await asyncio.sleep(0.02)  # so that they come one by one
            peer.say(chunk(piece))
        peer.say(chunk(b"data: [DONE]\n\n") + STREAM_END)
        await peer.gone()

    async with model_behind(script) as model:
        async with model.stream("/v1/chat/completions", {**QUESTION, "stream": True}) as reply:
            with pytest.raises(ConnectionLost):
                await reply.read(10_000)
        assert 'status="cut"} 1.0' in await model.metrics()


async def test_usage_at_a_streams_end_is_counted_by_run_and_role() -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":11,"total_tokens":18,"completion_tokens":7}}\n\n'

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.say(STREAM_HEAD + chunk(b'data: {"choices":[]}\n\n') + chunk(usage + b"data: [DONE]\n\n") + STREAM_END)
        await peer.gone()

    async with model_behind(script) as model:
        headers = "x-kubegym-run: run-9\r\nx-kubegym-role: judge\r\n"
        await model.post("/v1/chat/completions", {**QUESTION, "stream": True}, headers)
        metrics = await model.metrics()
    assert 'kubegym_model_server_tokens_total{kind="output",role="judge",run="run-9"} 7.0' in metrics
    assert 'kubegym_model_server_tokens_total{kind="input",role="judge",run="run-9"} 11.0' in metrics


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("http://h:1/v1", "http://h:1/v1"),
        ("http://h:1/v1/", "http://h:1/v1/"),
        ("http://h:1/openai", "http://h:1/openai/v1"),
        ("http://h:1/v1beta", "http://h:1/v1beta"),
        ("http://h:1/api/v3", "http://h:1/api/v3"),
    ],
)
def test_an_upstream_is_its_root_or_its_api(given: str, asked: str) -> None:
    client = endpoint_client(given, "m")
    assert client.base_url == asked
    root = asked.rstrip("/").rpartition("/")[0]
    assert (client.at("tokenize").shown, client.at("v1/completions").shown) == (
        f"{root}/tokenize",
        f"{asked.rstrip('/')}/completions",
    )


def test_an_upstream_that_is_no_url() -> None:
    with pytest.raises(InvalidSpec):
        endpoint_client("localhost:8000", "m")
