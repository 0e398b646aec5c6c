"""What a model server makes of upstreams that misbehave, and of clients that do."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import orjson
import pytest

from kubegym.core.errors import InvalidSpec
from kubegym.core.retry import Backoff
from kubegym.http import ConnectionLost, HttpClient, HttpError, Url
from kubegym.model.engine_client import EngineClient
from kubegym.model.server import ModelServer
from kubegym.model.simulated import Distribution, Faults, SimulatedConfig, SimulatedEngine, serve_simulated
from testbed.models import (
    QUESTION,
    STREAM_END,
    STREAM_HEAD,
    WAIT,
    Caller,
    calling,
    chat,
    chunk,
    events,
    model_behind,
    told,
)
from testbed.raw_server import Peer, raw_server
from testbed.served import serving

pytestmark = pytest.mark.contract

PATHS = {
    "/v1/responses": {"input": "q"},
    "/v1/chat/completions": QUESTION,
    "/v1/messages": {**QUESTION, "max_tokens": 5},
}
ONE = Backoff(attempts=1)
COMPLETION = orjson.dumps(chat())
CUT = told(200, COMPLETION)[:-9]
STREAM = {**QUESTION, "stream": True}


def failure(body: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(body)["kubegym"]["failure"]
    return value


async def until(condition: Any) -> None:
    async with asyncio.timeout(WAIT):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)


class TestReplies:
    """What an upstream says, and what the caller hears of it, on every route."""

    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize(
        ("reply", "status", "reason", "retryable"),
        [
            (told(429, b"{}", extra="Retry-After: 7\r\n"), 429, "ModelOverloaded", True),
            (told(503, b"{}"), 503, "ModelOverloaded", True),
            (told(500, b"boom", "text/plain"), 502, "ModelUnavailable", True),
            (told(200, b"<html>proxy</html>", "text/html"), 502, "ModelReplyInvalid", True),
            (told(200, b'{"choices": []}'), 502, "ModelReplyInvalid", False),
            (told(200, orjson.dumps(chat(finish_reason="abort"))), 502, "ModelAborted", True),
            (told(401, b"{}"), 401, "ModelUnauthorized", False),
            (told(404, b"{}"), 404, "ModelNotFound", False),
            (told(400, b'{"error": {"message": "bad schema"}}'), 400, "ModelRejectedRequest", False),
            (COMPLETION, 502, "ModelUnavailable", True),  # not HTTP
            (CUT, 502, "ModelUnavailable", True),
        ],
        ids=["429", "503", "500", "html", "empty", "abort", "401", "404", "400", "garbage", "cut"],
    )
    async def test_becomes(self, path: str, reply: bytes, status: int, reason: str, retryable: bool) -> None:
        requests = 0

        async def script(peer: Peer) -> None:
            nonlocal requests
            while True:
                await peer.request()
                requests += 1
                peer.say(reply)
                if reply in (COMPLETION, CUT):  # nothing that a connection could go on after
                    return

        async with model_behind(script) as model:
            heard = await model.post(path, PATHS[path])
        assert heard.status == status
        assert (failure(heard.body)["reason"], failure(heard.body)["retryable"]) == (reason, retryable)
        assert failure(heard.body)["stage"] == "model"
        assert heard.header(b"x-kubegym-failure") == b"1"
        assert heard.header(b"retry-after") == (b"7" if status == 429 else None)
        assert requests == 1  # whether to ask again is the caller's business

    @pytest.mark.parametrize("path", PATHS)
    async def test_a_hanging_upstream_is_504_and_let_go(self, path: str) -> None:
        gone = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.gone()
            gone.set()

        async with model_behind(script) as model:
            heard = await model.post(path, PATHS[path], "x-kubegym-deadline: 0.5\r\n")
            assert heard.status == 504
            assert failure(heard.body)["reason"] == "ModelTimeout"
            await asyncio.wait_for(gone.wait(), WAIT)

    @pytest.mark.parametrize("path", PATHS)
    async def test_nobody_there(self, path: str) -> None:
        async with raw_server(lambda peer: peer.gone()) as upstream:
            pass
        async with calling([f"{upstream}/v1"]) as model:
            heard = await model.post(path, PATHS[path])
            assert (heard.status, failure(heard.body)["reason"]) == (502, "ModelUnavailable")

    async def test_a_key_is_sent_and_never_shown(self) -> None:
        heads: list[bytes] = []

        async def script(peer: Peer) -> None:
            while True:
                head, _ = await peer.request()
                heads.append(head)
                peer.say(told(400, b'{"error": "Bearer secret-key is odd"}'))

        async with model_behind(script, api_key="secret-key") as model:
            for path, body in [*PATHS.items(), ("/v1/chat/completions", STREAM)]:
                heard = await model.post(path, body, "authorization: Bearer callers-own\r\n")
                assert b"secret-key" not in heard.body
        assert len(heads) == 4
        assert all(b"authorization: Bearer secret-key\r\n" in head for head in heads)


class TestRequests:
    """What goes upstream."""

    async def test_a_chat_call_goes_on_byte_for_byte(self) -> None:
        seen: list[bytes] = []

        async def script(peer: Peer) -> None:
            while True:
                seen.append((await peer.request())[1])
                peer.ok(COMPLETION)

        raw = b'{ "messages":[{"role":"user","content":"\\u00e4"}],\n "model":"policy", "x": 1.50, "n": 1 }'
        async with model_behind(script) as model:
            heard = await model.post("/v1/chat/completions", raw)
            assert heard.body == COMPLETION
            await model.post("/v1/chat/completions", raw.replace(b"policy", b"another"))
        assert seen[0] == raw
        assert json.loads(seen[1]) == json.loads(raw)

    async def test_sampling_is_forced_last(self) -> None:
        seen: list[dict[str, Any]] = []

        async def script(peer: Peer) -> None:
            while True:
                seen.append(json.loads((await peer.request())[1]))
                peer.ok(COMPLETION)

        async with model_behind(script, sampling={"temperature": 0.25, "top_k": 7}) as model:
            await model.post("/v1/chat/completions", {**QUESTION, "temperature": 1, "seed": 3})
            await model.post("/v1/responses", {"input": "q", "temperature": 1})
        assert [(body["temperature"], body["top_k"]) for body in seen] == [(0.25, 7)] * 2
        assert seen[0]["seed"] == 3

    async def test_token_ids_are_asked_for_and_become_training_fields(self) -> None:
        seen: list[dict[str, Any]] = []
        reply = chat(token_ids=[5], logprobs={"content": [{"token": "a", "logprob": -0.5}]}) | {"prompt_token_ids": [1]}

        async def script(peer: Peer) -> None:
            while True:
                head, body = await peer.request()
                if b"/chat/completions" not in head:
                    peer.say(told(404, b"{}"))  # it cannot say how it would render the second call
                    continue
                seen.append(json.loads(body))
                peer.ok(orjson.dumps(reply))

        async with model_behind(script, token_ids=True) as model:
            items: list[dict[str, Any]] = [{"role": "user", "content": "q"}]
            for _ in range(2):
                output = json.loads((await model.post("/v1/responses", {"input": items})).body)["output"]
                items += [*output, {"role": "user", "content": "more"}]
        assert output[-1]["prompt_token_ids"] == [1]
        assert output[-1]["generation_token_ids"] == [5]
        assert output[-1]["generation_log_probs"] == [-0.5]
        assert all(body["return_token_ids"] and body["logprobs"] for body in seen)
        assert seen[1]["messages"][1] == {"role": "assistant", "content": "hello"}  # and never sent back


class TestStreams:
    """Chat streams, passed through piece by piece."""

    async def test_each_piece_is_passed_on_when_it_comes(self) -> None:
        heard = asyncio.Event()
        first, last = b'data: {"choices": [{"delta": {}}]}\n\n', b"data: [DONE]\n\n"

        async def script(peer: Peer) -> None:
            await peer.request()
            peer.say(STREAM_HEAD + chunk(first))
            await heard.wait()
            peer.say(chunk(last) + STREAM_END)
            await peer.gone()

        async with model_behind(script) as model, model.stream("/v1/chat/completions", STREAM) as reply:
            assert reply.status == 200
            assert await anext(reply) == first
            heard.set()
            assert await reply.read(1000) == last

    @pytest.mark.parametrize("ending", [b"", STREAM_END], ids=["cut", "ended without [DONE]"])
    async def test_a_death_within_is_never_a_clean_end(self, ending: bytes) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            peer.say(STREAM_HEAD + chunk(b"data: {}\n\n"))
            await peer.writer.drain()
            peer.say(ending)

        async with model_behind(script) as model:
            async with model.stream("/v1/chat/completions", STREAM) as reply:
                assert reply.status == 200
                with pytest.raises(ConnectionLost):
                    await reply.read(1000)
            assert 'route="/v1/chat/completions",status="cut"} 1.0' in await model.metrics()

    async def test_a_death_before_the_first_piece_is_an_error_with_a_status(self) -> None:
        requests = 0

        async def script(peer: Peer) -> None:
            nonlocal requests
            await peer.request()
            requests += 1
            peer.say(STREAM_HEAD)

        async with model_behind(script) as model:
            heard = await model.post("/v1/chat/completions", STREAM)
        assert (heard.status, failure(heard.body)["reason"]) == (502, "ModelUnavailable")
        assert requests == 1  # not asked again: its head had come

    @pytest.mark.parametrize(
        ("reply", "status"),
        [
            (told(429, b"{}", extra="Retry-After: 7\r\n"), 429),
            (told(500, b"boom"), 502),
            (told(200, b"<html/>", "text/html"), 502),
            (told(200, COMPLETION), 502),
        ],
    )
    async def test_no_stream_at_all(self, reply: bytes, status: int) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            peer.say(reply)
            await peer.gone()

        async with model_behind(script) as model:
            heard = await model.post("/v1/chat/completions", STREAM)
            assert heard.status == status
            assert heard.header(b"retry-after") == (b"7" if status == 429 else None)

    async def test_an_error_in_a_harness_stream_is_an_event(self) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            peer.say(told(500, b"boom"))
            await peer.gone()

        async with model_behind(script) as model:
            heard = await model.post("/v1/responses", {"input": "q", "stream": True})
        assert heard.status == 200
        created, failed = events(heard.body)
        assert (created["type"], failed["type"]) == ("response.created", "response.failed")
        assert failed["response"]["error"]["code"] == "server_error"

    async def test_a_client_that_leaves_stops_the_upstream(self) -> None:
        gone = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            peer.say(STREAM_HEAD + chunk(b"data: {}\n\n"))
            await peer.gone()
            gone.set()

        async with model_behind(script) as model:
            async with model.stream("/v1/chat/completions", STREAM) as reply:
                await anext(reply)
            await asyncio.wait_for(gone.wait(), WAIT)
            await until_metrics(model, 'status="gone"} 1.0')

    @pytest.mark.parametrize("path", PATHS)
    async def test_a_client_that_gives_up_waiting_stops_the_upstream(self, path: str) -> None:
        asked, gone = asyncio.Event(), asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            asked.set()
            await peer.gone()
            gone.set()

        async with model_behind(script) as model:
            call = asyncio.ensure_future(model.post(path, PATHS[path]))
            await asked.wait()
            call.cancel()
            await asyncio.wait([call])
            await asyncio.wait_for(gone.wait(), WAIT)
            await until_metrics(model, f'route="{path}",status="gone"}} 1.0')

    async def test_a_slow_reader_holds_the_upstream_back(self) -> None:
        """Of a stream of 64 MB little is in memory while nobody reads; then all of it comes."""
        piece = b"data: " + b"x" * 65528 + b"\n\n"
        count, sent = 1024, 0

        async def script(peer: Peer) -> None:
            nonlocal sent
            await peer.request()
            peer.say(STREAM_HEAD)
            for _ in range(count):
                peer.say(chunk(piece))
                sent += 1
                await peer.writer.drain()
            peer.say(chunk(b"data: [DONE]\n\n") + STREAM_END)
            await peer.gone()

        async with model_behind(script) as model, model.stream("/v1/chat/completions", STREAM) as reply:
            size = len(await anext(reply))
            before = -1
            while before != sent:  # until everybody on the way is held back
                before = sent
                for _ in range(50):
                    await asyncio.sleep(0.001)
            assert sent < count // 2
            async for part in reply:
                size += len(part)
            assert size == count * len(piece) + len(b"data: [DONE]\n\n")


async def until_metrics(model: Caller, text: str) -> None:
    async with asyncio.timeout(WAIT):
        while text not in await model.metrics():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.005)


class TestReplicas:
    async def test_a_rollout_stays_and_rollouts_are_spread(self) -> None:
        servers = [await serve_simulated(SimulatedConfig(model="policy")) for _ in range(3)]
        async with calling([server.url for server in servers]) as model:
            for _ in range(4):
                for rollout in range(6):
                    await model.post(f"/ng-rollout/r-{rollout}/v1/responses", {"input": "q"})
            assert [server.requests for server in servers] == [8, 8, 8]
            metrics = await model.metrics()
            for server in servers:
                assert f'kubegym_model_upstream_rollouts{{upstream="{server.url}"}} 2.0' in metrics
        for server in servers:
            await server.close()

    async def test_a_cookie_keeps_callers_without_a_rollout(self) -> None:
        servers = [await serve_simulated(SimulatedConfig(model="policy")) for _ in range(2)]
        async with calling([server.url for server in servers]) as model:
            first = await model.post("/v1/responses", {"input": "q"})
            cookie = (first.header(b"set-cookie") or b"").split(b";")[0].decode()
            for _ in range(5):
                await model.post("/v1/responses", {"input": "q"}, f"cookie: a=b; {cookie}\r\n")
            assert sorted(server.requests for server in servers) == [0, 6]
        for server in servers:
            await server.close()

    async def test_a_dead_replica_is_passed_over_at_once(self) -> None:
        alive = await serve_simulated(SimulatedConfig(model="policy"))
        async with raw_server(lambda peer: peer.gone()) as dead:
            pass
        async with calling([f"{dead}/v1", alive.url]) as model:
            for rollout in range(8):
                for path, body in [*PATHS.items(), ("/v1/chat/completions", STREAM)]:
                    assert (await model.post(f"/ng-rollout/r-{rollout}{path}", body)).status == 200
            assert alive.requests == 32
            assert f'kubegym_model_upstream_up{{upstream="{dead}/v1"}} 0.0' in await model.metrics()
        await alive.close()

    async def test_a_replica_that_keeps_failing_is_left_alone(self) -> None:
        """Three 500 in a row, each told to its caller; after that nobody asks it for some seconds."""
        asked = 0

        async def script(peer: Peer) -> None:
            nonlocal asked
            while True:
                await peer.request()
                asked += 1
                peer.say(told(500, b"boom"))

        alive = await serve_simulated(SimulatedConfig(model="policy"))
        async with raw_server(script) as broken, calling([f"{broken}/v1", alive.url]) as model:
            heard = [
                (await model.post(f"/ng-rollout/r-{rollout % 2}/v1/responses", {"input": "q"})).status
                for rollout in range(20)
            ]
        await alive.close()
        assert asked == 3
        assert heard.count(502) == 3
        assert set(heard[6:]) == {200}

    @pytest.mark.parametrize("body", [QUESTION, STREAM], ids=["whole", "streamed"])
    async def test_one_that_holds_calls_without_progress_is_left_although_healthy(self, body: dict[str, Any]) -> None:
        hung = await serve_simulated(SimulatedConfig(model="policy", faults=Faults(hang=1.0)))
        alive = await serve_simulated(SimulatedConfig(model="policy"))
        async with calling([hung.url, alive.url], silence_seconds=0.5) as model:
            heard = await asyncio.gather(
                *(model.post(f"/ng-rollout/r-{number}/v1/chat/completions", body) for number in range(8))
            )
            assert [reply.status for reply in heard] == [200] * 8
            metrics = await model.metrics()
            assert 'kubegym_model_routing_total{decision="silent"} 1.0' in metrics
            assert f'kubegym_model_upstream_up{{upstream="{hung.url}"}} 0.0' in metrics
            assert f'kubegym_model_upstream_rollouts{{upstream="{hung.url}"}} 0.0' in metrics
            assert f'kubegym_model_upstream_rollouts{{upstream="{alive.url}"}} 8.0' in metrics
        for server in (hung, alive):
            await server.close()

    async def test_an_engine_that_makes_no_progress_is_not_ready(self) -> None:
        hung = await serve_simulated(SimulatedConfig(model="policy", faults=Faults(hang=1.0)))
        async with calling([hung.url], silence_seconds=0.5) as model:
            for path, body in PATHS.items():
                heard = await model.post(path, body)
                assert (heard.status, failure(heard.body)["reason"]) == (504, "ModelSilent")
            assert (await model.get("/healthz")).status == 200
            assert (await model.get("/readyz")).status == 503
        await hung.close()

    async def test_one_that_is_slow_is_not_silent(self) -> None:
        """Its reply takes four times as long as a silence may, and its counters tell that it works."""
        slow = await serve_simulated(SimulatedConfig(model="policy", latency=Distribution.constant(2.0)))
        async with calling([slow.url], silence_seconds=0.5) as model:
            assert (await model.post("/v1/chat/completions", QUESTION)).status == 200
        await slow.close()

    async def test_not_ready_while_no_replica_answers(self) -> None:
        async with raw_server(lambda peer: peer.gone()) as dead:
            pass
        async with calling([f"{dead}/v1"]) as model:
            assert (await model.get("/readyz")).status == 200
            await model.post("/v1/responses", {"input": "q"})
            assert (await model.get("/readyz")).status == 503

    async def test_an_upstream_twice_or_none(self) -> None:
        for upstreams in ([], ["http://127.0.0.1:1/v1"] * 2):
            with pytest.raises(InvalidSpec):
                ModelServer(upstreams, model="policy")


@pytest.mark.parametrize("kind", ["internal_error", "html", "empty_choices", "disconnect", "abort", "rate_limited"])
async def test_engines_fail_as_endpoints_do(kind: str) -> None:
    engine = SimulatedEngine(SimulatedConfig(model="policy", faults=Faults(**{kind: 1.0})))
    async with calling([EngineClient(engine, faults=ONE, overload=ONE)]) as model:
        for path, body in [*PATHS.items(), ("/v1/chat/completions", STREAM)]:
            heard = await model.post(path, body)
            assert heard.status == (429 if kind == "rate_limited" else 502)
            assert failure(heard.body)["stage"] == "model"


async def test_shutting_down_answers_what_is_in_flight() -> None:
    release = asyncio.Event()
    asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await release.wait()
        peer.ok(COMPLETION)
        await peer.gone()

    http = HttpClient()
    try:
        async with raw_server(script) as upstream:
            server = ModelServer([f"{upstream}/v1"], model="policy", probe=False)

            async def release_at_the_end() -> None:
                await until(lambda: server.stopping)
                release.set()

            async with serving(server) as url:
                call = asyncio.ensure_future(
                    http.request(b"POST", Url(url + "/v1/responses"), b"", b'{"input": "q"}', WAIT)
                )
                await asked.wait()
                releasing = asyncio.ensure_future(release_at_the_end())
            await releasing
            assert (await call).status == 200
            with pytest.raises(HttpError):
                await http.request(b"GET", Url(url + "/readyz"), b"", b"", WAIT)
    finally:
        await http.close()
