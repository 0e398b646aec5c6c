"""The four kinds of tasks, and how answers are read."""

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
GUESS = {"kind": "guess", "secret": 20}


def direct(text: str, expected: int = 25) -> Played:
    return play(FOLDER, {"kind": "direct", "expected_answer": expected}, [text])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['kind']}-{row.get('expression', row.get('secret'))}")
def test_the_oracle_earns_every_example(row: dict[str, Any]) -> None:
    assert play(FOLDER, row, "oracle").reward == 1.0


def test_the_examples_are_what_the_script_writes() -> None:
    script = runpy.run_path(str(FOLDER / "data/generate.py"))
    assert (FOLDER / "data/example.jsonl").read_text() == script["content"]()
    kinds = [row["kind"] for row in ROWS]
    assert {kind: kinds.count(kind) for kind in kinds} == {"direct": 6, "tool": 6, "chain": 6, "guess": 6}
    assert all(script["held_out"](row["expression"]) for row in ROWS if row["kind"] != "guess")
    assert all(script["value"](row["expression"]) == row["expected_answer"] for row in ROWS if row["kind"] != "guess")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["kind"])
def test_only_tool_and_chain_rows_offer_tools(row: dict[str, Any]) -> None:
    request = play(FOLDER, row, ["0", "0", "0", "0", "0", "0"]).requests[0]
    offered = [tool["name"] for tool in request.get("tools") or []]
    assert offered == (["add", "subtract", "multiply"] if row["kind"] in ("tool", "chain") else [])
    assert request["max_output_tokens"] == 64


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("25", 25),
        ("7+18=25", 25),
        ("It is 25.", 25),
        ("**25**", 25),
        ("-25", -25),
        ("\u221225", -25),
        ("10-3", 3),
        ("18 - 7", 7),
        ("= -11", -11),
        ("1,234", 1234),
        ("first 1,2", 2),
        ("25.5", None),
        ("25.0", None),
        ("from 24.5 to 25", 25),
        ("twenty-five", None),
        ("", None),
        ("9" * 5000, None),
    ],
)
def test_the_last_number_of_the_text_is_the_answer(text: str, answer: int | None) -> None:
    played = direct(text)
    assert played.fields == {"answer": answer}
    assert played.reward == float(answer == 25)
    assert played.stop_reason in ("completed", "environment_done")


def test_the_answer_counts_and_not_the_way() -> None:
    call = {"name": "add", "arguments": {"a": 2, "b": 3}}
    task = {"kind": "tool", "expression": "2+3", "expected_answer": 5}
    assert play(FOLDER, task, [call, "6"]).reward == 0.0
    assert play(FOLDER, task, ["5"]).reward == 1.0
    assert play(FOLDER, task, [call, call, "So 5"]).reward == 1.0


@pytest.mark.parametrize(
    ("name", "arguments", "output"),
    [
        ("add", {"a": 2, "b": 3}, "5"),
        ("subtract", {"a": 2, "b": 3}, "-1"),
        ("multiply", {"a": -2, "b": 3}, "-6"),
        ("add", {"a": "2", "b": 3}, "5"),
        ("multiply", {"a": 10**16, "b": 1}, "numbers must lie between -1000000000000000 and 1000000000000000"),
    ],
)
def test_tools(name: str, arguments: dict[str, Any], output: str) -> None:
    task = {"kind": "tool", "expected_answer": 5}
    assert play(FOLDER, task, [{"name": name, "arguments": arguments}, "5"]).tool_outputs == [output]


@pytest.mark.parametrize("arguments", [{"a": 2}, {"a": "two", "b": 3}, "{not json"])
def test_wrong_arguments_answer_the_model(arguments: Any) -> None:
    played = play(FOLDER, {"kind": "tool", "expected_answer": 5}, [{"name": "add", "arguments": arguments}, "5"])
    assert played.reward == 1.0
    assert "detail" in played.tool_outputs[0] or "Invalid tool call arguments" in played.tool_outputs[0]


def test_a_guess_is_answered_higher_or_lower() -> None:
    played = play(FOLDER, GUESS, ["32", "I say 16", "20!"])
    replies = [item["content"] for item in played.items if item.get("role") == "user"]
    assert replies == ["lower", "higher"]
    assert played.reward == 1.0
    assert played.fields == {"answer": 20, "guesses": 3}
    assert played.stop_reason == "environment_done"


def test_six_guesses_and_no_more() -> None:
    played = play(FOLDER, GUESS, ["1", "2", "3", "4", "5", "6", "20"])
    assert len(played.requests) == 6
    assert played.reward == 0.0
    assert played.fields == {"answer": 6, "guesses": 6}
    assert play(FOLDER, GUESS, ["1", "2", "3", "4", "5", "20"]).reward == 1.0
    assert play(FOLDER, GUESS, ["1", "20"], {"max_guesses": 1}).reward == 0.0


def test_several_numbers_in_one_guess_are_one_guess() -> None:
    assert play(FOLDER, GUESS, ["19 20 21", "1", "1", "1", "1", "1"]).reward == 0.0


def test_a_guess_without_a_number_counts() -> None:
    played = play(FOLDER, GUESS, ["hm", "20"])
    assert [item["content"] for item in played.items if item.get("role") == "user"] == ["Answer with a number."]
    assert played.fields == {"answer": 20, "guesses": 2}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"kind": "guess", "expected_answer": 3}, "a row of kind guess needs secret"),
        ({"kind": "chain"}, "a row of kind chain needs expected_answer"),
        ({"kind": "poem", "expected_answer": 3}, "kind"),
        ({"kind": "direct", "expected_answer": "many"}, "expected_answer"),
        ({"expected_answer": 3}, "kind"),
    ],
)
def test_rows_that_lack_something_are_refused(row: dict[str, Any], says: str) -> None:
    with pytest.raises(Exception, match=says) as caught:
        play(FOLDER, row, ["3"])
    assert type(caught.value).__name__ == "InvalidRows"
