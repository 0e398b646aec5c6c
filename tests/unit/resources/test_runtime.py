"""The runtime: configuration, rows, shared resources, groups, metrics; and ``play`` on top of it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from pydantic import Field

from kubegym import Done, Environment, Message, Model, Rollout, Row, ToolError, Turn, Verdict, tool
from kubegym.agent import AgentSettings
from kubegym.core.errors import AgentError, InvalidRows, InvalidSpec, VerifierError
from kubegym.core.protocols import Assignment
from kubegym.core.rows import encode_row
from kubegym.resources import EnvironmentRuntime, SessionLimits
from kubegym.testing import ScriptedModel, play, play_group


class Sums(Environment):
    """Adds two numbers."""

    version = "2.1.0"

    class Config(Model):
        max_digits: int = 3
        labels: dict[str, str] = Field(default_factory=dict)

    class Task(Row):
        a: int
        b: int

    @classmethod
    async def setup(cls, config: Sums.Config) -> list[str]:
        return ["open", str(config.max_digits)]

    @classmethod
    def teardown(cls, shared: list[str]) -> None:
        shared.append("closed")

    def __init__(self) -> None:
        self.used = [f"{self.task.a}+{self.task.b}"]

    def seed(self) -> list[Message]:
        return [Message.user(f"What is {self.task.a} + {self.task.b}?")]

    @tool
    def add(self, x: int, y: int) -> int:
        """Add two numbers."""
        if x > 99:
            raise ToolError("too big")
        self.used.append("add")
        return x + y

    def verify(self, rollout: Rollout) -> Verdict:
        right = str(self.task.a + self.task.b)
        return Verdict(
            float(rollout.final_text == right), fields={"used": self.used}, metrics={"calls": len(self.used)}
        )

    @classmethod
    def oracle(cls, task: Sums.Task) -> list[Any]:
        return [{"name": "add", "arguments": {"x": task.a, "y": task.b}}, str(task.a + task.b)]

    @classmethod
    def compute_metrics(cls, tasks: Any) -> dict[str, Any]:
        return {"tasks": len(tasks)}


class Hangs(Sums):
    """Its sync verify computes for ever."""

    def verify(self, rollout: Rollout) -> Verdict:
        while True:
            pass


class Relative(Environment):
    """Rewards relative to the group."""

    @classmethod
    def verify_group(cls, rollouts: Any) -> list[Verdict]:
        longest = max(len(rollout.final_text) for rollout in rollouts)
        return [Verdict(len(rollout.final_text) / longest) for rollout in rollouts]


class Guess(Environment):
    """Higher, lower, right."""

    class Task(Row):
        secret: int

    def respond(self, turn: Turn) -> Message | Done:
        if int(turn.text) == self.task.secret:
            return Done()
        return Message.user("higher" if int(turn.text) < self.task.secret else "lower")

    def verify(self, rollout: Rollout) -> Verdict:
        return Verdict(float(rollout.stop_reason == "environment_done"))


TASK = {"a": 2, "b": 3}


async def test_setup_and_teardown_share_once() -> None:
    runtime = EnvironmentRuntime(Sums, {"max_digits": 5})
    await runtime.start()
    row = {"responses_create_params": {"input": []}, **TASK}
    sessions = [runtime.session(Assignment("e", row, "t", 0, index, f"0-0-{index}")) for index in (0, 1)]
    shared = sessions[0].environment.shared
    assert shared == ["open", "5"]
    assert shared is sessions[1].environment.shared
    await runtime.close()
    await runtime.close()
    assert shared == ["open", "5", "closed"]


@pytest.mark.parametrize(
    ("cls", "config", "says"),
    [
        (Sums, {"max_digit": 1}, "config: max_digit: unknown field; did you mean max_digits?"),
        (Sums, {"zzz": 1}, "config: zzz: unknown field (fields: max_digits, labels)"),
        (Sums, {"max_digits": "many", "labels": 1}, "not 'many'; labels: Input should be a valid dictionary, not 1"),
        (Environment, {}, "Environment has neither verify nor verify_group"),
    ],
)
def test_what_cannot_be_made(cls: type[Environment], config: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        EnvironmentRuntime(cls, config, name="sums")
    assert says in caught.value.message
    assert caught.value.message.startswith("environment sums: ")


async def test_a_setup_that_fails_is_the_users_to_repair() -> None:
    class Broken(Sums):
        @classmethod
        async def setup(cls, config: Any) -> Any:
            raise LookupError("no data")

    runtime = EnvironmentRuntime(Broken)
    with pytest.raises(InvalidSpec, match=r"setup: LookupError: no data \(.*test_runtime.py:\d+ in setup\)"):
        await runtime.start()
    await runtime.close()


OWN_TOOL = {"type": "function", "name": "fly"}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (TASK, None),
        ({"a": 1, "b": 2, "more": [1]}, None),
        ({"a": 1}, "b: Field required"),
        ({"a": "x", "b": 2}, "a: Input should be a valid integer, unable to parse string as an integer, not 'x'"),
        (TASK | {"responses_create_params": {"tools": {}}}, None),
        (TASK | {"responses_create_params": {"tools": {"x": 1}}}, "responses_create_params.tools is not a list"),
        (
            TASK | {"responses_create_params": {"tools": [OWN_TOOL]}},
            "responses_create_params.tools[0]: the environment has no tool 'fly' (tools: add)",
        ),
    ],
)
def test_rows(row: dict[str, Any], problem: str | None) -> None:
    assert EnvironmentRuntime(Sums).validate_row(row) == problem


async def test_a_validator_that_crashes_is_a_bad_row() -> None:
    class Odd(Sums):
        class Task(Row):
            a: int

            def model_post_init(self, _context: Any) -> None:
                if self.a < 0:
                    raise ValueError("a must not be negative")
                raise LookupError("bug")

    runtime = EnvironmentRuntime(Odd)
    assert runtime.validate_row({"a": -1}) == "Value error, a must not be negative"
    problem = runtime.validate_row({"a": 1})
    assert problem is not None
    assert problem.startswith("Task: LookupError: bug (")
    session = runtime.session(Assignment("e", {"a": 1}, "t", 0, 0, "0-0-0"))
    with pytest.raises(AgentError, match="bug"):
        await session.seed()


def test_versions() -> None:
    runtime = EnvironmentRuntime(Sums)
    assert (runtime.version, runtime.verifier_version) == ("2.1.0", "2.1.0")
    assert (runtime.has_oracle, runtime.has_metrics, runtime.multi_turn, runtime.verifies_groups) == (
        True,
        True,
        False,
        False,
    )
    runtime = EnvironmentRuntime(Relative)
    assert (runtime.has_oracle, runtime.has_metrics, runtime.verifies_groups) == (False, False, True)


async def test_metrics() -> None:
    runtime = EnvironmentRuntime(Sums)
    assert await runtime.compute_metrics([[{}], [{}]]) == {"tasks": 2}
    assert await runtime.key_metrics({"mean/reward": 1.0, "max/reward": 1.0}) == {"mean/reward": 1.0}


@pytest.mark.parametrize("answer", [[Verdict(1.0)], None, [1.0, 2.0]])
async def test_groups_need_a_verdict_each(answer: Any) -> None:
    class Wrong(Environment):
        @classmethod
        async def verify_group(cls, rollouts: Any) -> Any:
            return answer

    runtime = EnvironmentRuntime(Wrong)
    await runtime.start()
    rollout = Rollout([], [], "completed", {})
    with pytest.raises(VerifierError):
        await runtime.verify_group([rollout, rollout])
    await runtime.close()


@pytest.mark.looptime
async def test_a_group_that_waits_for_ever_is_starved() -> None:
    class Waits(Environment):
        @classmethod
        async def verify_group(cls, rollouts: Any) -> Any:
            await asyncio.Event().wait()

    runtime = EnvironmentRuntime(Waits)
    await runtime.start()
    with pytest.raises(VerifierError) as caught:
        await runtime.verify_group([])
    assert (caught.value.reason, caught.value.retryable) == ("VerifierStarved", True)
    await runtime.close()


async def test_logs_carry_the_rollout(caplog: pytest.LogCaptureFixture) -> None:
    row = {"responses_create_params": {"input": []}, **TASK}
    environment = EnvironmentRuntime(Sums).session(Assignment("e", row, "t", 0, 0, "abc-0-0")).environment
    with caplog.at_level(logging.INFO):
        environment.logger.info("hello", extra={"more": 1})
    record = caplog.records[0]
    assert (record.name, vars(record)["rollout_id"], vars(record)["more"]) == (
        "kubegym.environments.Sums",
        "abc-0-0",
        1,
    )


async def test_environments_of_a_loop_share_its_sandbox() -> None:
    row = {"responses_create_params": {"input": []}, **TASK}
    first, second = (
        EnvironmentRuntime(Sums).session(Assignment("e", row, "t", 0, index, f"abc-0-{index}")).environment
        for index in range(2)
    )
    assert first.sandbox is second.sandbox
    await first.sandbox.close()


def test_play_a_script() -> None:
    played = play(Sums, TASK, [{"name": "add", "arguments": {"x": 100, "y": 1}}, "5"])
    assert (played.reward, played.outcome, played.stop_reason, played.failure) == (1.0, "scored", "completed", None)
    assert played.tool_outputs == ["too big"]
    assert played.items[0] == {"role": "user", "content": "What is 2 + 3?"}
    assert played.fields == {"used": ["2+3"], "calls": 1.0}
    assert (played.row["a"], played.row["reward"], played.row["calls"]) == (2, 1.0, 1.0)
    assert played.row["kubegym"]["environment"] == {"name": "Sums", "version": "2.1.0"}
    assert played.rollout is not None
    assert played.rollout.final_text == "5"
    assert [tool["name"] for tool in played.requests[0]["tools"]] == ["add"]


def test_play_one_text_and_the_oracle() -> None:
    assert play(Sums, TASK, "6").reward == 0.0
    played = play(Sums, TASK, "oracle")
    assert (played.reward, played.tool_outputs) == (1.0, ["5"])


async def test_play_inside_a_running_loop() -> None:
    assert play(Sums, TASK, "5").reward == 1.0


def test_play_several_turns() -> None:
    played = play(Guess, {"secret": 7}, ["5", Message.assistant("9"), "7"])
    assert (played.reward, played.stop_reason) == (1.0, "environment_done")
    assert [item["content"] for item in played.items if item.get("role") == "user"] == ["higher", "lower"]
    played = play(Guess, {"secret": 7}, ["seven"])
    assert played.reward is None
    assert played.failure is not None
    assert (played.failure.stage, played.failure.reason) == ("agent", "RespondCrashed")


def test_play_a_script_that_ends_too_early() -> None:
    played = play(Guess, {"secret": 7}, ["5"])
    assert played.failure is not None
    assert played.failure.reason == "ScriptExhausted"
    assert played.rollout is not None
    assert len(played.rollout.output) == 2


def test_play_keeps_rows_writable_whatever_is_said() -> None:
    class Odd(Guess):
        def respond(self, turn: Turn) -> Message | Done:
            return Message.user("lone \ud800")

        def verify(self, rollout: Rollout) -> Verdict:
            raise LookupError("x" * 10_000 + "\ud800")

    played = play(Odd, {"secret": 7}, ["5"] * 3, settings=AgentSettings(max_steps=2))
    assert played.failure is not None
    assert len(played.failure.message) == 4000
    assert b"lone ?" in encode_row(played.row)


def test_play_a_task_that_does_not_fit() -> None:
    with pytest.raises(InvalidRows, match="b: Field required"):
        play(Sums, {"a": 1}, "1")


def test_play_a_group() -> None:
    played = play_group(Relative, {}, ["long", "no", "longlong"])
    assert [one.reward for one in played] == [0.5, 0.25, 1.0]
    assert [one.row["reward"] for one in played] == [0.5, 0.25, 1.0]
    assert {one.row["kubegym"]["outcome"] for one in played} == {"scored"}


def test_play_a_verifier_that_hangs() -> None:
    played = play(Hangs, TASK, "5", limits=SessionLimits(sync_seconds=0.05))
    assert played.failure is not None
    assert played.failure.stage == "verifier"
    assert played.failure.reason in ("VerifierTimeout", "VerifierStarved")  # the second on a very busy machine


async def test_a_scripted_model_refuses_what_it_cannot_say() -> None:
    with pytest.raises(TypeError, match="a text, a Message or an item, not int"):
        await ScriptedModel([[3]]).respond({}, None)  # type: ignore[arg-type]
