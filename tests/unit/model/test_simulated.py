from __future__ import annotations

import asyncio
import random
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym.core.errors import InputError, InvalidSpec
from kubegym.http import ConnectionLost, HttpClient, ReadTimeout, Response, Url
from kubegym.model.errors import ModelReplyInvalid, ModelUnavailable
from kubegym.model.simulated import (
    Answers,
    Distribution,
    Faults,
    SimulatedConfig,
    SimulatedEngine,
    SimulatedServer,
    serve_simulated,
)
from kubegym.model.simulated.sample import sample

pytestmark = pytest.mark.unit

QUESTION = {"model": "simulated", "messages": [{"role": "user", "content": "What is 2+3?"}]}
SCHEMA = {
    "type": "object",
    "properties": {
        "expression": {"type": "string"},
        "digits": {"type": "integer", "minimum": 2},
        "mode": {"enum": ["exact", "rounded"]},
        "optional": {"type": "string"},
    },
    "required": ["expression", "digits", "mode"],
}
TOOL = {"type": "function", "function": {"name": "calculate", "parameters": SCHEMA}}


async def answer(config: SimulatedConfig, body: dict[str, Any] | None = None) -> dict[str, Any]:
    return await SimulatedEngine(config).chat(body or QUESTION, 60.0)


async def text(config: SimulatedConfig, body: dict[str, Any] | None = None) -> str:
    return (await answer(config, body))["choices"][0]["message"]["content"]


class Caller:
    def __init__(self, server: SimulatedServer, http: HttpClient) -> None:
        self.server = server
        self._http = http
        self._base = Url(server.url)

    async def post(self, body: Any, path: str = "chat/completions", timeout: float = 30.0) -> Response:
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        return await self._http.request(b"POST", self._base / path, b"", data, timeout)

    async def get(self, path: str) -> Response:
        url = Url(self.server.url.removesuffix("/v1") + path)
        return await self._http.request(b"GET", url, b"", b"", 30.0)

    async def metric(self, name: str) -> float:
        page = (await self.get("/metrics")).body.decode()
        (value,) = re.findall(rf"^vllm:{re.escape(name)} (\S+)$", page, re.MULTILINE)
        return float(value)

    async def until_running(self, count: int) -> None:
        while self.server.slots.running != count:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.001)


@asynccontextmanager
async def serving(config: SimulatedConfig | None = None):
    server = await serve_simulated(config or SimulatedConfig())
    http = HttpClient()
    try:
        yield Caller(server, http)
    finally:
        await http.close()
        await server.close()


