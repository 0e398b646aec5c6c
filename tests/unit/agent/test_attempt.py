"""Attempts: what is asked, what is kept, and how each trouble ends, with scripted sessions and models."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from kubegym.agent import AgentSettings, run_attempt
from kubegym.agent.attempt import request_params
from kubegym.core.clock import Deadline
from kubegym.core.errors import ModelError, ToolFailed
from kubegym.core.ids import derive_seed
from kubegym.core.messages import Done, Item, Message, Turn
from kubegym.core.protocols import Assignment, Attempt, CallContext, ModelReply
from kubegym.core.trajectory import Rollout, Verdict
from kubegym.testing import Reply, ScriptedModel, scripted_response

CALL = {"name": "f", "arguments": {"x": 1}}
DEFINITIONS = [{"type": "function", "name": "f"}]


class FakeSession:
    """A session that does what its attributes say and remembers what it was asked."""

    def __init__(self, **settings: Any) -> None:
        self.multi_turn = False
        self.deadline: Deadline | None = None
        self.usage: dict[str, dict[str, int]] = {}
        self.seeds: list[Item] = []
        self.definitions: list[dict[str, Any]] = []
        self.parallels: frozenset[str] = frozenset()
        self.verdict: Any = Verdict(1.0)
        self.answers: list[Message | Done] = []
        self.tool_error: Exception | None = None
        self.tool_seconds = 0.0
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.running = self.most_running = 0
        self.called = asyncio.Event()
        self.turns: list[Turn] = []
        self.rollout: Rollout | None = None
        self.closed = 0
        vars(self).update(settings)

    async def seed(self) -> list[Item]:
        return self.seeds

    def tools(self) -> list[dict[str, Any]]:
        return self.definitions

    def parallel(self, name: str) -> bool:
        return name in self.parallels

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> str:
        self.calls.append((name, arguments))
        self.called.set()
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self.tool_seconds / len(self.calls))
            if self.tool_error is not None:
                raise self.tool_error
            return f"{name} {arguments}"
        finally:
            self.running -= 1

    async def respond(self, turn: Turn) -> Message | Done:
        self.turns.append(turn)
        return self.answers.pop(0)

    async def verify(self, rollout: Rollout) -> Verdict:
        self.rollout = rollout
        if isinstance(self.verdict, Exception):
            raise self.verdict
        assert isinstance(self.verdict, Verdict)
        return self.verdict

    async def close(self) -> None:
        self.closed += 1


async def attempt(
    session: FakeSession,
    replies: list[Reply] | ScriptedModel,
    *,
    row: dict[str, Any] | None = None,
    **settings: Any,
) -> Attempt:
    model = replies if isinstance(replies, ScriptedModel) else ScriptedModel(replies)
    row = row if row is not None else {"responses_create_params": {"input": "hello"}}
    assignment = Assignment("env", row, "task", 0, 3, "00000000-0-3", attempt=2)
    ended = await run_attempt(assignment, session, model, AgentSettings(**settings))
    assert session.closed == 1
    return ended


def kinds(ended: Attempt) -> list[str]:
    assert ended.response is not None
    return [item["type"] for item in ended.response["output"]]


def failed(ended: Attempt) -> tuple[str, str, bool]:
    assert ended.outcome == "failed"
    assert ended.reward is None
    assert ended.failure is not None
    assert ended.failure.attempt == 2
    return ended.failure.stage, ended.failure.reason, ended.failure.retryable


async def test_one_question_one_answer() -> None:
    session, model = FakeSession(), ScriptedModel(["hi"])
    ended = await attempt(session, model)
    assert (ended.outcome, ended.reward, ended.stop_reason) == ("scored", 1.0, "completed")
    assert model.requests == [{"input": [{"role": "user", "content": "hello"}]}]
    assert ended.params == {"input": "hello"}
    assert kinds(ended) == ["message"]
    assert ended.turns == [{"policy_version": None, "reward": None}]
    assert set(ended.timing) == {"queue", "model", "tool", "verify", "total"}
    assert session.rollout is not None
    assert session.rollout.final_text == "hi"
    assert session.rollout.row["responses_create_params"] == {"input": "hello"}


async def test_tools_run_in_order_and_their_outputs_follow() -> None:
    session = FakeSession(definitions=DEFINITIONS)
    model = ScriptedModel([[CALL, {"name": "g", "arguments": {}}], "done"])
    ended = await attempt(session, model)
    assert session.calls == [("f", {"x": 1}), ("g", {})]
    assert kinds(ended) == ["function_call", "function_call", "function_call_output", "function_call_output", "message"]
    assert ended.response is not None
    assert model.requests[1]["input"] == [{"role": "user", "content": "hello"}, *ended.response["output"][:4]]
    assert model.requests[0]["tools"] == DEFINITIONS
    assert ended.response["output"][2] == {"type": "function_call_output", "call_id": "call_1", "output": "f {'x': 1}"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ("[1]", "expected an object, not list"),
        ('"x"', "expected an object, not str"),
        ("[" * 100_000, "recursion"),
    ],
)
async def test_malformed_arguments_go_back_to_the_model(arguments: str, says: str) -> None:
    session = FakeSession()
    ended = await attempt(session, [{"name": "f", "arguments": arguments}, "sorry"])
    assert ended.response is not None
    output = json.loads(ended.response["output"][1]["output"])
    assert output["error"].startswith("Invalid tool call arguments: ")
    assert says in output["error"]
    assert session.calls == []
    assert ended.outcome == "scored"


async def test_big_integers_reach_the_tool_unharmed() -> None:
    session = FakeSession()
    await attempt(session, [{"name": "f", "arguments": '{"x": 123456789012345678901234567890}'}, "ok"])
    assert session.calls == [("f", {"x": 123456789012345678901234567890})]


@pytest.mark.looptime
@pytest.mark.parametrize(("parallels", "most"), [({"f", "g"}, 2), ({"f"}, 1), (set(), 1)])
async def test_calls_run_side_by_side_only_if_all_may(parallels: set[str], most: int) -> None:
    session = FakeSession(parallels=frozenset(parallels), tool_seconds=4.0)
    ended = await attempt(session, [[{"name": "f"}, {"name": "g"}], "ok"])
    assert session.most_running == most
    assert ended.response is not None
    assert [item["call_id"] for item in ended.response["output"][2:4]] == ["call_1", "call_2"]
    assert ended.timing["tool"] == (4.0 if most == 2 else 6.0)


@pytest.mark.looptime
async def test_a_parallel_call_that_fails_ends_the_others() -> None:
    session = FakeSession(parallels=frozenset("f"), tool_seconds=4.0, tool_error=ToolFailed("broke"))
    ended = await attempt(session, [[{"name": "f"}, {"name": "f"}]])
    assert failed(ended) == ("tool", "ToolCrashed", False)
    assert session.running == 0
    assert kinds(ended) == ["function_call", "function_call"]


async def test_reasoning_alone_asks_again() -> None:
    thought = {"type": "reasoning", "summary": []}
    ended = await attempt(FakeSession(), [thought, [thought, "now"]])
    assert kinds(ended) == ["reasoning", "reasoning", "message"]
    ended = await attempt(FakeSession(), [thought] * 9)
    assert failed(ended) == ("agent", "NoProgress", False)
    assert len(kinds(ended)) == 8


async def test_the_environment_answers_messages() -> None:
    session = FakeSession(multi_turn=True, answers=[Message.user("higher"), Done()])
    model = ScriptedModel(["5", "7"])
    ended = await attempt(session, model)
    assert ended.stop_reason == "environment_done"
    assert [(turn.index, turn.text, len(turn.items)) for turn in session.turns] == [(0, "5", 1), (1, "7", 1)]
    assert model.requests[1]["input"][-1] == {"type": "message", "role": "user", "content": "higher"}
    assert kinds(ended) == ["message"] * 3


async def test_seed_messages_follow_the_input() -> None:
    session = FakeSession(seeds=[{"role": "user", "content": "go"}])
    model = ScriptedModel(["ok"])
    row = {"responses_create_params": {"input": [{"role": "system", "content": "be"}], "temperature": 0.5}}
    ended = await attempt(session, model, row=row)
    assert model.requests[0]["input"] == ended.params["input"]
    assert [item["content"] for item in ended.params["input"]] == ["be", "go"]
    assert len(row["responses_create_params"]["input"]) == 1, "the row is shared by all rollouts"


async def test_steps_tokens_and_cut_replies_end_the_conversation() -> None:
    ended = await attempt(FakeSession(), [CALL, CALL, CALL], max_steps=2)
    assert (ended.stop_reason, ended.outcome, kinds(ended)[-1]) == ("max_steps", "scored", "function_call_output")
    ended = await attempt(FakeSession(), [CALL, CALL, CALL], max_total_tokens=4)
    assert (ended.stop_reason, len(kinds(ended)), kinds(ended)[-1]) == ("token_budget", 4, "function_call_output")
    cut = scripted_response([], incomplete_details={"reason": "max_output_tokens"})
    ended = await attempt(FakeSession(), [cut])
    assert ended.stop_reason == "max_output_tokens"
    ended = await attempt(FakeSession(), [ModelReply(cut, stop="context_window")])
    assert ended.stop_reason == "context_window"


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [(ModelReply(scripted_response([]), stop="max_output_tokens"), "unscored"), ("whole", "scored")],
)
async def test_truncated_conversations_can_be_left_unscored(reply: Reply, outcome: str) -> None:
    session = FakeSession()
    ended = await attempt(session, [reply], on_truncated="Skip")
    assert (ended.outcome, ended.reward) == (outcome, 1.0 if outcome == "scored" else None)
    assert (session.rollout is None) == (outcome == "unscored")


async def test_the_model_fails_and_what_was_said_is_kept() -> None:
    ended = await attempt(FakeSession(), [CALL, ModelError("gone", reason="EndpointUnreachable", retryable=True)])
    assert failed(ended) == ("model", "EndpointUnreachable", True)
    assert kinds(ended) == ["function_call", "function_call_output"]
    assert ended.usage["policy"]["calls"] == 1
    ended = await attempt(FakeSession(), [])
    assert failed(ended) == ("model", "ScriptExhausted", False)
    assert (ended.response, ended.usage, ended.turns) == (None, {}, [])


@pytest.mark.parametrize(
    "response",
    [
        {},
        {"output": None},
        {"output": ["text"]},
        {"output": [{"text": "no type"}]},
        {"output": [{"type": "function_call", "name": "f", "call_id": "c"}]},
    ],
)
async def test_replies_that_break_the_contract(response: dict[str, Any]) -> None:
    assert failed(await attempt(FakeSession(), [ModelReply(response)])) == ("agent", "InvalidModelReply", False)


async def test_turn_rewards_stand_at_their_turns() -> None:
    session = FakeSession(verdict=Verdict(1.0, turn_rewards=[0.25, 0.75]))
    replies = [ModelReply(scripted_response([{"type": "reasoning"}]), policy_version=4), "ok"]
    ended = await attempt(session, replies)
    assert ended.turns == [{"policy_version": 4, "reward": 0.25}, {"policy_version": None, "reward": 0.75}]
    spanning = ModelReply(scripted_response([{"type": "reasoning"}]), policy_version=4, policy_runs=[(4, 0), (5, 17)])
    runs = [{"version": 4, "from_token": 0}, {"version": 5, "from_token": 17}]
    (turn, _) = (await attempt(FakeSession(verdict=session.verdict), [spanning, "ok"])).turns
    assert turn == {"policy_version": 4, "policy_runs": runs, "reward": 0.25}
    ended = await attempt(FakeSession(verdict=session.verdict), ["ok"])
    assert failed(ended) == ("verifier", "VerifierInvalidVerdict", False)


async def test_verdicts_and_their_parts() -> None:
    verdict = Verdict(0.5, components={"style": 0.5}, fields={"answer": "x"}, metrics={"steps": 2})
    ended = await attempt(FakeSession(verdict=verdict), ["ok"])
    assert (ended.reward, ended.components, ended.fields) == (0.5, {"style": 0.5}, {"answer": "x", "steps": 2.0})
    ended = await attempt(FakeSession(verdict=Verdict(None)), ["ok"])
    assert (ended.outcome, ended.reward, ended.failure) == ("unscored", None, None)


async def test_usage_is_summed_and_unknown_stays_unknown() -> None:
    def reply(cached: int | None, *, item: Item) -> ModelReply:
        usage = {
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 1},
            "total_tokens": 12,
        }
        return ModelReply(scripted_response([item], usage=usage), seconds=0.5, waited=2.0)

    thought, message = {"type": "reasoning"}, {"type": "message", "role": "assistant", "content": []}
    judge = {"judge": {"calls": 1, "input_tokens": 1}}
    ended = await attempt(FakeSession(usage=judge), [reply(3, item=thought), reply(None, item=message)])
    assert ended.response is not None
    assert ended.response["usage"] == {
        "input_tokens": 20,
        "input_tokens_details": {"cached_tokens": None},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 24,
    }
    policy = {"calls": 2, "input_tokens": 20, "output_tokens": 4, "cached_tokens": 3, "reasoning_tokens": 2}
    assert ended.usage == {"policy": policy, **judge}
    assert (ended.timing["model"], ended.timing["queue"]) == (1.0, 4.0)


async def test_seeds_follow_from_run_task_rollout_and_turn() -> None:
    model = ScriptedModel([CALL, "ok"])
    ended = await attempt(FakeSession(), model, seed=7)
    assert [context.seed for context in model.contexts] == [derive_seed(7, "task", 3, turn) for turn in (0, 1)]
    assert ended.seed == 7
    model = ScriptedModel(["ok"])
    await attempt(FakeSession(), model)
    assert model.contexts[0].seed is None


@pytest.mark.looptime
async def test_the_deadline_fails_the_rollout_with_what_was_said() -> None:
    session = FakeSession(tool_seconds=50.0)
    ended = await attempt(session, [CALL] * 9, deadline_seconds=60.0)
    assert failed(ended) == ("agent", "DeadlineExceeded", False)
    assert ended.stop_reason == "deadline"
    assert ended.timing["total"] == 60.0
    assert kinds(ended)[:2] == ["function_call", "function_call_output"]


@pytest.mark.looptime
async def test_waiting_for_a_busy_model_is_not_the_rollouts_time() -> None:
    class Busy(ScriptedModel):
        def leave(self, rollout_id: str) -> None:
            pass

        async def respond(self, request: dict[str, Any], context: CallContext) -> ModelReply:
            context.deadline.excuse(1000)
            await asyncio.sleep(1000)
            return await super().respond(request, context)

    ended = await attempt(FakeSession(), Busy(["ok"]), deadline_seconds=60.0)
    assert ended.outcome == "scored"
    ended = await attempt(FakeSession(), Busy(["ok"]), deadline_seconds=60.0, stall_seconds=500.0)
    assert failed(ended) == ("agent", "DeadlineExceeded", False)


async def test_a_timeout_of_somebody_else_is_not_the_deadline(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL, logger="kubegym"):
        ended = await attempt(FakeSession(), [TimeoutError("theirs")])
    assert failed(ended) == ("agent", "AgentCrashed", False)
    assert ended.failure is not None
    assert ended.failure.message == "TimeoutError: theirs"


async def test_cancellation_passes_and_closes_the_session() -> None:
    session = FakeSession(tool_seconds=3600.0)
    assignment = Assignment("env", {"responses_create_params": {"input": "x"}}, "t", 0, 0, "0-0-0")
    task = asyncio.ensure_future(run_attempt(assignment, session, ScriptedModel([CALL]), AgentSettings()))
    await session.called.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert session.closed == 1


@pytest.mark.parametrize(
    ("params", "tools", "overrides", "expected"),
    [
        ({"input": "a"}, [], {}, {"input": "a"}),
        ({"input": "a"}, DEFINITIONS, {}, {"input": "a", "tools": DEFINITIONS}),
        ({"tools": None}, DEFINITIONS, {}, {"tools": DEFINITIONS}),
        ({"tools": []}, DEFINITIONS, {}, {"tools": []}),
        ({"tools": [{"name": "own"}]}, DEFINITIONS, {}, {"tools": [{"name": "own"}]}),
        ({"temperature": 0.5}, [], {"temperature": 1.0, "top_p": 0.9}, {"temperature": 1.0, "top_p": 0.9}),
        ({"metadata": {"a": "1", "b": "2"}}, [], {"metadata": {"b": "3"}}, {"metadata": {"a": "1", "b": "3"}}),
        (None, [], {}, {}),
    ],
)
def test_request_params(params: Any, tools: Any, overrides: Any, expected: Any) -> None:
    row = {"responses_create_params": params}
    before = json.dumps(row)
    assert request_params(row, tools, overrides) == expected
    assert json.dumps(row) == before
