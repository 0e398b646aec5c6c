from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from kubegym.core.clock import Deadline
from kubegym.core.errors import InputError, InvalidSpec, ModelError
from kubegym.core.messages import item_text
from kubegym.core.protocols import CallContext
from kubegym.core.retry import Backoff
from kubegym.http import HttpClient
from kubegym.model.api_key import ApiKey
from kubegym.model.client import ChatClient
from kubegym.model.endpoint import check_endpoint
from kubegym.model.engine_client import EngineClient
from kubegym.model.errors import (
    ContextWindowExceeded,
    ModelAborted,
    ModelNotFound,
    ModelOverloaded,
    ModelRejectedRequest,
    ModelReplyInvalid,
    ModelTimeout,
    ModelUnauthorized,
    ModelUnavailable,
)
from kubegym.model.retry import retry_after
from kubegym.model.simulated import Answers, Faults, SimulatedConfig, SimulatedEngine, serve_simulated
from kubegym.model.simulated.config import FAULTS
from testbed.http_script import Answer, Request, scripted_server
from testbed.raw_server import Peer, raw_server

pytestmark = pytest.mark.unit

AT_ONCE = Backoff(attempts=6, base=0.0, maximum=0.0, maximum_asked=0.0)
ASK = {"input": [{"role": "user", "content": "What is 2+3?"}]}


def completion(text: str = "5", finish: str = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"created": 1, "model": "m", "choices": [choice], "usage": usage, **more}


def ok(text: str = "5", **headers: str) -> Answer:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(200, {"Content-Type": "application/json", **names}, orjson.dumps(completion(text)))


def refusal(status: int, message: str = "no", **headers: str) -> Answer:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, names, orjson.dumps({"error": {"message": message, "code": status}}))


def context(seconds: float = 60.0, **more: Any) -> CallContext:
    return CallContext("r-0-0", Deadline(seconds), **more)


@asynccontextmanager
async def endpoint(answer: Answer | Callable[[Request, int], Answer], **options: Any):
    """A client and the server it asks; retries come at once."""
    script = answer if callable(answer) else lambda request, count: answer
    async with scripted_server(script) as server:
        client = ChatClient(f"{server.url}/v1", "m", **{"faults": AT_ONCE, "overload": AT_ONCE, **options})
        try:
            yield client, server
        finally:
            await client.close()


def after(failures: int, bad: Answer, good: Answer | None = None) -> Callable[[Request, int], Answer]:
    return lambda request, count: bad if count < failures else good or ok()


class TestCall:
    async def test_request_and_reply(self) -> None:
        async with endpoint(ok(x_kubegym_policy_version="12"), api_key="sk-1", headers={"X-Tenant": "t"}) as (
            client,
            server,
        ):
            reply = await client.respond({**ASK, "max_output_tokens": 8}, context(seed=42))
        (request,) = server.requests
        assert (request.method, request.target) == ("POST", "/v1/chat/completions")
        assert request.headers["authorization"] == "Bearer sk-1"
        assert request.headers["content-type"] == "application/json"
        assert request.headers["x-tenant"] == "t"
        assert "accept-encoding" not in request.headers
        body = orjson.loads(request.body)
        assert body == {"model": "m", "messages": ASK["input"], "max_tokens": 8, "seed": 42}
        assert item_text(reply.response["output"][0]) == "5"
        assert reply.response["usage"]["input_tokens"] == 9
        assert (reply.policy_version, reply.stop, reply.waited) == (12, None, 0.0)

    async def test_no_seed_no_field_and_overrides_are_forced_last(self) -> None:
        async with endpoint(ok(), sampling={"temperature": 0.2, "top_k": 5}) as (client, server):
            await client.respond({**ASK, "temperature": 1.0}, context())
        body = orjson.loads(server.requests[0].body)
        assert "seed" not in body
        assert (body["temperature"], body["top_k"]) == (0.2, 5)

    async def test_ids_are_unique(self) -> None:
        async with endpoint(ok()) as (client, _):
            replies = [await client.respond(ASK, context()) for _ in range(3)]
        assert len({reply.response["id"] for reply in replies}) == 3

    async def test_every_call_is_told(self) -> None:
        calls: list[tuple[Any, ...]] = []

        def told(*call: Any) -> None:
            calls.append(call)

        async with endpoint(after(1, refusal(401), ok()), on_call=told) as (client, _):
            with pytest.raises(ModelUnauthorized):
                await client.respond(ASK, context())
            await client.respond(ASK, context())
            with pytest.raises(ModelError):
                await client.respond({}, context())
        assert [call[2:] for call in calls] == [("ModelUnauthorized", 0, 0), ("ok", 9, 1), ("RequestUnsupported", 0, 0)]