class TestAnswers:
    async def test_fixed_and_announced(self) -> None:
        reply = await answer(SimulatedConfig(model="sim", answers=Answers(text="forty-two")))
        assert reply["system_fingerprint"] == "kubegym-simulated"
        assert reply["model"] == "sim"
        assert reply["choices"][0]["message"] == {"role": "assistant", "content": "forty-two"}
        assert reply["usage"] == {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}

    async def test_scripted_by_pattern_and_by_turn(self) -> None:
        script = Answers("scripted", script=((r"2\+3", "5"), ("capital", "Paris")), text="no idea")
        assert await text(SimulatedConfig(answers=script)) == "5"
        other = {"messages": [{"role": "user", "content": [{"type": "text", "text": "The capital?"}]}]}
        assert await text(SimulatedConfig(answers=script), other) == "Paris"
        assert (
            await text(SimulatedConfig(answers=script), {"messages": [{"role": "user", "content": "?"}]}) == "no idea"
        )
        turns = SimulatedConfig(answers=Answers("scripted", turns=("one", "two")))
        messages = [{"role": "user", "content": "?"}]
        said = []
        for _ in range(3):
            said.append(await text(turns, {"messages": messages}))
            messages += [{"role": "assistant", "content": said[-1]}, {"role": "user", "content": "?"}]
        assert said == ["one", "two", "two"]

    async def test_random_depends_on_seed_and_content_alone(self) -> None:
        config = SimulatedConfig(seed=1, answers=Answers("random"))
        first = await text(config)
        assert await text(config, dict(reversed(QUESTION.items()))) == first
        other = {"messages": [{"role": "user", "content": "What is 2+4?"}]}
        assert (
            len({first, await text(config, other), await text(SimulatedConfig(seed=2, answers=Answers("random")))}) == 3
        )
        assert await text(config, {**QUESTION, "seed": 5}) != first

    async def test_vary_tells_equal_requests_apart(self) -> None:
        async def said() -> list[str]:
            engine = SimulatedEngine(SimulatedConfig(answers=Answers("random", vary=True)))
            return [(await engine.chat(QUESTION, 60.0))["choices"][0]["message"]["content"] for _ in range(5)]

        first = await said()
        assert len(set(first)) == 5
        assert await said() == first

    async def test_mcq_is_a_fair_coin(self) -> None:
        config = SimulatedConfig(answers=Answers("mcq", letters="AB"))
        questions = [{"messages": [{"role": "user", "content": f"Question {number}"}]} for number in range(400)]
        said = [await text(config, question) for question in questions]
        assert set(said) == {"\\boxed{A}", "\\boxed{B}"}
        assert 150 < said.count("\\boxed{A}") < 250

    async def test_a_function_answers(self) -> None:
        config = SimulatedConfig(answers=Answers(function=lambda body: body["messages"][0]["content"].upper()))
        assert await text(config) == "WHAT IS 2+3?"
        call = {"content": None, "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}
        reply = await answer(SimulatedConfig(answers=Answers(function=lambda body: call)))
        assert reply["choices"][0]["finish_reason"] == "tool_calls"

    async def test_max_tokens_cut(self) -> None:
        reply = await answer(SimulatedConfig(), {**QUESTION, "max_tokens": 2})
        assert reply["choices"][0]["finish_reason"] == "length"
        assert reply["usage"]["completion_tokens"] == 2
        assert reply["choices"][0]["message"]["content"] == "This is "

    async def test_context_window(self) -> None:
        reply = await answer(SimulatedConfig(context_window=3))
        assert reply["error"]["code"] == 400
        assert "maximum context length" in reply["error"]["message"]


class TestTools:
    async def test_first_a_call_then_an_answer(self) -> None:
        body = {**QUESTION, "tools": [TOOL]}
        choice = (await answer(SimulatedConfig(), body))["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        (call,) = choice["message"]["tool_calls"]
        assert call["function"]["name"] == "calculate"
        arguments = orjson.loads(call["function"]["arguments"])
        assert arguments == {"expression": "1+1", "digits": 2, "mode": "exact"}
        messages = [
            *QUESTION["messages"],
            choice["message"],
            {"role": "tool", "tool_call_id": call["id"], "content": "2"},
        ]
        assert (await answer(SimulatedConfig(), {**body, "messages": messages}))["choices"][0][
            "finish_reason"
        ] == "stop"

    async def test_choice_and_probability(self) -> None:
        other = {"type": "function", "function": {"name": "other"}}
        named = {"type": "function", "function": {"name": "other"}}
        body = {**QUESTION, "tools": [TOOL, other]}
        reply = await answer(SimulatedConfig(), {**body, "tool_choice": named})
        assert reply["choices"][0]["message"]["tool_calls"][0]["function"] == {"name": "other", "arguments": "{}"}
        assert await text(SimulatedConfig(), {**body, "tool_choice": "none"})
        assert await text(SimulatedConfig(tool_probability=0.0), body)

    @pytest.mark.parametrize(
        ("schema", "value"),
        [
            ({"const": 3}, 3),
            ({"default": "d", "type": "string"}, "d"),
            ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
            ({"type": ["integer", "null"]}, 1),
            ({"type": "integer", "exclusiveMinimum": 4}, 5),
            ({"type": "number", "maximum": 0.5}, 0.5),
            ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
            ({"type": "string", "minLength": 5}, "1+111"),
            ({"type": "string", "maxLength": 1}, "1"),
            ({"$ref": "#/$defs/a", "$defs": {"a": {"enum": ["x"]}}}, "x"),
            ({"$ref": "#/$defs/absent"}, None),
            (None, None),
        ],
    )
    def test_arguments_fit_their_schema(self, schema: Any, value: Any) -> None:
        assert sample(schema) == value

    def test_a_schema_that_contains_itself_ends(self) -> None:
        node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}
        assert "next" in sample({"$ref": "#/$defs/node", "$defs": {"node": node}})


class TestConfig:
    def test_from_plain_values(self) -> None:
        config = SimulatedConfig.parse(
            {
                "model": "m",
                "latency": {"kind": "lognormal", "mean": 2, "sigma": 1},
                "tokens": 20,
                "answers": {"mode": "scripted", "script": [["a", "b"]], "turns": ["x"]},
                "faults": {"hang": 0.5},
                "max_concurrency": 4,
            }
        )
        assert config.latency == Distribution.lognormal(2)
        assert config.tokens == Distribution.constant(20)
        assert config.answers == Answers("scripted", script=(("a", "b"),), turns=("x",))
        assert config.faults.hang == 0.5
        assert SimulatedConfig.parse({}) == SimulatedConfig()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"modle": "m"}, "'model' meant"),
            ({"latency": {"knid": "constant"}}, "latency has no field 'knid'; is 'kind' meant"),
            ({"latency": {"kind": "normal"}}, "normal"),
            ({"latency": -1}, "non-negative"),
            ({"latency": {"kind": "uniform", "low": 2, "high": 1}}, "low <= high"),
            ({"latency": {"kind": "lognormal"}}, "above 0"),
            ({"latency": "slow"}, "must be an object"),
            ({"latency": {"mean": "slow"}}, "latency"),
            ({"answers": {"mode": "clever"}}, "clever"),
            ({"answers": {"mode": "scripted"}}, "script"),
            ({"answers": {"mode": "scripted", "script": [["(", "x"]]}}, "regular expression"),
            ({"answers": {"letters": ""}}, "letters"),
            ({"answers": {"function": "f"}}, "no field"),
            ({"faults": {"hang": 1.5}}, "shares"),
            ({"faults": {"hang": 0.6, "html": 0.6}}, "shares"),
            ({"model": ""}, "name"),
            ({"tool_probability": 2}, "tool_probability"),
            ({"max_concurrency": 0}, "max_concurrency"),
            ({"max_queue": -1}, "max_queue"),
            ({"seconds_per_token": -1}, "seconds_per_token"),
        ],
    )
    def test_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidSpec, match=message):
            SimulatedConfig.parse(options)

    @given(st.integers(0, 1000))
    def test_distributions(self, seed: int) -> None:
        rng = random.Random(seed)
        assert Distribution.constant(3).draw(rng) == 3
        assert 1 <= Distribution.uniform(1, 2).draw(rng) <= 2
        assert Distribution.lognormal(2).draw(rng) > 0

    def test_lognormal_has_its_mean_and_a_tail_of_six_means(self) -> None:
        rng = random.Random(0)
        drawn = sorted(Distribution.lognormal(2.0, 1.0).draw(rng) for _ in range(40_000))
        assert sum(drawn) / len(drawn) == pytest.approx(2.0, rel=0.05)
        assert drawn[int(0.99 * len(drawn))] / 2.0 == pytest.approx(6.2, rel=0.1)


