"""Which rollouts a policy has left behind."""

from __future__ import annotations

from typing import Any

import pytest

from kubegym.core.protocols import Assignment, Attempt, EnvironmentInfo
from kubegym.core.rows import build_row
from kubegym.core.tokens import turn_of
from kubegym.rollout.lag import PolicyLag

pytestmark = pytest.mark.unit


def turns(*versions: int | None) -> list[dict[str, Any]]:
    return [{"policy_version": version, "reward": None} for version in versions]


@pytest.mark.parametrize(
    ("most", "versions", "stale"),
    [
        (None, (1, 9), False),
        (0, (7, 7), False),
        (0, (7, 8), True),
        (2, (5, 7), False),
        (2, (5, 6, 8), True),
        (2, (None, 5, None, 8), True),
        (0, (None, None), False),
        (0, (), False),
    ],
)
def test_a_rollout_may_span_so_many_versions(most: int | None, versions: tuple[int | None, ...], stale: bool) -> None:
    assert PolicyLag(most).stale("math", turns(*versions)) is stale


def test_a_turn_of_several_versions_counts_with_its_oldest_and_its_newest() -> None:
    spanning = turn_of(5, [(5, 0), (7, 12)])
    assert PolicyLag(1).stale("math", [spanning])
    assert not PolicyLag(2).stale("math", [spanning])
    lag = PolicyLag(1)
    assert not lag.stale("math", [turn_of(7, [(7, 0), (8, 1)])])
    assert lag.stale("math", turns(6)), "another was made by 8 already"


def test_what_others_heard_counts_too_and_is_of_their_entry() -> None:
    lag = PolicyLag(1)
    assert not lag.stale("math", turns(5))
    assert not lag.stale("math", turns(7))
    assert lag.stale("math", turns(5)), "the policy is at 7 when this one ends"
    assert not lag.stale("code", turns(5))


@pytest.mark.parametrize(("outcome", "stale"), [("scored", True), ("unscored", True), ("failed", False)])
def test_a_row_says_so_and_masks_itself(outcome: Any, stale: bool) -> None:
    attempt = Attempt(outcome, reward=1.0 if outcome == "scored" else None, left_behind=True)
    info = EnvironmentInfo("e", "1", "e", "1", "e_simple_agent", "m")
    row = build_row(Assignment("e", {}, "t", 0, 0, "00000000-0-0"), attempt, info, "0" * 32)
    assert row["kubegym"]["stale"] is stale
    assert row.get("mask_sample", False) is stale
    assert list(row)[-1] == "kubegym"
