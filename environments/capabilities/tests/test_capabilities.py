"""Every variant: what is right, what is not, and that difficulty makes tasks larger."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from kubegym.testing import Played, play

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).resolve().parents[1]
ROWS = [json.loads(line) for line in (FOLDER / "data/example.jsonl").read_text().splitlines()]
MADE = runpy.run_path(str(FOLDER / "data/generate.py"))
BOOK = {"name": "book", "arguments": {"day": "Monday", "time": "18:30", "people": 4}}
WANTED = {"day": "monday", "time": "18:30", "people": 4}


def said(variant: str, payload: dict[str, Any], *replies: Any) -> Played:
    return play(FOLDER, {"variant": variant, "difficulty": 1, "payload": payload}, list(replies))


def asking(hidden: list[str], *replies: Any) -> Played:
    return said("proactive-asking", {"wanted": WANTED, "hidden": hidden, "patience": 2}, *replies)


def answers(played: Played) -> list[str]:
    return [item["content"] for item in played.items if item.get("role") == "user"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['variant']}-{row['difficulty']}")
def test_the_oracle_earns_every_example(row: dict[str, Any]) -> None:
    assert play(FOLDER, row, "oracle").reward == 1.0


def test_the_examples_are_what_the_script_writes() -> None:
    assert (FOLDER / "data/example.jsonl").read_text() == MADE["content"]()
    assert {row["variant"] for row in ROWS} == set(MADE["VARIANTS"])


@pytest.mark.parametrize("variant", MADE["VARIANTS"])
@pytest.mark.parametrize("difficulty", [1, 5])
def test_every_difficulty_can_be_solved(variant: str, difficulty: int) -> None:
    for row in MADE["rows"](20, 3, difficulty, variant):
        assert play(FOLDER, row, "oracle").reward == 1.0, row


@pytest.mark.parametrize("variant", MADE["VARIANTS"])
def test_a_higher_difficulty_asks_for_more(variant: str) -> None:
    easy, hard = (list(MADE["rows"](20, 3, difficulty, variant)) for difficulty in (1, 5))

    def size(rows: list[dict[str, Any]]) -> int:
        shown = (row["payload"].get("hidden", json.dumps(row)) for row in rows)
        return sum(map(len, shown))

    assert size(hard) > size(easy)


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("Answer: 42", 1.0),
        ("It is simple.\nanswer:  42.  ", 1.0),
        ("Answer: 42\nAnswer: 43", 0.0),
        ("Answer: 41, 42", 0.0),
        ("42", 0.0),
        ("Answer:\n42", 0.0),
        ("", 0.0),
    ],
)
def test_answers_are_one_line(text: str, reward: float) -> None:
    payload = {"answer": 42, "decoys": [41]}
    for variant in (
        "information-relevance",
        "counterintuitive-instruction-following",
        "metadata-instruction-following",
    ):
        assert said(variant, payload, text).reward == reward


def test_entries_are_read_by_key() -> None:
    payload = {"entries": {"a": "See entry b."}, "chain": ["a"], "answer": "K-1"}
    calls = [{"name": "look_up", "arguments": {"key": key}} for key in ("a", "c")]
    played = said("information-dependency", payload, *calls, "Answer: K-1")
    assert played.tool_outputs == ["See entry b.", "there is no entry 'c'"]
    assert played.reward == 1.0


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ('{"a": 1, "b": ["x"]}', 1.0),
        ('```json\n{"b": ["x"], "a": 1}\n```', 1.0),
        ('{"a": 1.0, "b": ["x"]}', 0.0),
        ('{"a": true, "b": ["x"]}', 0.0),
        ('{"a": 1, "b": ["x"], "c": 2}', 0.0),
        ('Sure: {"a": 1, "b": ["x"]}', 0.0),
        ('{"a": 1, "b": ["x", "x"]}', 0.0),
    ],
)
def test_json_is_the_whole_message(text: str, reward: float) -> None:
    assert said("schema-adherence", {"answer": {"a": 1, "b": ["x"]}}, text).reward == reward


def test_only_what_is_asked_for_is_told() -> None:
    played = asking(["time", "people"], "At what time?", "And for how many people?", BOOK, "Done.")
    assert answers(played) == ["time: 18:30", "people: 4"]
    assert (played.reward, played.fields["questions"]) == (1.0, 2)


def test_questions_about_what_was_said_cost_the_reward() -> None:
    played = asking(["time"], "Which day, and at what time?", BOOK, "Done.")
    assert answers(played) == ["time: 18:30"]
    assert played.reward == 0.0
    assert answers(asking([], "Which day?", BOOK, "Done.")) == ["I told you that already."]


def test_words_without_a_question_tell_nothing() -> None:
    assert answers(asking(["time"], "I need to know the time.", BOOK, "Done.")) == ["Please book it."]


def test_patience_ends() -> None:
    played = asking(["time"], "What time?", "Really, what time?", "What time again?", BOOK)
    assert len(played.requests) == 3
    assert (played.reward, played.stop_reason) == (0.0, "environment_done")


def test_a_booking_is_final() -> None:
    wrong = {"name": "book", "arguments": {**BOOK["arguments"], "people": 2}}
    played = asking([], wrong, BOOK, "Done.")
    assert played.tool_outputs == ["booked", "a table is booked already"]
    assert played.reward == 0.0
    assert asking(["time"], BOOK, "Done.").reward == 1.0  # a lucky guess is a guess; cheats show how rare


def test_the_list_counts_as_it_is_left() -> None:
    payload = {"start": {"figs": 2, "milk": 1}, "answer": {"figs": 4, "jam": 1}}
    calls = [
        {"name": "set_item", "arguments": {"name": n, "count": c}} for n, c in (("Milk", 0), ("figs", 4), ("jam", 1))
    ]
    assert said("multiple-intent-synthesis", payload, *calls, "Done.").reward == 1.0
    assert said("multiple-intent-synthesis", payload, *calls[:2], "Done.").reward == 0.0


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"variant": "telepathy", "payload": {}}, "variant 'telepathy' is none of"),
        ({"variant": "schema-adherence", "payload": {}}, "lacks answer"),
    ],
)
def test_rows_that_lack_something_are_refused(row: dict[str, Any], says: str) -> None:
    with pytest.raises(Exception, match=says):
        play(FOLDER, {"difficulty": 1, **row}, ["x"])