@pytest.mark.looptime
class TestEngineTime:
    """In virtual time."""

    async def test_latency_and_time_per_token(self) -> None:
        clock = asyncio.get_running_loop().time
        config = SimulatedConfig(
            latency=Distribution.constant(2), tokens=Distribution.constant(30), seconds_per_token=0.1
        )
        started = clock()
        await answer(config)
        assert clock() - started == pytest.approx(5.0)

    async def test_slots_queue_and_refusal(self) -> None:
        engine = SimulatedEngine(SimulatedConfig(latency=Distribution.constant(1), max_concurrency=2, max_queue=2))
        clock = asyncio.get_running_loop().time
        ended: list[float] = []

        async def one() -> dict[str, Any]:
            reply = await engine.chat(QUESTION, 60.0)
            ended.append(clock())
            return reply

        started = clock()
        replies = await asyncio.gather(*(one() for _ in range(5)))
        assert [reply.get("error", {}).get("code") for reply in replies] == [None] * 4 + [503]
        assert [round(end - started, 6) for end in ended] == [0, 1, 1, 2, 2]

    async def test_who_gives_up_frees_the_place(self) -> None:
        engine = SimulatedEngine(SimulatedConfig(latency=Distribution.constant(10), max_concurrency=1))
        first = asyncio.ensure_future(engine.chat(QUESTION, 60.0))
        await asyncio.sleep(1)
        with pytest.raises(TimeoutError):
            await engine.chat(QUESTION, 2.0)
        first.cancel()
        started = asyncio.get_running_loop().time()
        await engine.chat(QUESTION, 60.0)
        assert asyncio.get_running_loop().time() - started == pytest.approx(10.0)

    async def test_faults(self) -> None:
        def engine(**rates: float) -> SimulatedEngine:
            return SimulatedEngine(SimulatedConfig(faults=Faults(**rates)))

        for name, status in (("rate_limited", 429), ("internal_error", 500), ("unavailable", 503)):
            assert (await engine(**{name: 1.0}).chat(QUESTION, 60.0))["error"]["code"] == status
        with pytest.raises(TimeoutError):
            await engine(hang=1.0).chat(QUESTION, 60.0)
        with pytest.raises(ConnectionResetError):
            await engine(disconnect=1.0).chat(QUESTION, 60.0)
        with pytest.raises(ModelReplyInvalid):
            await engine(html=1.0).chat(QUESTION, 60.0)
        assert (await engine(empty_choices=1.0).chat(QUESTION, 60.0))["choices"] == []
        aborted = (await engine(abort=1.0).chat(QUESTION, 60.0))["choices"][0]
        assert aborted["finish_reason"] == "abort"
        assert len(aborted["message"]["content"]) < len(SimulatedConfig().answers.text)

    async def test_rates_are_shares(self) -> None:
        engine = SimulatedEngine(SimulatedConfig(faults=Faults(rate_limited=0.1, unavailable=0.2)))
        codes = [(await engine.chat(QUESTION, 60.0)).get("error", {}).get("code") for _ in range(1000)]
        assert 70 < codes.count(429) < 130
        assert 160 < codes.count(503) < 240

    async def test_closed(self) -> None:
        engine = SimulatedEngine()
        engine.close()
        engine.close()
        with pytest.raises(ModelUnavailable, match="closed") as caught:
            await engine.chat(QUESTION, 60.0)
        assert not caught.value.retryable