class TestRetries:
    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 520, 529])
    async def test_passing_trouble(self, status: int) -> None:
        async with endpoint(after(2, refusal(status))) as (client, server):
            assert (await client.respond(ASK, context())).response["status"] == "completed"
            assert len(server.requests) == 3

    @pytest.mark.parametrize(
        ("answer", "error", "tries", "retryable"),
        [
            (refusal(500), ModelUnavailable, 3, True),
            (refusal(502), ModelUnavailable, 6, True),
            (refusal(503), ModelOverloaded, 6, True),
            (refusal(429), ModelOverloaded, 6, True),
            (refusal(400, "bad field"), ModelRejectedRequest, 1, False),
            (refusal(401), ModelUnauthorized, 1, False),
            (refusal(403), ModelUnauthorized, 1, False),
            (refusal(404, "The model `m` does not exist"), ModelNotFound, 1, False),
            (refusal(405), ModelRejectedRequest, 1, False),
            (refusal(422), ModelRejectedRequest, 1, False),
            (Answer(308, {"Location": "/elsewhere"}), ModelRejectedRequest, 1, False),
            (Answer(200, {}, b"<html><body>login</body></html>"), ModelReplyInvalid, 3, True),
            (Answer(200, {}, b'{"choices": [{"mess'), ModelReplyInvalid, 3, True),
            (Answer(200, {}, b""), ModelReplyInvalid, 3, True),
            (Answer(200, {}, b'{"choices": "\xff\xfe"}'), ModelReplyInvalid, 3, True),
            (Answer(200, {}, b'{"choices": []}'), ModelReplyInvalid, 2, False),
            (Answer(200, {}, b'{"choices": [{"index": 0}]}'), ModelReplyInvalid, 2, False),
            (Answer(200, {}, b'{"choices": [{"message": {"content": 7}}]}'), ModelReplyInvalid, 2, False),
            (Answer(200, {}, b"[]"), ModelReplyInvalid, 2, False),
            (Answer(200, {}, orjson.dumps(completion("half an", "abort"))), ModelAborted, 6, True),
            (Answer(0), ModelUnavailable, 6, True),
        ],
    )
    async def test_lasting_trouble(self, answer: Answer, error: type[ModelError], tries: int, retryable: bool) -> None:
        async with endpoint(answer) as (client, server):
            with pytest.raises(error) as caught:
                await client.respond(ASK, context())
            assert type(caught.value) is error
            assert caught.value.retryable is retryable
            assert len(server.requests) == tries
            # Every message says where; those about a reply say what it was.
            assert server.url in str(caught.value)
            if answer.status not in (0, 200):
                assert str(answer.status) in str(caught.value)
                assert caught.value.status == answer.status

    async def test_an_aborted_generation_is_asked_again(self) -> None:
        aborted = Answer(200, {}, orjson.dumps(completion("half an", "abort")))
        async with endpoint(after(2, aborted, ok("whole"))) as (client, _):
            assert item_text((await client.respond(ASK, context())).response["output"][0]) == "whole"

    async def test_long_bodies_are_quoted_shortly_and_on_one_line(self) -> None:
        async with endpoint(Answer(400, {}, b"line one\nline two " + b"x" * 5000)) as (client, _):
            with pytest.raises(ModelRejectedRequest, match="line one line two x") as caught:
                await client.respond(ASK, context())
            assert len(str(caught.value)) < 400

    async def test_nothing_listens(self) -> None:
        async with endpoint(ok()) as (client, server):
            pass
        client = ChatClient(f"{server.url}/v1", "m", faults=AT_ONCE)
        with pytest.raises(ModelUnavailable, match="cannot connect"):
            await client.respond(ASK, context())
        await client.close()

    async def test_a_reply_cut_off_is_asked_again(self) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            body = orjson.dumps(completion())
            if peer.number == 0:
                peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body[:20]))
            else:
                peer.ok(body)
                await peer.gone()

        async with raw_server(script) as url:
            client = ChatClient(url, "m", faults=AT_ONCE)
            assert (await client.respond(ASK, context())).response["status"] == "completed"
            await client.close()

    async def test_a_reply_that_is_too_large(self) -> None:
        http = HttpClient(max_body=10)
        async with endpoint(ok(), http=http) as (client, _):
            with pytest.raises(ModelReplyInvalid) as caught:
                await client.respond(ASK, context())
            assert not caught.value.retryable
            await http.close()

    async def test_a_hang_ends_at_the_deadline(self) -> None:
        asked = 0

        async def script(peer: Peer) -> None:
            nonlocal asked
            await peer.request()
            peer.ok(b"{}")
            await peer.request()
            asked += 1
            await peer.gone()

        async with raw_server(script) as url:
            client = ChatClient(url, "m", faults=AT_ONCE)
            await client.get("models", 300.0)  # from now on there is a connection: the time is the reply's alone
            with pytest.raises(ModelTimeout, match="no whole reply") as caught:
                await client.respond(ASK, context(0.1))
            assert caught.value.retryable
            assert asked == 1
            with pytest.raises(ModelTimeout, match="no time was left"):
                await client.respond(ASK, context(0.0))
            await client.close()
            client = ChatClient(url, "m", faults=AT_ONCE, request_timeout=0.05)
            await asyncio.gather(*(client.get("models", 300.0) for _ in range(2)))  # a connection for each try
            with pytest.raises(ModelTimeout):
                await client.respond(ASK, context())
            await client.close()


