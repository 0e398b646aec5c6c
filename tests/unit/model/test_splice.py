"""Where known ids end in a rendering of the same conversation."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym.model.splice import joint, same_text

END = 0
TURN = st.lists(st.integers(1, 4), max_size=4)


def conversation(turns: list[list[int]]) -> array[int]:
    return array("i", [one for turn in turns for one in [*turn, END]])


@given(same=st.lists(TURN, max_size=4), known=TURN, rendered=TURN, added=st.lists(TURN, max_size=2))
def test_the_joint_is_behind_the_last_known_turn(
    same: list[list[int]], known: list[int], rendered: list[int], added: list[list[int]]
) -> None:
    before = conversation(same)
    ours = before + conversation([known])
    theirs = before + conversation([rendered]) + conversation(added)
    at = joint(theirs, ours)
    assert at is not None
    assert theirs[at.end :] == conversation(added)
    assert at.same <= at.end
    assert ours[: at.same] == theirs[: at.same]
    assert at.same >= len(before)
    assert at.same == 0 or ours[at.same - 1] == END


def test_a_rendering_with_fewer_turns_has_none() -> None:
    assert joint(array("i", [5, END, 6]), array("i", [5, END, 5, END])) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('<tool_call>\n{"a":1}\n</tool_call>', '<tool_call>{"a": 1}</tool_call>', True),
        ("a b", "ab", True),
        ("", "\n", True),
        ("<think>so</think>4", "4", False),
        ('{"a": 1.0}', '{"a": 1}', False),
    ],
)
def test_texts_are_the_same_but_for_white_space(one: str, other: str, same: bool) -> None:
    assert same_text(one, other) is same
