"""The resources server's routes, without sockets."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import orjson
import pytest

from contract.environment import worlds
from kubegym import Done, Environment, Message, Rollout, Turn, Verdict, tool
from kubegym.core.errors import InvalidSpec
from kubegym.http.server import Reply, Request
from kubegym.resources.server import ResourcesServer, ServerLimits
from testbed.resources_server import Caller, call, server_of, started

pytestmark = pytest.mark.unit

ROW = {"responses_create_params": {"input": "?"}}
COUNTER = {**ROW, "initial": 2, "expected": 7}


def response(*items: Any, **more: Any) -> dict[str, Any]:
    return {"id": "resp_1", "object": "response", "output": list(items), **more}


def said(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def called(name: str, arguments: str = "{}", call_id: str = "c1") -> dict[str, Any]:
    return {"type": "function_call", "name": name, "arguments": arguments, "call_id": call_id}


async def seeded(server: ResourcesServer, row: dict[str, Any], **headers: str) -> Caller:
    caller = Caller(server.app(), **headers)
    await caller.json("seed_session", row)
    return caller


async def metrics(server: ResourcesServer) -> str:
    return (await call(server.app(), "GET", "/metrics", [], b"")).body.decode()


class Noticed(worlds.Counter):
    """Says when it is closed."""

    closed: ClassVar[list[int]] = []

    def close(self) -> None:
        self.closed.append(self.task.expected)


@pytest.fixture(autouse=True)
def _forget() -> None:
    Noticed.closed.clear()


# Sessions


async def test_a_rollout_over_the_wire() -> None:
    server = server_of(worlds.Counter)
    async with started(server):
        caller = Caller(server.app())
        reply = await caller.json("seed_session", COUNTER)
        assert reply["kubegym"]["input"] == [{"role": "user", "content": "The counter is at 2."}]
        assert reply["kubegym"]["multi_turn"] is False
        assert [definition["name"] for definition in reply["kubegym"]["tools"]] == ["increment", "read"]
        assert reply["kubegym"]["parallel"] == ["read"]
        assert "mcp" not in reply
        output = await caller.post("increment", {"count": 5})
        assert (output.status, output.body, output.header(b"content-type")) == (
            200,
            b'{"value":7}',
            b"text/plain; charset=utf-8",
        )
        body = {**COUNTER, "response": response(said("seven")), "extra": {"a": None}}
        assert await caller.json("verify", body) == {
            **body,
            "value": 7,
            "text": "seven",
            "reward": 1.0,
            "kubegym": {"outcome": "scored", "usage": {}, "closed": True},
        }
        assert len(server.sessions) == 0


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("increment", {"count": -1}, 400, "count must not be negative"),
        ("increment", {"count": "many"}, 422, None),
        ("increment", b"[1]", 422, None),
        ("increment", b'{"count": ', 422, None),
        ("increment", b'{"a":' * 100_000, 422, None),
        ("fly", {}, 404, '{"detail":"Not Found"}'),
        ("a/b", {}, 404, '{"detail":"Not Found"}'),
    ],
)
async def test_what_a_tool_refuses_is_text_and_keeps_the_session(path: str, body: Any, status: int, text: Any) -> None:
    server = server_of(worlds.Counter)
    async with started(server):
        caller = await seeded(server, COUNTER)
        cookie = caller.cookie
        reply = await caller.post(path, body)
        assert reply.status == status
        assert reply.header(b"set-cookie") == cookie + b"; Path=/; HttpOnly"  # type: ignore[operator]
        assert reply.header(b"x-kubegym-failure") is None
        if text is not None:
            assert reply.body.decode() == text
        else:
            assert {"type", "loc", "msg", "input"} == set(orjson.loads(reply.body)["detail"][0])
        assert (await caller.post("read")).body == b"2"


async def test_nothing_is_an_empty_object_of_arguments() -> None:
    server = server_of(worlds.Counter)
    async with started(server):
        caller = await seeded(server, COUNTER)
        assert (await caller.post("read", b"")).body == b"2"


async def test_integers_beyond_64_bits_reach_the_tool() -> None:
    server = server_of(worlds.Counter)
    async with started(server):
        caller = await seeded(server, COUNTER)
        assert (await caller.post("increment", b'{"count": 1180591620717411303424}')).body == b'{"value":%d}' % (
            2**70 + 2
        )


async def test_a_tool_that_crashes_fails_the_attempt_and_keeps_the_session() -> None:
    server = server_of(worlds.Trouble)
    async with started(server):
        caller = await seeded(server, {**ROW, "kind": "crash"})
        reply = await caller.post("act")
        assert (reply.status, reply.header(b"x-kubegym-failure")) == (500, b"1")
        body = orjson.loads(reply.body)
        assert body["kubegym"]["failure"] == {
            "stage": "tool",
            "reason": "ToolCrashed",
            "message": body["detail"],
            "retryable": False,
            "attempt": 0,
        }
        assert reply.header(b"set-cookie") is not None
        assert len(server.sessions) == 1
        assert (await caller.post("act")).status == 500


async def test_a_seed_that_fails_leaves_no_session() -> None:
    server = server_of(worlds.Trouble)
    async with started(server):
        reply = await Caller(server.app()).post("seed_session", {**ROW, "kind": "seed"})
        assert (reply.status, reply.header(b"set-cookie")) == (500, None)
        assert orjson.loads(reply.body)["kubegym"]["failure"]["reason"] == "SeedCrashed"
        assert len(server.sessions) == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"nonsense", b"[]", b'{"_ng_task_index": "x"}', b'{"responses_create_params": 3}', b'{"_ng_rollout_id":"/"}'],
)
async def test_what_is_no_row_is_refused(body: bytes) -> None:
    server = server_of(worlds.Everything)
    async with started(server):
        reply = await Caller(server.app()).post("seed_session", body)
        assert reply.status == 422
        assert isinstance(orjson.loads(reply.body)["detail"], list)
        assert len(server.sessions) == 0


async def test_a_first_tool_call_without_a_cookie_begins_a_session() -> None:
    server = server_of(worlds.Everything)
    async with started(server):
        caller = Caller(server.app())
        assert (await caller.post("text")).body == b"plain"
        assert caller.cookie is not None
        await caller.post("text")
        assert len(server.sessions) == 1


@pytest.mark.parametrize("route", ["read", "step", "verify"])
@pytest.mark.parametrize("cookie", [b"kubegym-session=forged", b"kubegym-session=", b"kubegym-session=" + b"A" * 5000])
async def test_forged_cookies_are_lost_sessions(route: str, cookie: bytes) -> None:
    server = server_of(worlds.Counter)
    async with started(server):
        await seeded(server, COUNTER)
        caller = Caller(server.app())
        caller.cookie = cookie
        reply = await caller.post(route, {**COUNTER, "response": response(said("x"))})
        assert (reply.status, reply.header(b"x-kubegym-failure")) == (410, b"1")
        failure = orjson.loads(reply.body)["kubegym"]["failure"]
        assert (failure["stage"], failure["reason"], failure["retryable"]) == ("agent", "SessionLost", True)


async def test_a_session_of_a_server_that_was_started_anew_is_lost() -> None:
    before, after = server_of(worlds.Counter), server_of(worlds.Counter)
    async with started(before, after):
        caller = await seeded(before, COUNTER)
        caller.app = after.app()
        assert (await caller.post("read")).status == 410
        assert (await caller.post("close")).status == 200


async def test_sessions_beyond_the_limit_are_refused_for_now() -> None:
    server = server_of(worlds.Counter, limits=ServerLimits(sessions=1))
    async with started(server):
        first = await seeded(server, COUNTER)
        reply = await Caller(server.app()).post("seed_session", COUNTER)
        assert (reply.status, reply.header(b"retry-after")) == (503, b"5")
        failure = orjson.loads(reply.body)["kubegym"]["failure"]
        assert (failure["reason"], failure["retryable"]) == ("TooManySessions", True)
        await first.json("close")
        await seeded(server, COUNTER)


async def test_a_server_that_is_shutting_down_begins_nothing() -> None:
    server = server_of(worlds.Counter)
    async with started(server):
        caller = await seeded(server, COUNTER)
        server.app().stopping = True
        reply = await Caller(server.app()).post("seed_session", COUNTER)
        assert reply.status == 503
        assert orjson.loads(reply.body)["kubegym"]["failure"]["reason"] == "ShuttingDown"
        assert (await caller.post("read")).status == 200


async def test_a_thousand_sessions_expire_and_are_closed() -> None:
    now = [0.0]
    server = server_of(Noticed, clock=lambda: now[0], limits=ServerLimits(idle_margin_seconds=100))
    async with started(server):
        for index in range(1000):
            row = {**COUNTER, "expected": index}
            # The first half has 400 s left; the others say nothing, which means an hour.
            await seeded(server, row, **({"x_kubegym_deadline": "400"} if index < 500 else {}))
        now[0] = 499
        assert await server.expire() == 0
        now[0] = 511
        assert await server.expire() == 500
        assert sorted(Noticed.closed) == list(range(500))
        now[0] = 3699
        assert await server.expire() == 0
        now[0] = 3711
        assert await server.expire() == 500
        assert len(server.sessions) == 0
        assert 'kubegym_resources_sessions_ended_total{how="expired"} 1000.0' in await metrics(server)


@pytest.mark.parametrize("header", ["soon", "-1", "nan"])
async def test_a_deadline_is_seconds(header: str) -> None:
    server = server_of(worlds.Counter)
    async with started(server):
        assert (await Caller(server.app(), x_kubegym_deadline=header).post("seed_session", COUNTER)).status == 422


async def test_environments_are_closed_once_however_the_session_ends() -> None:
    server = server_of(Noticed)
    async with started(server):
        closed = await seeded(server, COUNTER | {"expected": 1})
        await closed.json("close")
        await closed.json("close")
        verified = await seeded(server, COUNTER | {"expected": 2})
        await verified.json("verify", {**COUNTER, "response": response()})
        await verified.json("close")
        await seeded(server, COUNTER | {"expected": 3})
    assert sorted(Noticed.closed) == [1, 2, 3]


@pytest.mark.looptime
async def test_calls_of_a_session_run_one_at_a_time_unless_they_are_parallel() -> None:
    class Slow(Environment):
        running = most = 0

        async def _run(self) -> int:
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(1)
            self.running -= 1
            return self.most

        @tool
        async def alone(self) -> int:
            """Alone."""
            return await self._run()

        @tool(parallel=True)
        async def together(self) -> int:
            """Together."""
            return await self._run()

        def verify(self, rollout: Rollout) -> Verdict:
            return Verdict(0.0)

    server = server_of(Slow)
    async with started(server):
        caller = await seeded(server, ROW)
        assert [reply.body for reply in await asyncio.gather(*(caller.post("alone") for _ in range(3)))] == [b"1"] * 3
        replies = await asyncio.gather(*(caller.post("together") for _ in range(3)))
        assert [reply.body for reply in replies] == [b"3"] * 3


# Verdicts


async def test_a_repeated_verify_gets_the_same_verdict() -> None:
    server = server_of(worlds.Counter)
    async with started(server):
        caller = await seeded(server, COUNTER)
        await caller.post("increment", {"count": 5})
        body = {**COUNTER, "response": response(said("seven"))}
        first, again = await asyncio.gather(caller.post("verify", body), caller.post("verify", body))
        assert first.body == again.body == (await caller.post("verify", body)).body
        other = await caller.post("verify", {**COUNTER, "response": response(said("eight"))})
        assert other.status == 410


async def test_verdicts_of_stateless_environments_need_no_session() -> None:
    server = server_of(worlds.Stateless)
    body = {**ROW, "expected": "four", "response": response(said("four"))}
    async with started(server):
        assert (await Caller(server.app()).json("verify", body))["reward"] == 1.0
        caller = await seeded(server, {**ROW, "expected": "four"})
        await caller.json("close")
        assert (await caller.json("verify", body))["reward"] == 1.0
        assert (await call(server.app(), "GET", "/reverify_mode", [], b"")).body == b'"stateless"'
    stateful = server_of(worlds.Counter)
    assert (await call(stateful.app(), "GET", "/reverify_mode", [], b"")).body == b'"unsupported"'


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"response": None},
        {"response": []},
        {"response": {}},
        {"response": {"output": "x"}},
        {"response": {"output": [1]}},
        {"response": {"output": []}, "responses_create_params": {"input": 3}},
    ],
)
async def test_a_verify_without_a_response_is_refused_and_keeps_the_session(body: dict[str, Any]) -> None:
    server = server_of(worlds.Counter)
    async with started(server):
        caller = await seeded(server, COUNTER)
        assert (await caller.post("verify", {**COUNTER, **body})).status == 422
        assert (await caller.json("verify", {**COUNTER, "response": response()}))["reward"] == 0.0


@pytest.mark.parametrize(("nullable", "reward"), [(True, None), (False, 0.0)])
async def test_no_reward_is_null_or_marked(nullable: bool, reward: float | None) -> None:
    declines, fails = server_of(worlds.Guess), server_of(worlds.Trouble)
    headers = {"x_kubegym_wire": "1"} if nullable else {}
    body = {**ROW, "kind": "trouble", "reward": None, "response": response(said("x"))}
    async with started(declines, fails):
        declined = await (await seeded(declines, ROW, **headers)).json("verify", body)
        assert (declined["reward"], declined["_ng_failure_class"], declined["mask_sample"]) == (
            reward,
            "unscored",
            True,
        )
        assert declined["_ng_failure_terminal"] is True
        failed = await (await seeded(fails, body, **headers)).json("verify", body)
        assert (failed["reward"], failed["_ng_failure_class"], failed["mask_sample"]) == (
            reward,
            "verifier_error",
            True,
        )
        assert "_ng_failure_terminal" not in failed
        assert failed["kubegym"]["failure"]["reason"] == "GraderDown"
        assert failed["response"] == body["response"]


async def test_who_holds_the_row_gets_no_echo_of_it() -> None:
    server = server_of(worlds.Counter)
    async with started(server):
        caller = await seeded(server, COUNTER, x_kubegym_wire="1")
        body = {**COUNTER, "response": response(said("x")), "kubegym": {"stop_reason": "max_steps"}}
        assert set(await caller.json("verify", body)) == {"reward", "value", "text", "kubegym"}


@pytest.mark.parametrize(
    ("more", "told", "expected"),
    [
        ({}, None, "completed"),
        ({"incomplete_details": {"reason": "content_filter"}}, None, "content_filter"),
        ({"incomplete_details": {"reason": "max_output_tokens"}}, None, "max_output_tokens"),
        ({"incomplete_details": {"reason": "content_filter"}}, "max_steps", "max_steps"),
        ({}, "no such reason", "completed"),
    ],
)
async def test_the_verifier_sees_why_and_what(more: dict[str, Any], told: str | None, expected: str) -> None:
    class Sees(Environment):
        def verify(self, rollout: Rollout) -> Verdict:
            row = {**rollout.row}
            return Verdict(
                0.5,
                fields={"why": rollout.stop_reason, "input": rollout.input, "row": row, "text": rollout.final_text},
                components={"a": 0.25},
                metrics={"m": 2.0},
                turn_rewards=[1.0],
            )

    server = server_of(Sees)
    row = {**ROW, "_ng_rollout_id": "r-1", "x": None}
    body = {**row, "response": response(said("t"), **more)}
    if told is not None:
        body["kubegym"] = {"stop_reason": told}
    async with started(server):
        reply = await (await seeded(server, row)).json("verify", body)
    assert (reply["why"], reply["text"], reply["input"]) == (expected, "t", [{"role": "user", "content": "?"}])
    assert reply["row"] == row
    assert (reply["reward_components"], reply["a"], reply["m"]) == ({"a": 0.25}, 0.25, 2.0)
    assert reply["kubegym"]["turn_rewards"] == [1.0]


# Gymnasium


class Dialogue(Environment):
    """Two questions, one tool; the score counts the answers."""

    async def seed(self) -> list[Message]:
        self.looked = 0
        return [Message.user("first?")]

    @tool
    def look(self, at: str) -> str:
        """Look."""
        self.looked += 1
        return f"a {at}"

    def respond(self, turn: Turn) -> Message | Done:
        return Message.user(f"second after {turn.text}?") if turn.index == 0 else Done()

    def verify(self, rollout: Rollout) -> Verdict:
        kinds = [item["type"] for item in rollout.output]
        return Verdict(float(self.looked), fields={"kinds": kinds, "input": len(rollout.input)})


async def test_a_gymnasium_agent_s_rollout() -> None:
    server = server_of(Dialogue)
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    async with started(server):
        caller = Caller(server.app())
        info = {"supports_explicit_close": True, "supports_step_idempotency": True}
        assert await caller.json("reset", ROW) == {"observation": "first?", "info": info}
        step = {**ROW, "response": response(called("look", '{"at":"cat"}'), called("look", "{", "c2"), usage=usage)}
        reply = await caller.json("step", step)
        assert (reply["reward"], reply["terminated"], reply["truncated"]) == (0.0, False, False)
        first, second = reply["info"]["tool_outputs"]
        assert first == {"call_id": "c1", "output": "a cat"}
        assert second["output"].startswith('{"error":"Invalid tool call arguments: ')
        reply = await caller.json("step", {**ROW, "response": response(said("yes"), usage=usage)})
        assert (reply["observation"], reply["terminated"]) == ("second after yes?", False)
        reply = await caller.json("step", {**ROW, "response": response(said("no"), usage=usage)})
        assert (reply["reward"], reply["terminated"]) == (1.0, True)
        assert reply["info"]["kinds"] == [
            *("function_call", "function_call", "function_call_output", "function_call_output"),
            *("message", "message", "message"),
        ]
        assert reply["info"]["input"] == 2
        await caller.json("close")
        assert len(server.sessions) == 0


async def test_a_repeated_step_is_not_made_again() -> None:
    server = server_of(Dialogue)
    async with started(server):
        caller = Caller(server.app())
        await caller.json("reset", ROW)
        look = {**ROW, "response": response(called("look", '{"at":"cat"}')), "_ng_step_request_id": "s0"}
        first, again = await asyncio.gather(caller.post("step", look), caller.post("step", look))
        assert first.body == again.body
        done = {**ROW, "response": response(said("a")), "_ng_step_request_id": "s1"}
        assert (await caller.json("step", done))["observation"] == "second after a?"
        assert (await caller.post("step", look)).body == first.body
        last = {**ROW, "response": response(said("b")), "_ng_step_request_id": "s2"}
        assert (await caller.json("step", last))["reward"] == 1.0
        assert (await caller.json("step", last))["reward"] == 1.0


async def test_our_agent_s_steps_leave_the_verdict_to_verify() -> None:
    server = server_of(Dialogue)
    async with started(server):
        caller = await seeded(server, ROW)
        await caller.json("step", {**ROW, "response": response(said("a"))})
        reply = await caller.json("step", {**ROW, "response": response(said("b"))})
        assert (reply["terminated"], reply["reward"]) == (True, 0.0)
        assert (await caller.json("verify", {**ROW, "response": response(said("a"))}))["reward"] == 0.0


async def test_a_rollout_that_gymnasium_cannot_score_is_marked() -> None:
    server = server_of(worlds.Trouble)
    async with started(server):
        caller = Caller(server.app())
        await caller.json("reset", {**ROW, "kind": "fine"})
        cut = response(said("x"), incomplete_details={"reason": "max_output_tokens"})
        reply = await caller.json("step", {**ROW, "response": cut})
        assert (reply["terminated"], reply["reward"], reply["_ng_failure_class"]) == (True, 0.0, "verifier_error")


# Everything else


async def test_an_environment_whose_tool_has_a_route_s_name_is_not_served() -> None:
    class Closes(Environment):
        @tool
        def close_door(self) -> str:
            """Close."""
            return ""

        @tool(name="close")
        def shut(self) -> str:
            """Shut."""
            return ""

        def verify(self, rollout: Rollout) -> Verdict:
            return Verdict(0.0)

    with pytest.raises(InvalidSpec, match="cannot be called 'close'"):
        server_of(Closes)


async def test_metrics_count_requests_and_sessions() -> None:
    server = server_of(worlds.Counter, process="3")
    async with started(server):
        caller = await seeded(server, COUNTER)
        await caller.post("read")
        await caller.post("fly")
        text = await metrics(server)
    assert 'kubegym_resources_requests_total{process="3",route="/seed_session",status="200"} 1.0' in text
    assert 'kubegym_resources_requests_total{process="3",route="/{tool}",status="404"} 1.0' in text
    assert 'kubegym_resources_request_duration_seconds_count{process="3",route="/{tool}"} 2.0' in text
    assert 'kubegym_resources_sessions{process="3"} 1.0' in text


async def test_the_document_has_every_route_and_tool() -> None:
    async def aggregate(request: Request) -> Reply:
        return Reply(request.body)

    server = server_of(worlds.Counter, aggregate_metrics=aggregate, expose_tools_over_mcp=True)
    async with started(server):
        document = orjson.loads((await call(server.app(), "GET", "/openapi.json", [], b"")).body)
        routes = {
            "/seed_session",
            "/verify",
            "/reset",
            "/step",
            "/close",
            "/reverify_mode",
            "/aggregate_metrics",
            "/mcp",
        }
        assert set(document["paths"]) == routes | {"/increment", "/read"}
        schema = document["paths"]["/increment"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert schema["properties"] == {"count": {"type": "integer"}}
        assert (await Caller(server.app()).json("aggregate_metrics", {"verify_responses": []})) == {
            "verify_responses": []
        }
    bare = server_of(worlds.Counter)
    assert (await Caller(bare.app()).post("aggregate_metrics", {})).status == 404


async def test_a_rollout_prefix_names_the_rollout() -> None:
    class Named(Environment):
        @tool
        def name(self) -> str:
            """Say the rollout's id."""
            return self._identity[2]

        def verify(self, rollout: Rollout) -> Verdict:
            return Verdict(0.0)

    server = server_of(Named)
    async with started(server):
        caller = Caller(server.app())
        await caller.json("ng-rollout/r-7-1/seed_session", ROW)
        assert (await caller.post("ng-rollout/r-7-1/name")).body == b"r-7-1"
