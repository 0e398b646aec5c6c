"""What agents may rely on, whoever provides the session (``core.protocols.Session``)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from contract.environment import worlds
from kubegym.core.clock import Deadline
from kubegym.core.errors import AgentError, JudgeError, ModelError, RolloutError, ToolFailed, VerifierError
from kubegym.core.messages import Done, Message, Turn
from kubegym.core.trajectory import Rollout
from kubegym.resources import SessionLimits
from kubegym.testing import Reply, ScriptedModel

COUNTER = {"initial": 2, "expected": 7}


def rollout(text: str = "") -> Rollout:
    output = [{"type": "message", "role": "assistant", "content": text}]
    return Rollout([{"role": "user", "content": "?"}], output, "completed", {"object": "response", "output": output})


def turn(index: int, text: str) -> Turn:
    return Turn(index, text, [{"type": "message", "role": "assistant", "content": text}])


async def test_state_lives_from_seed_to_verdict(open_session: Any) -> None:
    session = await open_session(worlds.Counter, COUNTER)
    assert await session.seed() == [{"role": "user", "content": "The counter is at 2."}]
    assert await session.call_tool("increment", {"count": 5}) == '{"value":7}'
    assert await session.call_tool("read", {}) == "7"
    verdict = await session.verify(rollout("seven"))
    assert (verdict.reward, verdict.fields) == (1.0, {"value": 7, "text": "seven"})
    await session.close()


async def test_sessions_share_configuration_and_no_state(open_session: Any) -> None:
    first = await open_session(worlds.Counter, COUNTER, config={"step": 10})
    second = await open_session(worlds.Counter, COUNTER, config={"step": 10}, rollout_index=1)
    await first.seed()
    await second.seed()
    assert await first.call_tool("increment", {"count": 1}) == '{"value":12}'
    assert await second.call_tool("read", {}) == "2"


async def test_definitions_come_from_types_and_docstrings(open_session: Any) -> None:
    session = await open_session(worlds.Counter, COUNTER)
    await session.seed()  # behind HTTP nobody knows before
    assert session.tools()[0] == {
        "type": "function",
        "name": "increment",
        "description": "Add to the counter.",
        "parameters": {
            "type": "object",
            "properties": {"count": {"type": "integer"}},
            "required": ["count"],
            "additionalProperties": False,
        },
        "strict": True,
    }
    assert [definition["name"] for definition in session.tools()] == ["increment", "read"]
    assert [session.parallel(name) for name in ("increment", "read", "absent")] == [False, True, False]


async def test_refusals_are_words_to_the_model(open_session: Any) -> None:
    session = await open_session(worlds.Counter, COUNTER)
    await session.seed()
    assert await session.call_tool("increment", {"count": -1}) == "count must not be negative"
    assert await session.call_tool("fly", {}) == '{"detail":"Not Found"}'
    detail = json.loads(await session.call_tool("increment", {"count": "many"}))["detail"]
    assert [(one["type"], one["loc"], one["input"]) for one in detail] == [("int_parsing", ["body", "count"], "many")]
    assert set(detail[0]) == {"type", "loc", "msg", "input"}
    assert await session.call_tool("read", {"unknown": 1}) == "2"  # extra arguments are ignored


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("text", "plain"),
        ("json", '"quoted"'),
        ("none", "null"),
        ("number", str(2**70)),
        ("nested", '{"a":[1,{"b":null}]}'),
        ("unicode", "a?b"),
        ("model", '{"step":3}'),
        ("other", '{"name":"other","arguments":{"x":1}}'),
    ],
)
async def test_results_as_text(open_session: Any, name: str, text: str) -> None:
    session = await open_session(worlds.Everything)
    await session.seed()
    assert session.tools() == []
    assert await session.call_tool(name, {"x": 1}) == text


async def test_long_outputs_are_cut_and_say_so(open_session: Any) -> None:
    session = await open_session(worlds.Trouble, {"kind": "huge"})
    await session.seed()
    output = await session.call_tool("act", {})
    assert output.startswith("x" * 1_000_000)
    assert output.endswith("[output cut: 10000000 characters, only the first 1000000 are shown]")
    assert len(output) < 1_000_100


async def test_respond_answers_until_done(open_session: Any) -> None:
    session = await open_session(worlds.Guess)
    await session.seed()
    assert session.multi_turn
    assert await session.respond(turn(0, "4")) == Message.user("0: not 4")
    assert await session.respond(turn(1, "5")) == Message.user("1: not 5")
    assert await session.respond(turn(2, "stop")) == Done()
    assert (await session.verify(rollout())).reward is None
    single = await open_session(worlds.Counter, COUNTER)
    assert not single.multi_turn


async def test_random_numbers_repeat_for_the_rollout_and_the_task(open_session: Any) -> None:
    async def drawn(index: int) -> Any:
        session = await open_session(worlds.Drawn, rollout_index=index)
        await session.seed()
        return json.loads(await session.call_tool("draw", {}))

    first, again, other = await drawn(0), await drawn(0), await drawn(1)
    assert first == again
    assert first[0] != other[0]
    assert first[1] == other[1]


def failure(error: RolloutError) -> tuple[str, str, bool]:
    return error.stage, error.reason, error.retryable


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("crash", ("tool", "ToolCrashed", False)),
        ("refused", ("tool", "ToolUnavailable", True)),
        ("timeout", ("tool", "ToolUnavailable", True)),
        ("file", ("tool", "ToolCrashed", False)),
        ("exit", ("tool", "ToolCrashed", False)),
        ("cancel", ("tool", "ToolCrashed", False)),
        ("bytes", ("tool", "ToolCrashed", False)),
        ("model", ("model", "EndpointUnreachable", True)),
    ],
)
async def test_tools_that_break(open_session: Any, kind: str, expected: tuple[str, str, bool]) -> None:
    session = await open_session(worlds.Trouble, {"kind": kind})
    await session.seed()
    with pytest.raises((ToolFailed, ModelError)) as caught:
        await session.call_tool("act", {})
    assert failure(caught.value) == expected
    await session.close()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("crash", ("verifier", "VerifierCrashed", False)),
        ("refused", ("verifier", "VerifierUnavailable", True)),
        ("exit", ("verifier", "VerifierCrashed", False)),
        ("fine", ("verifier", "VerifierInvalidVerdict", False)),
        ("number", ("verifier", "VerifierInvalidVerdict", False)),
        ("nan", ("verifier", "VerifierInvalidVerdict", False)),
        ("keyword", ("verifier", "VerifierInvalidVerdict", False)),
        ("reserved", ("verifier", "VerifierInvalidVerdict", False)),
        ("fields", ("verifier", "VerifierInvalidVerdict", False)),
        ("trouble", ("verifier", "GraderDown", True)),
        ("model", ("judge", "EndpointUnreachable", True)),
    ],
)
async def test_verifiers_that_give_no_verdict(open_session: Any, kind: str, expected: tuple[str, str, bool]) -> None:
    session = await open_session(worlds.Trouble, {"kind": kind})
    await session.seed()
    with pytest.raises((VerifierError, JudgeError)) as caught:
        await session.verify(rollout())
    assert failure(caught.value) == expected


async def test_messages_of_failures_help(open_session: Any) -> None:
    crashed = await open_session(worlds.Trouble, {"kind": "crash"})
    await crashed.seed()
    with pytest.raises(ToolFailed, match=r"tool act: ZeroDivisionError: by zero \(.*worlds.py:\d+ in _trouble\)"):
        await crashed.call_tool("act", {})
    number = await open_session(worlds.Trouble, {"kind": "number"})
    await number.seed()
    with pytest.raises(VerifierError, match=r"returned float 1.0; return Verdict\(1.0\)"):
        await number.verify(rollout())


async def test_seed_respond_and_close_that_break(open_session: Any) -> None:
    session = await open_session(worlds.Trouble, {"kind": "seed"})
    with pytest.raises(AgentError) as caught:
        await session.seed()
    assert failure(caught.value) == ("agent", "SeedCrashed", False)
    session = await open_session(worlds.Trouble, {"kind": "crash"})
    with pytest.raises(AgentError) as caught:
        await session.respond(Turn(0, "", []))
    assert failure(caught.value) == ("agent", "RespondCrashed", False)
    session = await open_session(worlds.Trouble, {"kind": "refused"})
    with pytest.raises(AgentError) as caught:
        await session.respond(Turn(0, "", []))
    assert failure(caught.value) == ("agent", "RespondUnavailable", True)
    session = await open_session(worlds.Trouble, {"kind": "close"})
    await session.close()


async def test_a_stored_rollout_is_verified_without_seed(open_session: Any) -> None:
    session = await open_session(worlds.Stateless, {"expected": "four"})
    assert (await session.verify(rollout("four"))).reward == 1.0


async def test_a_row_that_does_not_fit(open_session: Any) -> None:
    session = await open_session(worlds.Counter, {"initial": "two"})
    for use in (session.seed, lambda: session.verify(rollout())):
        with pytest.raises(AgentError, match=r"initial: .* not 'two'; expected: Field required") as caught:
            await use()
        assert caught.value.reason == "InvalidRow"
    await session.close()


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (lambda session: session.call_tool("act", {}), ("tool", "ToolTimeout", True)),
        (lambda session: session.verify(rollout()), ("verifier", "VerifierStarved", True)),
        (lambda session: session.respond(Turn(0, "", [])), ("agent", "RespondStarved", True)),
    ],
)
async def test_what_waits_for_ever_ends(open_session: Any, use: Any, expected: tuple[str, str, bool]) -> None:
    session = await open_session(worlds.Trouble, {"kind": "hang"})
    await session.seed()
    with pytest.raises(RolloutError) as caught:
        await use(session)
    assert failure(caught.value) == expected
    await session.close()


async def ask_judge(open_session: Any, replies: Sequence[Reply]) -> tuple[Any, ScriptedModel]:
    judge = ScriptedModel(replies)
    session = await open_session(worlds.Judged, models={"judge": judge})
    session.deadline = Deadline(600)
    await session.seed()
    return session, judge


async def test_judges_answer_and_are_counted(open_session: Any) -> None:
    session, judge = await ask_judge(open_session, ["yes"])
    assert (await session.verify(rollout("4"))).reward == 1.0
    assert judge.requests[0] == {"temperature": 0.0, "input": [{"role": "user", "content": "Right? 4"}]}
    assert session.usage == {
        "judge": {"calls": 1, "input_tokens": 1, "output_tokens": 1, "cached_tokens": 0, "reasoning_tokens": 0}
    }
    session, _ = await ask_judge(open_session, ["no"])
    assert (await session.verify(rollout("5"))).reward == 0.0


async def test_judges_that_fail_give_no_verdict(open_session: Any) -> None:
    session, _ = await ask_judge(open_session, [ModelError("down", reason="EndpointUnreachable", retryable=True)])
    with pytest.raises(JudgeError, match="role judge: down") as caught:
        await session.verify(rollout())
    assert failure(caught.value) == ("judge", "EndpointUnreachable", True)


async def test_a_role_without_a_model(open_session: Any) -> None:
    session = await open_session(worlds.Judged)
    with pytest.raises(VerifierError, match="no model has the role 'judge'"):
        await session.verify(rollout())


@pytest.mark.looptime
async def test_a_judge_that_queues_moves_the_limits(open_session: Any) -> None:
    """Waiting for a busy judge is nobody's time: neither the hook's nor the rollout's limit may count it."""

    class Busy(ScriptedModel):
        def leave(self, rollout_id: str) -> None:
            pass

        async def respond(self, request: Any, context: Any) -> Any:
            for _ in range(5):
                context.deadline.excuse(100)
                await asyncio.sleep(100)
            return await super().respond(request, context)

    session = await open_session(
        worlds.Judged, models={"judge": Busy(["yes"])}, limits=SessionLimits(verify_seconds=150)
    )
    session.deadline = Deadline(200)
    await session.seed()
    async with session.deadline.timeout():
        assert (await session.verify(rollout())).reward == 1.0
    assert session.deadline.remaining() == pytest.approx(200, abs=1)
