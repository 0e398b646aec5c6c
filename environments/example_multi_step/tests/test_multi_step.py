"""Looking up values and reporting them in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kubegym.testing import Played, play

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).resolve().parents[1]
ROWS = [json.loads(line) for line in (FOLDER / "data/example.jsonl").read_text().splitlines()]
TASK = {
    "id": 0,
    "expected_synonyms": ["Glad", "Cheerful"],
    "expected_synonym_values": [376, 814],
    "minefield_label": "Happy",
    "minefield_label_value": 514,
}


def report(*arguments: Any) -> Played:
    """A rollout whose model reports each of these lists, in turn."""
    calls = [{"name": "extract_synonym_values", "arguments": one} for one in arguments]
    return play(FOLDER, TASK, [*calls, "Done."])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["minefield_label"])
def test_the_oracle_earns_every_example(row: dict[str, Any]) -> None:
    played = play(FOLDER, row, "oracle")
    assert played.reward == 1.0
    assert played.fields["parsed_synonym_values"] == row["expected_synonym_values"]
    assert played.tool_outputs[-1] == '{"success":true}'
    assert [json.loads(output)["synonym_value"] for output in played.tool_outputs[:-1]] == row[
        "expected_synonym_values"
    ]


@pytest.mark.parametrize(("synonym", "value"), [("Glad", 376), ("", 0), ("\u00e9", 233), ("\U0001f600", 128512)])
def test_a_value_is_the_sum_of_character_codes(synonym: str, value: int) -> None:
    played = play(FOLDER, TASK, [{"name": "get_synonym_value", "arguments": {"synonym": synonym}}, "Done."])
    assert played.tool_outputs == [f'{{"synonym_value":{value}}}']


@pytest.mark.parametrize(
    ("reported", "accuracy", "overlap", "minefield", "order"),
    [
        ([376, 814], True, 1.0, False, False),
        ([814, 376], False, 1.0, False, True),
        ([376, 814, 814], False, 1.0, False, True),
        ([376, 814, 5], False, 1.0, False, True),
        ([376], False, 0.5, False, False),
        ([514, 814], False, 0.5, True, False),
        ([376, 814, 514], False, 1.0, True, True),
        ([1, 2], False, 0.0, False, False),
        ([], False, 0.0, False, False),
    ],
)
def test_the_report_is_judged(
    reported: list[int], accuracy: bool, overlap: float, minefield: bool, order: bool
) -> None:
    played = report({"synonym_values": reported})
    assert played.reward == float(accuracy)
    assert played.fields == {
        "parsed_synonym_values": reported,
        "accuracy": accuracy,
        "set_overlap": overlap,
        "original_term_minefield_hit": minefield,
        "order_instruction_following_failure": order,
    }


def test_the_last_report_counts() -> None:
    assert report({"synonym_values": [1]}, {"synonym_values": [376, 814]}).reward == 1.0
    assert report({"synonym_values": [376, 814]}, {"synonym_values": [1]}).reward == 0.0


@pytest.mark.parametrize(
    "arguments",
    [
        "{not json",
        "[1]",
        {"values": [376, 814]},
        {"synonym_values": "376, 814"},
        {"synonym_values": [376, "x"]},
        "null",
    ],
)
def test_a_malformed_last_report_reports_nothing(arguments: Any) -> None:
    played = report({"synonym_values": [376, 814]}, arguments)
    assert played.outcome == "scored"
    assert played.reward == 0.0
    assert played.fields["parsed_synonym_values"] == []


def test_no_report_earns_nothing() -> None:
    played = play(FOLDER, TASK, ["The values are 376 and 814."])
    assert (played.reward, played.fields["parsed_synonym_values"]) == (0.0, [])


def test_a_row_without_values_is_refused() -> None:
    with pytest.raises(Exception, match="expected_synonym_values is empty"):
        play(FOLDER, {**TASK, "expected_synonym_values": []}, ["Done."])
