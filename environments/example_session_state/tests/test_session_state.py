"""A counter of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kubegym.testing import play

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).resolve().parents[1]
ROWS = [json.loads(line) for line in (FOLDER / "data/example.jsonl").read_text().splitlines()]
TASK = {"initial_count": 3, "expected_count": 7}
LOOK = {"name": "get_counter_value", "arguments": {}}


def increment(count: Any) -> dict[str, Any]:
    return {"name": "increment_counter", "arguments": {"count": count}}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['initial_count']}-to-{row['expected_count']}")
def test_the_oracle_earns_every_example(row: dict[str, Any]) -> None:
    played = play(FOLDER, row, "oracle")
    assert played.reward == 1.0
    assert played.tool_outputs == ['{"success":true}', f'{{"count":{row["expected_count"]}}}']


@pytest.mark.parametrize(
    ("replies", "outputs", "reward"),
    [
        ([LOOK, increment(4), "Seven."], ['{"count":3}', '{"success":true}'], 1.0),
        ([increment(1), increment(3), LOOK, "ok"], ['{"success":true}', '{"success":true}', '{"count":7}'], 1.0),
        ([increment(10), increment(-6), "ok"], ['{"success":true}', '{"success":true}'], 1.0),
        ([increment(5), "It stands at 7."], ['{"success":true}'], 0.0),
        (["It stands at 7."], [], 0.0),
    ],
)
def test_the_counter_decides(replies: list[Any], outputs: list[str], reward: float) -> None:
    played = play(FOLDER, TASK, replies)
    assert played.tool_outputs == outputs
    assert played.reward == reward


def test_each_rollout_has_a_counter_of_its_own() -> None:
    assert [play(FOLDER, TASK, [increment(4), "ok"], rollout_index=i).reward for i in range(2)] == [1.0, 1.0]


def test_bad_arguments_change_nothing() -> None:
    played = play(FOLDER, TASK, [increment("many"), increment(4), "ok"])
    assert '"detail"' in played.tool_outputs[0]
    assert played.reward == 1.0


@pytest.mark.parametrize(
    "row", [{"initial_count": 3}, {"expected_count": 3}, {"initial_count": "x", "expected_count": 1}]
)
def test_rows_that_lack_something_are_refused(row: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="_count") as caught:
        play(FOLDER, row, ["ok"])
    assert type(caught.value).__name__ == "InvalidRows"