class TestEveryFaultAtOnce:
    @pytest.mark.parametrize("seed", range(3))
    async def test_each_call_gets_a_whole_reply_or_an_error_that_says_so(self, seed: int) -> None:
        rates = dict.fromkeys(FAULTS, 0.08)
        config = SimulatedConfig(seed=seed, faults=Faults(**rates, retry_after=0.0), answers=Answers("random"))
        server = await serve_simulated(config)
        # Faults strike by arrival, answers follow the content: every reply must be the one to its own question.
        truth = SimulatedEngine(SimulatedConfig(seed=seed, answers=Answers("random")))
        client = ChatClient(
            server.url, config.model, request_timeout=1.0, faults=AT_ONCE, overload=AT_ONCE, http=HttpClient(limit=20)
        )

        async def one(number: int) -> str:
            question = {"role": "user", "content": f"Question {number}"}
            try:
                reply = await client.respond({"input": [question]}, context())
            except ModelError as error:
                return error.reason
            wanted = await truth.chat({"messages": [question]}, 1.0)
            assert item_text(reply.response["output"][0]) == wanted["choices"][0]["message"]["content"]
            return "ok"

        try:
            outcomes = await asyncio.gather(*(one(number) for number in range(200)))
        finally:
            await client._http.close()
            await server.close()
        assert "ok" in outcomes  # how many depends on what else the machine does: a late reply is none
        reasons = {"ModelTimeout", "ModelReplyInvalid", "ModelUnavailable", "ModelOverloaded", "ModelAborted"}
        assert set(outcomes) <= {"ok"} | reasons
        assert server.slots.running == server.slots.waiting == 0


