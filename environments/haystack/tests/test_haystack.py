"""Ledgers of any length, and who is named."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from kubegym.testing import play

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).resolve().parents[1]
ROWS = [json.loads(line) for line in (FOLDER / "data/example.jsonl").read_text().splitlines()]
SCRIPT = runpy.run_path(str(FOLDER / "data/generate.py"))
TASK = {"names": ["Ada", "Adam", "Bruno"], "expected_answer": "Ada", "context_tokens": 100}


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_the_oracle_earns_every_example(row: dict[str, Any]) -> None:
    assert play(FOLDER, row, "oracle").reward == 1.0


def test_the_examples_are_what_the_script_writes() -> None:
    assert (FOLDER / "data/example.jsonl").read_text() == SCRIPT["content"]()


def test_the_ledger_leads_to_the_answer_and_is_as_long_as_asked_for() -> None:
    for row in SCRIPT["rows"](count=20, seed=3, tokens=8_000, passes=6):
        text = row["responses_create_params"]["input"][0]["content"]
        box = text.rpartition("Who has the ")[2].partition(" box in the end?")[0]
        passed = [line.split() for line in text.splitlines() if f" passes the {box} box on to " in line]
        pairs = [(words[0], words[-1].rstrip(".")) for words in passed]
        assert [taker for _, taker in pairs[:-1]] == [giver for giver, _ in pairs[1:]]
        assert pairs[-1][1] == row["expected_answer"]
        assert 3_900 <= row["context_tokens"] <= 8_100


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("Ada", 1.0),
        ("ada.", 1.0),
        ("Bruno had it, then Adam.\n\nAda", 1.0),
        ("It is **Ada**", 1.0),
        ("Ada\nBruno", 0.0),
        ("Ada or Bruno", 0.0),
        ("Adam", 0.0),
        ("Adamantine", 0.0),
        ("", 0.0),
    ],
)
def test_the_last_line_names_one(text: str, reward: float) -> None:
    assert play(FOLDER, TASK, [text]).reward == reward


def test_rows_must_be_possible_and_say_what_they_need() -> None:
    with pytest.raises(Exception, match="expected_answer is not among names"):
        play(FOLDER, {**TASK, "expected_answer": "Zoe"}, ["Zoe"])
    with pytest.raises(Exception, match="context_tokens"):
        play(FOLDER, {"names": ["Ada"], "expected_answer": "Ada"}, ["Ada"])
