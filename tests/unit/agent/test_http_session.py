"""Sessions behind HTTP, against servers as NeMo Gym's users write theirs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import pytest

from kubegym.agent import AgentSettings, run_attempt
from kubegym.agent.http_session import HttpSession
from kubegym.agent.resources_client import ResourcesClient
from kubegym.core.clock import Deadline
from kubegym.core.errors import AgentError, RolloutError, ToolFailed, VerifierError
from kubegym.core.messages import Done, Message, Turn
from kubegym.core.protocols import Assignment
from kubegym.core.retry import Backoff
from kubegym.core.trajectory import Rollout
from kubegym.testing import ScriptedModel
from testbed.foreign_servers import COOKIE, Answer, ForeignCounter, Seen, Told, answering, responses_object

ROW = {"responses_create_params": {"input": "Count."}, "initial_count": 2, "expected_count": 7, "level": None}
QUICK = Backoff(attempts=4, base=0.001, maximum=0.002)
Open = Callable[..., Any]


def assignment(row: dict[str, Any] | None = None, attempt: int = 0) -> Assignment:
    return Assignment("e", row or ROW, "t", 4, 1, "c0ffee00-4-1", attempt)


def rollout(text: str = "four") -> Rollout:
    response = responses_object("r", text)
    return Rollout([{"role": "user", "content": "Count."}], response["output"], "completed", response, ROW)


@pytest.fixture
async def connect() -> AsyncIterator[Open]:
    """``await connect(answer, ...)`` gives a client of servers that answer so; one replica each."""
    async with AsyncExitStack() as stack:

        async def made(*answers: Answer, dead: int = 0) -> ResourcesClient:
            urls = [f"http://127.0.0.1:{1 + number}" for number in range(dead)]  # nobody listens there
            urls += [await stack.enter_async_context(answering(answer)) for answer in answers]
            client = ResourcesClient(urls, retries=QUICK)
            stack.push_async_callback(client.close)
            return client

        yield made


@pytest.fixture
async def counter(connect: Open) -> tuple[ForeignCounter, HttpSession]:
    server = ForeignCounter()
    client = await connect(server)
    return server, client.session(assignment())


def failure(error: RolloutError) -> tuple[str, str, bool]:
    return error.stage, error.reason, error.retryable


async def test_a_cookie_that_changes_at_every_reply(counter: tuple[ForeignCounter, HttpSession]) -> None:
    server, session = counter
    assert await session.seed() == []
    assert (session.multi_turn, session.tools(), session.parallel("increment_counter")) == (False, [], False)
    assert await session.call_tool("increment_counter", {"count": 5}) == '{"success": true, "note": null}'
    assert await session.call_tool("get_counter_value", {}) == '"7"'  # the quotes of a JSON string stay
    verdict = await session.verify(rollout())
    assert verdict.reward == 1.0
    assert verdict.fields == {"final_value": 7, "note": None, "judge": {"votes": []}}
    await session.close()
    assert server.lost == []
    assert server.paths() == ["/seed_session", "/increment_counter", "/get_counter_value", "/verify"]  # no /close


async def test_what_servers_are_sent(counter: tuple[ForeignCounter, HttpSession]) -> None:
    server, session = counter
    session.deadline = Deadline(90)
    await session.seed()
    await session.verify(rollout())
    seed, verify = server.seen
    indices = {"_ng_task_index": 4, "_ng_rollout_index": 1, "_ng_rollout_id": "c0ffee00-4-1"}
    assert seed.body == ROW | indices
    assert 0 < float(seed.headers["x-kubegym-deadline"]) <= 90
    assert seed.headers["x-kubegym-wire"] == "1"
    assert "cookie" not in seed.headers
    assert verify.body == ROW | indices | {"response": responses_object("r", "four")}
    assert verify.headers["content-type"] == "application/json"


async def test_a_retried_rollout_says_so_and_sends_no_results_of_an_earlier_run(connect: Open) -> None:
    server = ForeignCounter()
    client = await connect(server)
    row = ROW | {"response": {"old": 1}, "kubegym": {"old": 1}}
    session = client.session(assignment(row, attempt=2))
    await session.seed()
    assert server.seen[0].body["_ng_attempt_index"] == 2
    assert not {"response", "kubegym"} & server.seen[0].body.keys()
    await session.verify(rollout())
    assert server.seen[1].body["response"]["id"] == "r"


async def test_a_crash_keeps_the_session(counter: tuple[ForeignCounter, HttpSession]) -> None:
    server, session = counter
    await session.seed()
    await session.call_tool("increment_counter", {"count": 5})
    assert await session.call_tool("crash", {}) == "\"RuntimeError('no such table')\""
    assert (await session.verify(rollout())).reward == 1.0
    assert server.lost == []


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("increment_counter", {"count": "x"}, '{"detail": [{"type": "int_type", '),
        ("no_such_tool", {}, '{"detail": "Not Found"}'),
        ("a b/c?d", {}, '{"detail": "Not Found"}'),
    ],
)
async def test_refusals_are_words_to_the_model(
    counter: tuple[ForeignCounter, HttpSession], name: str, arguments: dict[str, Any], text: str
) -> None:
    _, session = counter
    await session.seed()
    assert (await session.call_tool(name, arguments)).startswith(text)


@pytest.mark.parametrize("name", ["verify", "seed_session", "aggregate_metrics", "mcp", "", ".", "..", "\ud800"])
async def test_the_policy_does_not_reach_the_contract_s_own_routes(
    counter: tuple[ForeignCounter, HttpSession], name: str
) -> None:
    server, session = counter
    await session.seed()
    assert await session.call_tool(name, {}) == '{"detail":"Not Found"}'
    assert server.paths() == ["/seed_session"]


@pytest.mark.parametrize("value", [2**70, "\ud800", "naïve", None, 1.5, {"a": [1]}])
async def test_arguments_arrive_as_the_policy_wrote_them(connect: Open, value: Any) -> None:
    async def echo(seen: Seen) -> Told:
        return Told(seen.body)

    session = (await connect(echo)).session(assignment())
    assert json.loads(await session.call_tool("echo", {"value": value})) == {"value": value}


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        ("bad_gateway", ("tool", "ToolUnavailable", True)),
        ("die", ("tool", "ToolUnavailable", True)),
        ("silent_crash", ("tool", "ToolCrashed", False)),
    ],
)
async def test_tools_that_break_fail_the_attempt_and_are_called_once(
    counter: tuple[ForeignCounter, HttpSession], tool: str, expected: tuple[str, str, bool]
) -> None:
    server, session = counter
    await session.seed()
    with pytest.raises(ToolFailed) as caught:
        await session.call_tool(tool, {})
    assert failure(caught.value) == expected
    assert server.paths().count(f"/{tool}") == 1


async def test_a_slow_tool_ends_with_the_rollout_s_deadline(counter: tuple[ForeignCounter, HttpSession]) -> None:
    server, session = counter
    model = ScriptedModel([{"name": "slow"}])
    attempt = await run_attempt(assignment(), session, model, AgentSettings(deadline_seconds=0.2))
    assert attempt.failure is not None
    assert (attempt.failure.stage, attempt.failure.reason) == ("agent", "DeadlineExceeded")
    assert "/verify" not in server.paths()


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (Told("<html>", 503), ("verifier", "VerifierUnavailable", True)),
        (Told("\"KeyError('x')\"", 500), ("verifier", "VerifierCrashed", False)),
        (Told({"detail": []}, 422), ("verifier", "VerifierCrashed", False)),
        (Told("not JSON"), ("verifier", "VerifierCrashed", False)),
        (Told([]), ("verifier", "VerifierCrashed", False)),
        (Told(status=0), ("verifier", "VerifierUnavailable", True)),
        (Told({}), ("verifier", "VerifierInvalidVerdict", False)),
        (Told({"reward": "1"}), ("verifier", "VerifierInvalidVerdict", False)),
        (Told({"reward": 0.0, "_ng_failure_class": "judge_failed"}), ("judge", "JudgeFailed", True)),
        (
            Told({"reward": 1.0, "_ng_failure_class": "verifier_error", "_ng_failure_terminal": True}),
            ("verifier", "VerifierError", False),
        ),
    ],
)
async def test_verifiers_that_give_no_verdict(
    counter: tuple[ForeignCounter, HttpSession], told: Told, expected: tuple[str, str, bool]
) -> None:
    server, session = counter
    server.verify = lambda seen, value: told
    await session.seed()
    with pytest.raises(RolloutError) as caught:
        await session.verify(rollout())
    assert failure(caught.value) == expected
    assert server.paths().count("/verify") == 1  # a foreign verifier may count its calls


async def test_rewards_of_several_parts(counter: tuple[ForeignCounter, HttpSession]) -> None:
    server, session = counter
    parts = {"format": 1, "answer": 0.5, "odd": None}
    server.verify = lambda seen, value: Told({"reward": 1.5, "reward_components": parts, **parts, "ng_trajectory": {}})
    await session.seed()
    verdict = await session.verify(rollout())
    assert (verdict.reward, verdict.components) == (1.5, {"format": 1.0, "answer": 0.5})
    assert verdict.fields == {"ng_trajectory": {}}


async def test_a_verifier_may_decline(counter: tuple[ForeignCounter, HttpSession]) -> None:
    server, session = counter
    server.verify = lambda seen, value: Told({"reward": None, "why": "ambiguous", "mask_sample": True})
    await session.seed()
    verdict = await session.verify(rollout())
    assert (verdict.reward, verdict.fields) == (None, {"why": "ambiguous"})


class Ours:
    """A server of ours as far as a session sees it; ``plan`` overrides replies by path, in order."""

    SEED: ClassVar[dict[str, Any]] = {
        "multi_turn": True,
        "tools": [{"type": "function", "name": "f"}],
        "parallel": ["f"],
    }

    def __init__(self, **plan: list[Told]) -> None:
        self.plan = plan
        self.seen: list[Seen] = []

    async def __call__(self, seen: Seen) -> Told:
        self.seen.append(seen)
        planned = self.plan.get(seen.path[1:])
        if planned:
            return planned.pop(0)
        match seen.path:
            case "/seed_session":
                return Told({"kubegym": self.SEED | {"input": [{"role": "user", "content": "Hi."}]}})
            case "/step":
                return Told({"observation": {"role": "user", "content": "more"}, "terminated": False})
            case "/verify":
                usage = {"judge": {"calls": 1}}
                return Told({"reward": 1.0, "kubegym": {"usage": usage, "turn_rewards": [1]}})
            case _:
                return Told({})

    def count(self, path: str) -> int:
        return [seen.path for seen in self.seen].count(path)


def carried(stage: str, reason: str, status: int, retryable: bool) -> Told:
    failed = {"stage": stage, "reason": reason, "message": "said so", "retryable": retryable}
    body = {"detail": "said so", "kubegym": {"failure": failed}}
    return Told(body, status, headers={"x-kubegym-failure": "1"})


async def test_our_server_tells_what_it_is(connect: Open) -> None:
    server = Ours(step=[Told({"observation": "plain", "terminated": False})])
    session = (await connect(server)).session(assignment())
    assert await session.seed() == [{"role": "user", "content": "Hi."}]
    assert (session.multi_turn, session.tools(), session.parallel("f")) == (True, Ours.SEED["tools"], True)
    items = responses_object("r", "4")["output"]
    assert await session.respond(Turn(0, "4", items)) == Message.user("plain")
    assert await session.respond(Turn(1, "4", items)) == Message.user("more")
    first, second = (seen.body for seen in server.seen if seen.path == "/step")
    assert first["response"]["output"] == items
    assert first["_ng_step_request_id"] != second["_ng_step_request_id"]
    server.plan["step"] = [Told({"terminated": True, "reward": 1.0})]
    assert await session.respond(Turn(2, "4", items)) == Done()
    conversation = rollout()
    conversation.input = [*conversation.input, {"role": "user", "content": "Hi."}]
    verdict = await session.verify(conversation)
    assert (verdict.reward, verdict.turn_rewards) == (1.0, [1.0])
    assert session.usage == {"judge": {"calls": 1}}
    sent = server.seen[-1].body
    assert sent["kubegym"] == {"stop_reason": "completed"}
    assert sent["responses_create_params"]["input"] == conversation.input  # what the policy was given, seed included
    assert await session.call_tool("step", {}) == '{"detail":"Not Found"}'
    await session.close()
    assert server.count("/close") == 0  # the verdict has ended it


async def test_a_session_without_a_verdict_is_closed_once(connect: Open) -> None:
    server = Ours()
    session = (await connect(server)).session(assignment())
    await session.seed()
    await session.close()
    await session.close()
    assert server.count("/close") == 1
    server.plan["close"] = [Told(status=0)] * 4
    session = (await connect(server)).session(assignment())
    await session.seed()
    await session.close()  # its trouble is not the rollout's


@pytest.mark.parametrize(
    ("path", "use", "prefix"),
    [
        ("step", lambda session: session.respond(Turn(0, "", [])), "Respond"),
        ("verify", lambda session: session.verify(rollout()), "Verifier"),
    ],
)
async def test_what_our_server_knows_by_an_id_is_asked_again(connect: Open, path: str, use: Any, prefix: str) -> None:
    server = Ours(**{path: [Told(status=0), Told("", 503)]})
    session = (await connect(server)).session(assignment())
    await session.seed()
    await use(session)
    assert server.count(f"/{path}") == 3
    server.plan[path] = [Told("", 503)] * 4
    with pytest.raises(RolloutError) as caught:
        await use(session)
    assert (caught.value.reason, caught.value.retryable) == (f"{prefix}Unavailable", True)


async def test_a_tool_of_ours_is_not_called_again_either(connect: Open) -> None:
    server = Ours(f=[Told(status=0)])
    session = (await connect(server)).session(assignment())
    await session.seed()
    with pytest.raises(ToolFailed):
        await session.call_tool("f", {})
    assert server.count("/f") == 1


@pytest.mark.parametrize(
    ("path", "use"),
    [
        ("seed_session", lambda session: session.seed()),
        ("f", lambda session: session.call_tool("f", {})),
        ("step", lambda session: session.respond(Turn(0, "", []))),
        ("verify", lambda session: session.verify(rollout())),
    ],
)
@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (carried("tool", "ToolTimeout", 500, True), ("tool", "ToolTimeout", True)),
        (carried("judge", "EndpointUnreachable", 500, False), ("judge", "EndpointUnreachable", False)),
        (carried("agent", "SessionLost", 410, True), ("agent", "SessionLost", True)),
    ],
)
async def test_failures_that_are_carried(
    connect: Open, path: str, use: Any, told: Told, expected: tuple[str, str, bool]
) -> None:
    server = Ours()
    session = (await connect(server)).session(assignment())
    if path != "seed_session":
        await session.seed()
    server.plan[path] = [told]
    with pytest.raises(RolloutError, match="said so") as caught:
        await use(session)
    assert failure(caught.value) == expected


async def test_seeds_go_to_the_replica_with_the_fewest_rollouts_and_stay(connect: Open) -> None:
    servers = [ForeignCounter() for _ in range(3)]
    client = await connect(*servers)
    sessions = [client.session(assignment()) for _ in range(6)]
    for session in sessions:
        await session.seed()
    assert [replica.users for replica in client.replicas.all] == [2, 2, 2]
    for session in sessions:
        await session.call_tool("increment_counter", {"count": 5})
        assert (await session.verify(rollout())).reward == 1.0
        await session.close()
    assert [replica.users for replica in client.replicas.all] == [0, 0, 0]
    assert [server.lost for server in servers] == [[], [], []]


async def test_a_dead_replica_costs_no_rollout(connect: Open) -> None:
    server = ForeignCounter()
    client = await connect(server, dead=2)
    for _ in range(12):
        session = client.session(assignment())
        await session.seed()
        assert await session.call_tool("get_counter_value", {}) == '"2"'
        await session.close()
    dead = client.replicas.all[:2]
    assert [replica.failures for replica in dead] == [3, 3]  # then they were left alone
    assert client.unready() is None


async def test_no_replica_at_all(connect: Open) -> None:
    client = await connect(dead=1)
    with pytest.raises(AgentError, match="cannot connect") as caught:
        await client.session(assignment()).seed()
    assert failure(caught.value) == ("agent", "SeedUnavailable", True)
    assert client.unready() == "no replica of the resources server answers"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (Told({"detail": "no such task"}, 422), ("agent", "SeedCrashed", False)),
        (Told("oops", 500), ("agent", "SeedCrashed", False)),
        (Told("<html>"), ("agent", "SeedCrashed", False)),
        (Told("", 503), ("agent", "SeedUnavailable", True)),
        (Told(status=0), ("agent", "SeedUnavailable", True)),
    ],
)
async def test_seeds_that_fail(connect: Open, told: Told, expected: tuple[str, str, bool]) -> None:
    async def answer(seen: Seen) -> Told:
        return told

    with pytest.raises(AgentError) as caught:
        await (await connect(answer)).session(assignment()).seed()
    assert failure(caught.value) == expected


async def test_a_whole_attempt(counter: tuple[ForeignCounter, HttpSession]) -> None:
    server, session = counter
    tools = [{"type": "function", "name": "increment_counter"}]
    row = ROW | {"responses_create_params": {"input": "Count.", "tools": tools}}
    model = ScriptedModel([{"name": "increment_counter", "arguments": {"count": 5}}, "done"])
    attempt = await run_attempt(assignment(row), session, model, AgentSettings())
    assert (attempt.outcome, attempt.reward, attempt.stop_reason) == ("scored", 1.0, "completed")
    assert [item["type"] for item in server.seen[-1].body["response"]["output"]] == [
        "function_call",
        "function_call_output",
        "message",
    ]
    assert {seen.cookies.get(COOKIE, "").partition(".")[0] for seen in server.seen[1:]} == {"s0"}


async def test_tools_of_the_seed_are_the_policy_s(connect: Open) -> None:
    model = ScriptedModel(["hello"])
    server = Ours(step=[Told({"terminated": True})])
    session = (await connect(server)).session(assignment())
    attempt = await run_attempt(assignment(), session, model, AgentSettings())
    assert (attempt.outcome, attempt.stop_reason) == ("scored", "environment_done")
    assert model.requests[0]["tools"] == Ours.SEED["tools"]
    assert [item["content"] for item in model.requests[0]["input"]] == ["Count.", "Hi."]


async def test_a_cancelled_attempt_closes_its_session(connect: Open) -> None:
    asked = asyncio.Event()

    class Slow(ScriptedModel):
        def leave(self, rollout_id: str) -> None:
            pass

        async def respond(self, request: Any, context: Any) -> Any:
            asked.set()
            await asyncio.Event().wait()

    server = Ours()
    client = await connect(server)
    session = client.session(assignment())
    task = asyncio.ensure_future(run_attempt(assignment(), session, Slow([]), AgentSettings()))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.count("/close") == 1
    assert client.replicas.all[0].users == 0


async def test_a_verifier_error_names_the_place(counter: tuple[ForeignCounter, HttpSession]) -> None:
    server, session = counter
    server.verify = lambda seen, value: Told("x" * 1000, 500)
    await session.seed()
    with pytest.raises(VerifierError, match=r"http://127.0.0.1:\d+ answered 500: x{300}\.\.\.$"):
        await session.verify(rollout())