class TestContextWindow:
    @pytest.mark.parametrize(
        "message",
        [
            "This model's maximum context length is 1024 tokens. However, you requested 1100 tokens.",
            "'max_tokens' or 'max_completion_tokens' is too large: 900. This model's maximum context length is ...",
            "the request exceeds the available context size: exceed_context_size_error",
            "max_tokens must be at least 1, got -76.",
        ],
    )
    async def test_a_full_context_is_an_empty_reply(self, message: str) -> None:
        async with endpoint(refusal(400, message)) as (client, _):
            reply = await client.respond(ASK, context())
        assert reply.stop == "context_window"
        assert reply.response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert [item_text(item) for item in reply.response["output"]] == [""]

    async def test_a_limit_below_one_is_the_callers_mistake(self) -> None:
        async with endpoint(refusal(400, "max_tokens must be at least 1, got 0.")) as (client, _):
            with pytest.raises(ModelRejectedRequest):
                await client.respond({**ASK, "max_output_tokens": 0}, context())

    async def test_an_endpoint_that_wants_the_other_name_gets_it(self) -> None:
        def script(request: Request, count: int) -> Answer:
            if "max_tokens" in orjson.loads(request.body):
                return refusal(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
            return ok()

        async with endpoint(script) as (client, server):
            for _ in range(2):
                reply = await client.respond({**ASK, "max_output_tokens": 8}, context())
                assert reply.stop is None
        assert len(server.requests) == 3
        assert orjson.loads(server.requests[-1].body)["max_completion_tokens"] == 8


class ScriptedEngine:
    """Replies, or raises, what it is given; the last one again and again."""

    name = "engine"

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.calls: list[tuple[float, dict[str, Any], float]] = []
        self.closed = False

    async def chat(self, body: dict[str, Any], timeout: float) -> dict[str, Any]:
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        self.calls.append((asyncio.get_running_loop().time(), body, timeout))
        if isinstance(step, BaseException):
            raise step
        return step

    def close(self) -> None:
        self.closed = True


@pytest.mark.looptime
class TestWaiting:
    """In virtual time."""

    async def test_overload_waits_are_reported_and_excused(self) -> None:
        busy = ModelOverloaded("busy", status=429, retry_after=40.0)
        engine = ScriptedEngine(busy, busy, completion())
        call = context(60.0)
        reply = await EngineClient(engine, rng=random.Random(0)).respond(ASK, call)
        assert reply.waited == pytest.approx(80.0)
        assert reply.seconds == pytest.approx(0.0)
        assert call.deadline.remaining() == pytest.approx(60.0)

    async def test_waits_after_faults_are_the_rollouts_own(self) -> None:
        engine = ScriptedEngine(ModelUnavailable("gone", status=502), completion())
        call = context(60.0)
        client = EngineClient(engine, faults=Backoff(attempts=3, base=10.0, maximum=10.0), rng=random.Random(0))
        reply = await client.respond(ASK, call)
        assert reply.waited == 0.0
        assert 1.0 <= reply.seconds <= 10.0
        assert call.deadline.remaining() == pytest.approx(60.0 - reply.seconds)

    async def test_the_stall_limit_bounds_what_is_excused(self) -> None:
        engine = ScriptedEngine(ModelOverloaded("busy", status=503, retry_after=50.0))
        call = CallContext("r", Deadline(60.0, stall_seconds=100.0))
        started = asyncio.get_running_loop().time()
        with pytest.raises(ModelOverloaded):
            await EngineClient(engine).respond(ASK, call)
        # 100 s excused, then the 60 s of its own; a pause that would outlast them is not begun.
        assert asyncio.get_running_loop().time() - started == pytest.approx(150.0)

    async def test_pauses_grow_and_end(self) -> None:
        engine = ScriptedEngine(ConnectionResetError("gone"))
        backoff = Backoff(attempts=5, base=1.0, maximum=4.0)
        with pytest.raises(ModelUnavailable):
            await EngineClient(engine, faults=backoff, rng=random.Random(7)).respond(ASK, context())
        times = [time for time, _, _ in engine.calls]
        pauses = [after - before for before, after in pairwise(times)]
        assert len(pauses) == 4
        for pause, ceiling in zip(pauses, (1.0, 2.0, 4.0, 4.0), strict=True):
            assert 0.1 * ceiling <= pause <= ceiling

    async def test_one_try_has_its_own_limit(self) -> None:
        engine = ScriptedEngine(TimeoutError())
        with pytest.raises(ModelTimeout):
            await EngineClient(engine, request_timeout=5.0).respond(ASK, context(60.0))
        assert [timeout for _, _, timeout in engine.calls] == [5.0, 5.0]

    async def test_cancelling_ends_a_pause(self) -> None:
        told: list[str] = []
        engine = ScriptedEngine(ModelOverloaded("busy", retry_after=50.0))
        client = EngineClient(engine, on_call=lambda s, w, outcome, i, o: told.append(outcome))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await client.respond(ASK, context())
        assert told == ["Cancelled"]


class TestEngineClient:
    async def test_answers_and_closes(self) -> None:
        engine = ScriptedEngine(completion("7"))
        client = EngineClient(engine, sampling={"temperature": 0})
        reply = await client.respond(ASK, context(seed=3))
        assert item_text(reply.response["output"][0]) == "7"
        assert engine.calls[0][1] == {"model": "engine", "messages": ASK["input"], "seed": 3, "temperature": 0}
        await client.close()
        assert engine.closed

    @pytest.mark.parametrize(
        ("step", "error"),
        [
            ({"error": {"code": 400, "message": "bad schema", "type": "invalid_request_error"}}, ModelRejectedRequest),
            ({"error": {"code": 503, "message": "loading", "type": "unavailable_error"}}, ModelOverloaded),
            ({"error": {"message": "?"}}, ModelUnavailable),
            ({"choices": []}, ModelReplyInvalid),
            (ModelUnavailable("closed", retryable=False), ModelUnavailable),
        ],
    )
    async def test_trouble(self, step: Any, error: type[ModelError]) -> None:
        client = EngineClient(ScriptedEngine(step), faults=AT_ONCE, overload=AT_ONCE)
        with pytest.raises(error):
            await client.respond(ASK, context())

    @pytest.mark.parametrize(
        "step",
        [
            {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}},
            ContextWindowExceeded("too long", status=400),
        ],
    )
    async def test_context_window(self, step: Any) -> None:
        reply = await EngineClient(ScriptedEngine(step)).respond(ASK, context())
        assert reply.stop == "context_window"


