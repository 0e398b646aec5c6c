"""Rewards of parts, of turns, and of groups."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym.verify import headline, rewards
from kubegym.verify.choice import read_answer

pytestmark = pytest.mark.unit

SCORES = {"right": 1.0, "short": 0.5, "polite": 1.0}


def test_named_rewards_are_weighted_and_reported() -> None:
    verdict = rewards.weighted(SCORES, {"right": 1.0, "short": 0.2}, fields={"answer": "x"}, metrics={"calls": 2})
    assert verdict.reward == pytest.approx(1.1)
    assert verdict.components == SCORES
    assert (verdict.fields, verdict.metrics) == ({"answer": "x"}, {"calls": 2.0})


def test_good_form_pays_nothing_for_a_wrong_answer() -> None:
    wrong = {**SCORES, "right": 0.0}
    assert rewards.weighted(wrong, {"right": 1.0, "polite": 0.2}).reward == 0.2
    assert rewards.weighted(wrong, {"right": 1.0, "polite": 0.2}, gate="right").reward == 0.0
    with pytest.raises(ValueError, match=r"no score is called kind \(scores: polite, right, short\)"):
        rewards.weighted(SCORES, {"kind": 1.0})
    with pytest.raises(ValueError, match="no score is called done"):
        rewards.weighted(SCORES, {}, gate="done")


@pytest.mark.parametrize(
    ("value", "worst", "best", "reward"),
    [(3072, 4096, 3072, 1.0), (3584, 4096, 3072, 0.5), (9000, 4096, 3072, 0.0), (0.25, 0.0, 1.0, 0.25)],
)
def test_a_ramp_falls_or_rises(value: float, worst: float, best: float, reward: float) -> None:
    assert rewards.ramp(value, worst, best) == reward


def test_each_turn_has_its_reward() -> None:
    call = {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"}
    output = [
        call,
        {"type": "function_call_output", "call_id": "c", "output": "1"},
        {"role": "assistant", "content": "x"},
    ]
    assert rewards.per_turn(output, lambda turn: float(turn[0] is call)) == [1.0, 0.0]
    assert rewards.discounted([0.0, 0.0, 1.0], 0.5) == [0.25, 0.5, 1.0]
    assert rewards.discounted([], 0.5) == []


numbers = st.lists(st.integers(-100, 100).map(float), min_size=1, max_size=8)


@given(numbers)
def test_centred_rewards_sum_to_nothing_and_keep_their_order(given: list[float]) -> None:
    for scaled in (False, True):
        centred = rewards.centred(given, scaled=scaled)
        assert sum(centred) == pytest.approx(0.0, abs=1e-9)
        assert sorted(range(len(given)), key=given.__getitem__) == sorted(range(len(given)), key=centred.__getitem__)


@given(numbers)
def test_ranks_lie_between_and_average_a_half(given: list[float]) -> None:
    ranks = rewards.ranked(given)
    assert all(0.0 <= rank <= 1.0 for rank in ranks)
    assert sum(ranks) / len(ranks) == pytest.approx(0.5)


def test_ranks_and_win_rates() -> None:
    assert rewards.ranked([3.0, 1.0, 1.0]) == [1.0, 0.25, 0.25]
    assert rewards.centred([]) == []
    assert rewards.win_rates({(0, 1): 1.0, (1, 2): 0.5}, 4) == [1.0, 0.25, 0.5, 0.5]


def test_headlines_are_those_at_the_highest_k() -> None:
    metrics = {
        "mean/reward": 0.5,
        "mean/calls": 2,
        "pass@1/accuracy": 50,
        "pass@2/no_answer": 1,
        "pass@4/no_answer": 2,
        "majority@4/accuracy": 60,
        "other": 1,
    }
    assert headline.headline(metrics, ("mean/calls",)) == {
        "mean/reward": 0.5,
        "pass@1/accuracy": 50,
        "mean/calls": 2,
        "pass@4/no_answer": 2,
        "majority@4/accuracy": 60,
    }


def test_a_choice_is_read() -> None:
    assert read_answer("\\boxed{B}", {"A": "x", "B": "y"}, "strict_single_letter_boxed") == "B"