class TestServer:
    async def test_chat_models_health(self) -> None:
        async with serving(SimulatedConfig(model="sim", policy_version=4)) as caller:
            reply = await caller.post(QUESTION)
            assert reply.status == 200
            assert reply.header(b"x-kubegym-simulated") == b"true"
            assert reply.header(b"x-kubegym-policy-version") == b"4"
            body = orjson.loads(reply.body)
            assert body["choices"][0]["message"]["content"] == SimulatedConfig().answers.text
            (model,) = orjson.loads((await caller.get("/v1/models")).body)["data"]
            assert (model["id"], model["owned_by"]) == ("sim", "kubegym-simulated")
            assert (await caller.get("/health")).status == 200
            assert (await caller.get("/nowhere")).status == 404
            assert (await caller.get("/v1/chat/completions")).status == 405

    async def test_server_and_engine_say_the_same(self) -> None:
        config = SimulatedConfig(seed=3, answers=Answers("random"))
        async with serving(config) as caller:
            served = orjson.loads((await caller.post(QUESTION)).body)
        assert served["choices"] == (await answer(config))["choices"]

    @pytest.mark.parametrize(
        "body",
        [
            *(b"", b"{", b"[]", b'"text"', b"{}", b'{"messages": []}', b'{"messages": ["x"]}', b'{"messages": "x"}'),
            b'{"messages": [{"role": "user", "content": "q"}], "tools": []}',
            b'{"messages": [{"role": "user", "content": "q"}], "max_tokens": 0}',
            b'{"messages": [{"role": "user", "content": "q"}], "max_tokens": "many"}',
        ],
    )
    async def test_bad_requests(self, body: bytes) -> None:
        async with serving() as caller:
            reply = await caller.post(body)
            assert reply.status == 400
            assert orjson.loads(reply.body)["error"]["code"] == 400
            assert (await caller.post(QUESTION)).status == 200

    async def test_not_http(self) -> None:
        async with serving() as caller:
            origin = Url(caller.server.url).origin
            reader, writer = await asyncio.open_connection(origin.host, origin.port)
            writer.write(b"nonsense\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
            writer.close()
            await writer.wait_closed()

    async def test_a_client_that_does_not_wait_is_cut_off(self) -> None:
        async with serving(SimulatedConfig(latency=Distribution.constant(600))) as caller:
            origin = Url(caller.server.url).origin
            reader, writer = await asyncio.open_connection(origin.host, origin.port)
            body = orjson.dumps(QUESTION)
            request = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            writer.write(request * 3)
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            writer.close()
            await caller.until_running(0)

    async def test_faults_on_the_wire(self) -> None:
        async with serving(SimulatedConfig(faults=Faults(rate_limited=1.0, retry_after=3))) as caller:
            reply = await caller.post(QUESTION)
            assert (reply.status, reply.header(b"retry-after")) == (429, b"3")
            assert reply.header(b"x-kubegym-simulated") == b"true"
        async with serving(SimulatedConfig(faults=Faults(html=1.0))) as caller:
            assert (await caller.post(QUESTION)).header(b"content-type") == b"text/html"
        async with serving(SimulatedConfig(faults=Faults(disconnect=1.0))) as caller:
            with pytest.raises(ConnectionLost) as caught:
                await caller.post(QUESTION)
            assert not caught.value.before_reply
        async with serving(SimulatedConfig(faults=Faults(hang=1.0))) as caller:
            await caller.get("/health")  # from now on there is a connection: the time is the reply's alone
            with pytest.raises(ReadTimeout):
                await caller.post(QUESTION, timeout=0.05)
            await caller.until_running(0)

    async def test_queue_and_gauges(self) -> None:
        config = SimulatedConfig(latency=Distribution.constant(600), max_concurrency=2, max_queue=1)
        async with serving(config) as caller:
            busy = [asyncio.ensure_future(caller.post(QUESTION)) for _ in range(3)]
            await caller.until_running(2)
            while not caller.server.slots.waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            refused = await caller.post(QUESTION)
            assert (refused.status, refused.header(b"retry-after")) == (503, b"1")
            labels = '{engine="0",model_name="simulated"}'
            assert await caller.metric(f"num_requests_running{labels}") == 2
            assert await caller.metric(f"num_requests_waiting{labels}") == 1
            assert await caller.metric(f"kv_cache_usage_perc{labels}") == 1.0
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)
            await caller.until_running(0)

    async def test_metrics_count_what_was_answered(self) -> None:
        async with serving() as caller:
            for limit in (100, 100, 2):
                await caller.post({**QUESTION, "max_tokens": limit})
            labels = 'engine="0",model_name="simulated"'
            assert await caller.metric(f"prompt_tokens_total{{{labels}}}") == 12
            assert await caller.metric(f"generation_tokens_total{{{labels}}}") == 16
            assert await caller.metric(f'request_success_total{{{labels},finished_reason="stop"}}') == 2
            assert await caller.metric(f'request_success_total{{{labels},finished_reason="length"}}') == 1
            for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds"):
                assert await caller.metric(f"{name}_count{{{labels}}}") == 3
                assert await caller.metric(f'{name}_bucket{{{labels},le="+Inf"}}') == 3

    @pytest.mark.parametrize("latency", [0.0, 0.01])
    async def test_stream(self, latency: float) -> None:
        config = SimulatedConfig(latency=Distribution.constant(latency), seconds_per_token=latency / 10)
        async with serving(config) as caller:
            for tools in (None, [TOOL]):
                body = {**QUESTION, "stream": True, "stream_options": {"include_usage": True}}
                if tools:
                    body["tools"] = tools
                reply = await caller.post(body)
                assert reply.header(b"content-type") == b"text/event-stream; charset=utf-8"
                events = [line.removeprefix("data: ") for line in reply.body.decode().split("\n\n") if line]
                assert events.pop() == "[DONE]"
                chunks = [orjson.loads(event) for event in events]
                assert {chunk["system_fingerprint"] for chunk in chunks} == {"kubegym-simulated"}
                assert chunks.pop()["usage"]["total_tokens"] > 0
                deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
                finish = chunks[-1]["choices"][0]["finish_reason"]
                if tools:
                    assert finish == "tool_calls"
                    assert any(delta.get("tool_calls") for delta in deltas)
                else:
                    assert finish == "stop"
                    assert "".join(delta.get("content", "") for delta in deltas) == config.answers.text
            assert caller.server.slots.running == 0

    async def test_an_address_in_use(self) -> None:
        async with serving() as caller:
            with pytest.raises(InputError, match="cannot listen"):
                await serve_simulated(SimulatedConfig(), port=Url(caller.server.url).origin.port)

    async def test_close_lets_work_end_within_the_grace(self) -> None:
        begun = asyncio.Event()

        def say(body: dict[str, Any]) -> str:
            begun.set()
            return "done"

        config = SimulatedConfig(latency=Distribution.constant(0.05), answers=Answers(function=say))
        async with serving(config) as caller:
            task = asyncio.ensure_future(caller.post(QUESTION))
            await begun.wait()
            await caller.server.close(grace=300.0)
            assert (await task).status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_says_what_it_is_and_ends_cleanly(number: signal.Signals) -> None:
    code = "from kubegym.model.simulated import *; run_server(SimulatedConfig(model='sim'), '127.0.0.1', 0)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(number)
        assert process.wait(timeout=300) == 0
    assert re.fullmatch(r"simulated engine, no model behind it: 'sim' at http://127\.0\.0\.1:\d+/v1\n", line)
