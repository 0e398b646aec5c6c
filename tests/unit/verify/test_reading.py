"""Reading and comparing: texts, numbers, sets, schemas, states."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym.core.errors import InvalidSpec
from kubegym.verify import numbers, schema, sets, state, text

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("given", "expected", "form", "same"),
    [
        (" Lima ", "Lima", str.strip, True),
        ("lima", "Lima", str.strip, False),
        ('"LIMA."', "lima", text.normalised, True),
        ("ﬁne  print", "Fine print", text.normalised, True),
        ("Rome", ["Lima", "Rome"], text.normalised, True),
        ("Rome", [], text.normalised, False),
    ],
)
def test_exact_texts(given: str, expected: Any, form: Any, same: bool) -> None:
    assert text.exact(given, expected, form=form) is same


@pytest.mark.parametrize(
    ("pattern", "given", "found"),
    [
        (r"a(\d)", "a1 a2", "2"),
        (r"a(\d)?(b)?", "a1 ab", "b"),
        (r"a\d", "a1 a2", "a2"),
        (r"^Answer: (.+?)$", "Answer: x\nAnswer: y\n", "y"),
        (r"z", "a", None),
        (r"(x?)y", "y", "y"),
    ],
)
def test_the_last_match_counts(pattern: str, given: str, found: str | None) -> None:
    assert text.last_match(pattern, given) == found


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("\\boxed{1} then \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{1} then \\boxed{2", None),
        ("none", None),
        ("\\boxed{}", ""),
    ],
)
def test_the_last_box(given: str, found: str | None) -> None:
    assert text.boxed(given) == found


@pytest.mark.parametrize(
    ("given", "plain"),
    [("$1$", "1"), ("\\(1\\)", "1"), ("\\($1$\\)", "1"), ("$", "$"), ("$$", ""), ("a$b", "a$b"), (" x ", "x")],
)
def test_delimiters(given: str, plain: str) -> None:
    assert text.undelimited(given) == plain


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("```\na\n```", "a"),
        ("```\na\n```\n```python\nb\nc\n```", "b\nc"),
        ("```\na", None),
        ("```\n```", ""),
        ("text", None),
    ],
)
def test_the_last_code_block(given: str, found: str | None) -> None:
    assert text.fenced(given) == found


@pytest.mark.parametrize(
    ("given", "kind", "found"),
    [
        ('say {"a": {"b": 1}} then {"c": 2}', "object", {"a": {"b": 1}}),
        ("{no} {'no'} {\"a\": 1}", "object", {"a": 1}),
        ("[1, [2]] rest", "array", [1, [2]]),
        ("{" * 5000, "object", None),
        ('{"a":' * 100_000, "object", None),
        ("nothing", "object", None),
    ],
)
def test_the_first_json(given: str, kind: str, found: Any) -> None:
    assert text.first_json(given, kind) == found


OUTPUT = [
    {"type": "reasoning", "summary": []},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "one"}]},
    {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"},
    {"type": "function_call_output", "call_id": "c", "output": "two"},
    {"role": "assistant", "content": "three "},
    {"role": "user", "content": "four"},
    {"type": "message", "role": "assistant", "content": [{"text": "five"}, {"text": " six"}]},
]


def test_turns_are_what_the_policy_said_between_others() -> None:
    assert [len(turn) for turn in text.turns(OUTPUT)] == [3, 1, 1]
    assert list(text.turns([])) == []


def test_texts_of_a_conversation() -> None:
    assert text.output_text(OUTPUT) == "onethree five six"
    assert text.last_text(OUTPUT) == "five\n six"
    assert text.last_text(OUTPUT, "user") == "four"
    assert text.last_text([], "user") == ""


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("1,234.5", 1234.5),
        ("3/4", 0.75),
        ("12 %", 0.12),
        ("-2e-3", -0.002),
        ("\u22127", -7),
        ("$5", 5),
        (".5", 0.5),
        ("5.", 5),
        ("\\text{7}", 7),
        ("1/0", None),
        ("12,34", None),
        ("seven", None),
        ("", None),
        ("1e999", None),
        ("7 apples", None),
        ("nan", None),
    ],
)
def test_numbers_are_read(given: str, value: float | None) -> None:
    assert numbers.number(given) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_is_read_as_it_is_written(value: float) -> None:
    assert numbers.number(repr(value)) == value


@pytest.mark.parametrize(
    ("given", "value"),
    [("3 and 4.5.", 4.5), ("-1,000 left", -1000), ("v1.2", None), ("none", None), ("x = -3", -3), ("2024-05", 5)],
)
def test_the_last_number(given: str, value: float | None) -> None:
    found = numbers.last_number(given)
    assert found == value


def test_tolerance_is_a_share_or_a_size() -> None:
    assert numbers.close(1.0000005, 1.0)
    assert not numbers.close(1.00001, 1.0)
    assert not numbers.close(1e-9, 2e-9)
    assert numbers.close(0.0, 2e-9, absolute=1e-6)
    assert numbers.close(105, 100, relative=0.05)
    assert not numbers.close(None, 1.0)
    assert not numbers.close(float("nan"), 1.0, absolute=1e9)


def test_members_of_a_set() -> None:
    assert sets.members('["a", 1]') == ["a", "1"]
    assert sets.members("- a\n* b\n3. c; d, e") == ["a", "b", "c", "d", "e"]
    assert sets.members(" ") == []


def test_listing_much_does_not_pay() -> None:
    right = ["a", "b"]
    assert sets.overlap(["B", " a"], right).equal
    much = sets.overlap("abcdefgh", right)
    assert (much.recall, much.precision, much.jaccard) == (1.0, 0.25, 0.25)
    assert sets.overlap([], right).f1 == sets.overlap(["x"], []).f1 == 0.0
    assert sets.overlap([], []).f1 == 1.0


@given(st.sets(st.sampled_from("abcdef")), st.sets(st.sampled_from("abcdef")))
def test_overlap_is_one_for_equal_sets_alone(ours: set[str], right: set[str]) -> None:
    found = sets.overlap(ours, right)
    assert found.equal == (ours == right) == (found.f1 == 1.0)
    assert 0.0 <= found.jaccard <= found.f1 <= 1.0


def test_what_does_not_fit_a_schema_is_named() -> None:
    wanted = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "n": {"type": "integer"}, "day": {"format": "date"}},
    }
    assert schema.problems({"name": "x", "n": 1, "day": "2026-01-31"}, wanted) == []
    first, second = schema.problems({"n": "1", "day": "yesterday", "name": "x"}, wanted)
    assert first.startswith("$.day: ")
    assert second.startswith("$.n: ")
    assert len(schema.problems(["x"] * 50, {"items": {"type": "integer"}})) == 20
    with pytest.raises(InvalidSpec, match="no JSON schema"):
        schema.problems(1, {"type": "integr"})


TABLES: dict[str, list[dict[str, Any]]] = {"mails": [{"id": 1, "subject": "Hello", "list_name": "Inbox"}], "none": []}


@pytest.mark.parametrize(
    ("changed", "options", "found"),
    [
        ({}, {}, []),
        ({"mails": [{"list_name": "Inbox", "subject": "HELLO", "id": 1}]}, {}, []),
        (
            {"mails": [{"id": 1, "subject": "Hello", "list_name": "inbox"}]},
            {"case_sensitive": {"list_name"}},
            ["mails[0].list_name: 'inbox' instead of 'Inbox'"],
        ),
        ({"mails": []}, {}, ["mails: 0 rows instead of 1"]),
        ({"mails": [{"id": 1, "subject": "Hello"}]}, {}, ["mails[0].list_name: None instead of 'inbox'"]),
        ({"more": []}, {}, ["more: unexpected table"]),
    ],
)
def test_states_differ_by_table_row_and_column(
    changed: dict[str, Any], options: dict[str, Any], found: list[str]
) -> None:
    assert state.differences({**TABLES, **changed}, TABLES, **options) == found


def test_a_missing_table_and_the_order_of_rows() -> None:
    assert state.differences({}, {"t": []}) == ["t: no such table"]
    one, two = {"t": [{"a": 1}, {"a": 2}]}, {"t": [{"a": 2}, {"a": 1}]}
    assert state.differences(one, two) == ["t[0].a: 1 instead of 2", "t[1].a: 2 instead of 1"]
    assert state.differences(one, two, ordered=False) == []