class TestKeys:
    async def test_never_shown(self) -> None:
        echo = Answer(401, {}, b"Incorrect API key provided: sk-very-secret")
        async with endpoint(echo, api_key="sk-very-secret") as (client, _):
            with pytest.raises(ModelUnauthorized, match=r"\*\*\*") as caught:
                await client.respond(ASK, context())
            texts = [repr(client), str(caught.value), repr(caught.value), repr(client._key)]
        assert not any("very-secret" in text for text in texts)

    async def test_a_url_with_a_password(self) -> None:
        async with scripted_server(lambda request, count: refusal(400)) as server:
            client = ChatClient(server.url.replace("http://", "http://me:pa55@") + "/v1", "m")
            with pytest.raises(ModelRejectedRequest) as caught:
                await client.respond(ASK, context())
            await client.close()
        assert server.requests[0].headers["authorization"].startswith("Basic ")
        assert "pa55" not in str(caught.value) + repr(client) + client.base_url

    async def test_a_replaced_key_file_is_read_again(self, tmp_path: Path) -> None:
        path = tmp_path / "key"
        path.write_text("old\n")

        def script(request: Request, count: int) -> Answer:
            return ok() if request.headers["authorization"] == "Bearer new" else refusal(401)

        async with endpoint(script, api_key=path) as (client, _):
            with pytest.raises(ModelUnauthorized):
                await client.respond(ASK, context())
            path.write_text("new\n")
            await client.respond(ASK, context())
            path.unlink()
            client._key._read_at = float("-inf")
            with pytest.raises(ModelUnauthorized, match="cannot read the API key file"):
                await client.respond(ASK, context())

    def test_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="cannot read"):
            ApiKey(tmp_path / "absent")
        (tmp_path / "empty").write_text(" \n")
        with pytest.raises(InputError, match="empty"):
            ApiKey(tmp_path / "empty")
        with pytest.raises(InvalidSpec) as caught:
            ApiKey("sk-secret\r\nX-Evil: 1")
        assert "secret" not in str(caught.value)
        for name, value in (("X-A", "a\r\nX-B: b"), ("X A", "a"), ("", "a"), ("X-A", "\u00e4")):
            with pytest.raises(InvalidSpec):
                ChatClient("http://h/v1", "m", headers={name: value})


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("Tue, 14 Nov 2023 22:13:30 GMT", 10.0),
        ("Tue, 14 Nov 2023 22:13:10 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, now=1_700_000_000.0) == seconds


class TestCheckEndpoint:
    @staticmethod
    def models(*names: str) -> Answer:
        return Answer(200, {}, orjson.dumps({"object": "list", "data": [{"id": name} for name in names]}))

    @pytest.mark.parametrize("answer", [refusal(404), refusal(405), Answer(200, {}, b"hello"), Answer(200, {}, b"{}")])
    async def test_an_endpoint_without_a_list_passes(self, answer: Answer) -> None:
        async with endpoint(answer) as (client, server):
            await check_endpoint(client)
        assert server.requests[0].target == "/v1/models"

    async def test_served_and_not_served(self) -> None:
        async with endpoint(self.models("m", "other")) as (client, _):
            await check_endpoint(client)
        async with endpoint(self.models("other", "third")) as (client, _):
            with pytest.raises(ModelNotFound, match=r"'m'; it serves: other, third"):
                await check_endpoint(client)

    async def test_trouble_that_passes(self) -> None:
        async with endpoint(after(2, refusal(503), self.models("m"))) as (client, server):
            await check_endpoint(client, backoff=AT_ONCE)
            assert len(server.requests) == 3

    @pytest.mark.parametrize(
        ("answer", "error", "hint", "tries"),
        [
            (Answer(0), ModelUnavailable, "is it up, and does its URL end in /v1", 3),
            (refusal(502), ModelUnavailable, "is it up", 3),
            (refusal(503), ModelOverloaded, "answered 503", 3),
            (refusal(401, "no sk-1"), ModelUnauthorized, "KUBEGYM_API_KEY", 1),
        ],
    )
    async def test_trouble_that_lasts(self, answer: Answer, error: type[ModelError], hint: str, tries: int) -> None:
        async with endpoint(answer, api_key="sk-1") as (client, server):
            with pytest.raises(error, match=hint) as caught:
                await check_endpoint(client, backoff=Backoff(attempts=3, base=0.0, maximum=0.0))
            assert len(server.requests) == tries
            assert "sk-1" not in str(caught.value)
