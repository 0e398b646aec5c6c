"""Agents that do not do the task, against verifiers that let them and verifiers that do not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from kubegym import Done, Environment, Message, Rollout, Row, Turn, Verdict, tool
from kubegym.local.adversarial import Arena, Outcome, complaints, draw, mean_interval
from kubegym.resources import EnvironmentRuntime


class Lenient(Environment):
    """Finds the answer anywhere in what was said."""

    class Task(Row):
        expected: str
        options: tuple[str, ...] = ()

    def verify(self, rollout: Rollout) -> Verdict:
        return Verdict(float(self.task.expected in rollout.all_text))

    @classmethod
    def oracle(cls, task: Any) -> str:
        return str(task.expected)

    @classmethod
    def cheats(cls, task: Any) -> dict[str, str]:
        return {"all options": " ".join(task.options)}


class Strict(Lenient):
    """The answer and nothing else."""

    def verify(self, rollout: Rollout) -> Verdict:
        return Verdict(float(self.task.expected == rollout.final_text))


class Judged(Lenient):
    """Believes the last verdict in what its judge said."""

    def verify(self, rollout: Rollout) -> Any:
        return self.ask(rollout.final_text)

    async def ask(self, answer: str) -> Verdict:
        said = (await self.models.judge(f"<answer>{answer}</answer>")).text
        return Verdict(float(self.verdict(said) == "[[A=B]]"))

    def verdict(self, said: str) -> str:
        return said.split()[-1]

    @classmethod
    def stand_in(cls, role: str, task: Any, messages: Sequence[dict[str, Any]]) -> str:
        answer = messages[-1]["content"].removeprefix("<answer>").removesuffix("</answer>")
        return f"It said: {answer}\n{'[[A=B]]' if answer == task.expected else '[[A!=B]]'}"


class Quoting(Judged):
    """Believes any verdict in what its judge said, also one that it quotes."""

    def verdict(self, said: str) -> str:
        return "[[A=B]]" if "[[A=B]]" in said else "[[A!=B]]"


class Broken(Strict):
    """Its verifier fails on an empty text."""

    def verify(self, rollout: Rollout) -> Verdict:
        return Verdict(float(rollout.final_text[0] == self.task.expected[0]))


class Relative(Strict):
    """Scores groups."""

    @classmethod
    def verify_group(cls, rollouts: Sequence[Rollout]) -> list[Verdict]:
        return [Verdict(float(one.final_text == one.row["expected"])) for one in rollouts]


class Asking(Strict):
    """Asks back until it is answered."""

    def respond(self, turn: Turn) -> Message | Done:
        return Done() if turn.text == self.task.expected else Message.user("No. Again?")


ROWS = [
    {
        "responses_create_params": {"input": f"Which of yes{n} and no{n} is it?"},
        "expected": f"yes{n}",
        "options": [f"yes{n}", f"no{n}"],
    }
    for n in range(100, 120)
]


async def table(cls: type[Environment], rows: list[dict[str, Any]] = ROWS, **more: Any) -> dict[str, Outcome]:
    runtime = EnvironmentRuntime(cls)
    await runtime.start()
    try:
        outcomes = await Arena(runtime, rows, **more).play()
    finally:
        await runtime.close()
    return {one.agent: one for one in outcomes}


async def test_a_lenient_verifier_pays_echo_and_the_authors_own_trick() -> None:
    outcomes = await table(Lenient)
    means = {name: one.mean for name, one in outcomes.items()}
    assert (means["oracle"], means["echo"], means["all options"], means["no-op"]) == (1.0, 1.0, 1.0, 0.0)
    found = complaints(list(outcomes.values()), 0.0)
    assert any(one.startswith("echo: earns 1.000") and one.endswith("above the chance level 0") for one in found)
    assert any(one.startswith("all options: earns 1.000 (at least 0.8") for one in found)


async def test_a_strict_one_pays_nobody_else_and_the_table_is_the_same_again() -> None:
    outcomes = await table(Strict)
    assert complaints(list(outcomes.values()), 0.05) == []  # the question names the answer, and words are drawn from it
    assert len(outcomes["shuffled"].rewards) == len(outcomes["random"].rewards) == 200
    assert outcomes == await table(Strict)


async def test_a_constant_is_what_is_right_for_most_other_tasks() -> None:
    rows = [{**ROWS[0], "expected": answer} for answer in ["B", "A", "A", "A", "C"]]
    outcome = (await table(Strict, rows))["constant"]
    assert outcome.rewards == (0.0, 1.0, 1.0, 1.0, 0.0)
    assert (await table(Strict, ROWS[:3]))["constant"].rewards == (0.0, 0.0, 0.0)


async def test_a_judge_that_quotes_must_not_be_believed_where_it_quotes() -> None:
    fooled = await table(Quoting, roles=["judge"])
    assert fooled["injection"].mean == 1.0
    sound = await table(Judged, roles=["judge"])
    assert (sound["oracle"].mean, sound["injection"].mean) == (1.0, 0.0)


async def test_a_verifier_that_breaks_on_a_cheat_is_a_problem() -> None:
    outcomes = await table(Broken)
    assert outcomes["no-op"].failed == 20
    (problem,) = [one for one in complaints(list(outcomes.values()), 1.0) if "failed" in one]
    assert problem.startswith("no-op: 20 rollouts failed: verifier VerifierCrashed: verify")


async def test_groups_are_verified() -> None:
    assert complaints(list((await table(Relative)).values()), 0.05) == []


async def test_a_conversation_that_never_ends_is_cut() -> None:
    outcomes = await table(Asking, ROWS[:3], rollouts=3)
    assert outcomes["no-op"].rewards == (0.0, 0.0, 0.0)


async def test_an_oracle_that_is_wrong_is_a_problem() -> None:
    class Wrong(Strict):
        @classmethod
        def oracle(cls, task: Any) -> str:
            return "yes100"

    found = complaints(list((await table(Wrong)).values()), 0.2)
    assert "oracle: earns no 1.0 on 19 of 20 tasks" in found


async def test_drawn_calls_fit_the_tools() -> None:
    class Tools(Strict):
        seen: list[Any] = []  # noqa: RUF012  # shared by all sessions on purpose

        @tool
        def book(self, day: int, kind: str = "table", urgent: bool = False) -> str:
            self.seen.append((day, kind, urgent))
            return "booked"

    await table(Tools)
    assert len(Tools.seen) > 50
    assert all(type(day) is int and type(kind) is str for day, kind, _ in Tools.seen)


@pytest.mark.parametrize(
    ("rewards", "low", "high"),
    [
        ([0.0] * 200, 0.0, 0.0188),
        ([1.0] * 200, 0.9812, 1.0),
        ([1.0] * 50 + [0.0] * 150, 0.195, 0.314),  # Wilson's interval of 50 in 200, as tables have it
        ([-1.0, 1.0] * 50, -0.197, 0.197),
    ],
)
def test_intervals(rewards: list[float], low: float, high: float) -> None:
    assert mean_interval(rewards) == pytest.approx((low, high), abs=0.001)


def test_nothing_has_no_interval() -> None:
    assert mean_interval([]) is None
    assert Outcome("no-op", ()).mean is None


def test_what_is_drawn_fits_its_schema() -> None:
    rng = random.Random(1)
    schema = {
        "type": "object",
        "properties": {
            "n": {"type": "integer", "minimum": 3, "maximum": 4},
            "one": {"enum": ["x", "y"]},
            "many": {"type": "array", "items": {"type": "boolean"}},
            "maybe": {"anyOf": [{"type": "null"}, {"type": "number"}]},
        },
    }
    for _ in range(50):
        drawn = draw(schema, rng)
        assert drawn["n"] in (3, 4)
        assert drawn["one"] in ("x", "y")
        assert all(type(one) is bool for one in drawn["many"])
        assert drawn["maybe"] is None or 0 <= drawn["maybe"] <= 100
