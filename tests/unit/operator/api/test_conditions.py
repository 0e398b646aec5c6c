from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym_operator.api.conditions import MAX_MESSAGE, Condition, find, is_true, merge

pytestmark = pytest.mark.unit

T0, T1 = "2026-11-28T09:00:00Z", "2026-11-28T09:05:00Z"
TYPES = ("Ready", "Serving", "Stalled")

one_each = st.lists(st.sampled_from(TYPES), unique=True).flatmap(
    lambda types: st.tuples(
        *(
            st.builds(
                Condition,
                st.just(name),
                st.sampled_from(["True", "False", "Unknown"]),
                st.sampled_from(["Available", "Idle"]),
                st.text(max_size=20),
            )
            for name in types
        )
    )
)


def test_merge_writes_the_shape_of_metav1_condition_in_the_given_order() -> None:
    merged = merge(
        [], [Condition("Serving", "True", "Available"), Condition("Ready", "False", "Idle", "m")], generation=3, now=T0
    )

    common = {"lastTransitionTime": T0, "observedGeneration": 3}
    assert merged == [
        {"type": "Serving", "status": "True", "reason": "Available", "message": "", **common},
        {"type": "Ready", "status": "False", "reason": "Idle", "message": "m", **common},
    ]


def test_only_a_change_of_status_is_a_transition() -> None:
    old = merge([], [Condition("Ready", "True", "Available")], generation=1, now=T0)

    same = merge(old, [Condition("Ready", "True", "Idle", "no job needs it")], generation=2, now=T1)
    other = merge(old, [Condition("Ready", "False", "Idle")], generation=2, now=T1)

    assert [(c["lastTransitionTime"], c["reason"], c["observedGeneration"]) for c in same] == [(T0, "Idle", 2)]
    assert [c["lastTransitionTime"] for c in other] == [T1]


@given(one_each)
def test_a_steady_state_merges_to_itself(conditions: tuple[Condition, ...]) -> None:
    stored = merge([], conditions, generation=1, now=T0)

    assert merge(stored, conditions, generation=1, now=T1) == stored


@given(one_each, one_each)
def test_merge_keeps_what_is_new_and_nothing_else(old: tuple[Condition, ...], new: tuple[Condition, ...]) -> None:
    merged = merge(merge([], old, generation=1, now=T0), new, generation=2, now=T1)

    assert [condition["type"] for condition in merged] == [condition.type for condition in new]


def test_a_stored_condition_without_a_time_gets_one() -> None:
    (merged,) = merge([{"type": "Ready", "status": "True"}], [Condition("Ready", "True", "Idle")], generation=1, now=T0)

    assert merged["lastTransitionTime"] == T0


def test_a_message_that_the_api_server_would_refuse_is_cut() -> None:
    (merged,) = merge([], [Condition("Stalled", "True", "CrashLoopBackOff", "x" * 9999)], generation=1, now=T0)

    assert len(merged["message"]) == MAX_MESSAGE
    assert merged["message"].endswith("...")


def test_find_and_is_true() -> None:
    stored = merge([], [Condition("Ready", "True", "Idle"), Condition("Stalled", "Unknown", "x")], generation=1, now=T0)

    assert find(stored, "Stalled") == stored[1]
    assert find(stored, "Serving") is None
    assert [is_true(stored, name) for name in ("Ready", "Stalled", "Serving")] == [True, False, False]
