"""What the library decides alone, and what is left to the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kubegym.testing import InvalidRows, Played, load_environment, play

pytestmark = pytest.mark.contract

MATH = load_environment(Path(__file__).resolve().parents[1]).cls
EQUAL, DIFFERENT = "[[A=B]]", "[[A!=B]]"
PARITY = {"parity": "nemo-gym"}


def judged(
    expected: str, reply: str, verdicts: list[str] | None = None, config: dict[str, Any] | None = None
) -> Played:
    row = {"question": "What is $3^2 + 1$?", "expected_answer": expected}
    return play(MATH, row, [reply], config, models={"judge": verdicts or []})


@pytest.mark.parametrize(
    ("expected", "reply"),
    [
        ("1/2", "It is \\boxed{0.5}."),
        ("$\\frac{1}{2}$", "\\boxed{\\frac12}"),
        ("x^2-2x+1", "\\boxed{(x-1)^2}"),
        ("(1,2)", "\\boxed{(1, 2)}"),
    ],
)
@pytest.mark.parametrize("config", [None, PARITY])
def test_what_the_library_finds_equal_asks_no_judge(expected: str, reply: str, config: dict[str, Any] | None) -> None:
    played = judged(expected, reply, config=config)
    assert played.reward == 1.0
    assert played.fields["library_reward"] == 1.0
    assert played.fields["judge_evaluations"] is None


@pytest.mark.parametrize(("verdicts", "reward"), [([EQUAL, EQUAL], 1.0), ([EQUAL, DIFFERENT], 0.0), ([DIFFERENT], 0.0)])
@pytest.mark.parametrize("config", [None, PARITY])
def test_the_judge_has_the_last_word_in_both_orders(
    verdicts: list[str], reward: float, config: dict[str, Any] | None
) -> None:
    played = judged("Monday", "\\boxed{the first day of the week}", verdicts, config)
    assert (played.reward, played.fields["library_reward"]) == (reward, 0.0)
    assert len(played.fields["judge_evaluations"]) == len(verdicts)


def test_the_last_box_counts() -> None:
    assert judged("10", "\\boxed{7}, no: \\boxed{10}").reward == 1.0
    assert judged("10", "\\boxed{10}, no: \\boxed{7}", [DIFFERENT]).reward == 0.0


def test_without_a_judge_the_library_decides() -> None:
    assert judged("10", "\\boxed{11}", config={"should_use_judge": False}).reward == 0.0


def test_an_unreadable_verdict_is_no_reward_but_for_nemo_gym() -> None:
    played = judged("10", "\\boxed{11}", ["Well."])
    assert played.failure is not None
    assert (played.outcome, played.failure.stage, played.failure.reason) == ("failed", "judge", "VerdictUnparseable")
    assert judged("10", "\\boxed{11}", ["Well."], PARITY).reward == 0.0


@pytest.mark.parametrize("reply", ["It is 10.", "", "\\boxed{}", "\\boxed{" + "1" * 401 + "}"])
def test_only_a_short_box_is_an_answer_but_for_nemo_gym(reply: str) -> None:
    played = judged("10", reply)
    assert (played.reward, played.fields["judge_evaluations"]) == (0.0, None)
    assert judged("10", reply, [DIFFERENT], PARITY).reward == float(reply == "It is 10.")


@pytest.mark.parametrize(
    ("expected", "reply", "reward"),
    [
        ("10", "\\boxed{3^2 + 1}", 0.0),
        ("10", "\\boxed{3^2+1}", 0.0),
        ("10", "\\boxed{$3^2 + 1$}", 0.0),
        ("10", "\\boxed{9 + 1}", 1.0),
        ("3^2", "\\boxed{3^2}", 1.0),
        ("3", "\\boxed{3}", 1.0),
    ],
)
def test_the_question_is_no_answer(expected: str, reply: str, reward: float) -> None:
    assert judged(expected, reply, [DIFFERENT]).reward == reward
    assert judged(expected, reply, [DIFFERENT], PARITY).reward == 1.0


@pytest.mark.parametrize("config", [{}, PARITY])
def test_computing_for_ever_is_wrong_and_said(config: dict[str, Any]) -> None:
    played = judged("1", "\\boxed{9^{9^{9^9}}}", [DIFFERENT], {"library_verifier_timeout_seconds": 2.0, **config})
    assert (played.reward, played.fields["library_stopped"]) == (0.0, True)


def test_a_row_without_an_answer_is_refused() -> None:
    with pytest.raises(InvalidRows, match="expected_answer is empty"):
        judged(" ", "1")
