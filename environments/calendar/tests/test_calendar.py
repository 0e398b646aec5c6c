"""Which calendars are right, and what the contract's verifier makes of odd ones."""

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
DAY = {"min_time": "10am", "max_time": "4pm"}
PARITY = {"parity": "nemo-gym"}


def expected(constraint: str | None = None, duration: int = 60, name: str = "1") -> dict[str, Any]:
    return {name: {"event_id": int(name), "duration": duration, "constraint": constraint, **DAY}}


def event(start: str, duration: Any = 60, name: Any = 1) -> dict[str, Any]:
    return {"event_id": name, "event_name": "x", "start_time": start, "duration": duration}


def answered(text: Any, task: dict[str, Any], config: dict[str, str] | None = None) -> Played:
    return play(FOLDER, {"exp_cal_state": task}, [text if isinstance(text, str) else json.dumps(text)], config)


def problem(text: Any, task: dict[str, Any], config: dict[str, str] | None = None) -> str | None:
    played = answered(text, task, config)
    assert played.reward == float(played.fields["problem"] is None)
    return played.fields["problem"]


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
@pytest.mark.parametrize("config", [{}, PARITY], ids=["honest", "parity"])
def test_the_oracle_earns_every_example(row: dict[str, Any], config: dict[str, str]) -> None:
    assert play(FOLDER, row, "oracle", config).reward == 1.0


def test_the_examples_are_what_the_script_writes() -> None:
    assert (FOLDER / "data/example.jsonl").read_text() == runpy.run_path(str(FOLDER / "data/generate.py"))["content"]()


@pytest.mark.parametrize("config", [{}, PARITY], ids=["honest", "parity"])
@pytest.mark.parametrize(
    ("constraint", "start", "kept"),
    [
        (None, "10am", True),
        (None, "10:00", True),
        (None, "9:59am", False),
        (None, "3pm", True),
        (None, "3:01pm", False),
        ("before 12pm", "11am", True),
        ("before 12pm", "11:01am", False),
        ("after 12pm", "12pm", True),
        ("after 12pm", "11:59am", False),
        ("between 11am and 1pm", "12pm", True),
        ("between 11am and 1pm", "12:15pm", False),
        ("at 2:30pm", "2:30pm", True),
        ("at 2:30pm", "14:30", True),
        ("at 2:30pm", "2:31pm", False),
        ("at 2:30pm", "2:30am", False),
    ],
)
def test_windows(constraint: str | None, start: str, kept: bool, config: dict[str, str]) -> None:
    assert problem([event(start)], expected(constraint), config) == (None if kept else "constraint_violated")


@pytest.mark.parametrize("config", [{}, PARITY], ids=["honest", "parity"])
@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ([event("10am"), event("11am", name=2)], None),
        ([event("10am"), event("10:59am", name=2)], "conflicting_events"),
        ([event("10am")], "different_number_of_events"),
        ([event("10am"), event("11am", name=2), event("12pm", name=3)], "different_number_of_events"),
        ([event("10am"), event("11am", 45, name=2)], "constraint_violated"),
        ([event("10am"), event("11am", "60", name=2)], "malformed"),
        ([event("10am"), event("noon", name=2)], "malformed"),
        ([event("10am"), event("11am", name=7)], "malformed"),
        ([{"event_id": 1}, {"event_id": 2}], "malformed"),
        ("I have no time.", "no_json_list"),
        ("", "no_json_list"),
        ("<think>hm</think>[]", "think_found"),
    ],
)
def test_calendars(answer: Any, found: str | None, config: dict[str, str]) -> None:
    assert problem(answer, expected() | expected(name="2"), config) == found


def test_text_around_the_list_does_not_matter() -> None:
    text = f"Of course [as you wish]:\n```json\n{json.dumps([event('10am')], indent=1)}\n```\nAnything else?"
    assert problem(text, expected()) is None
    assert problem(text, expected(), PARITY) is None


@pytest.mark.parametrize(
    ("answer", "task", "honest", "parity"),
    [
        ("Sure.", {}, "events_of_nobody", None),
        ([], {}, None, None),
        ([event("10am")], {}, "events_of_nobody", None),
        ([event("10am"), event("10am")], expected(), "event_twice", None),
        (
            f"[[1], {json.dumps(event('1pm'))}] {json.dumps([event('10am')])}",
            expected("at 10am"),
            "malformed",
            None,
        ),
    ],
)
def test_where_parity_pays_for_nothing(answer: Any, task: Any, honest: str | None, parity: str | None) -> None:
    assert (problem(answer, task), problem(answer, task, PARITY)) == (honest, parity)


def test_reasoning_after_the_answer_counts_against_it_in_parity_only() -> None:
    reply = [json.dumps([event("10am")]), {"type": "reasoning", "id": "r", "summary": []}]
    assert play(FOLDER, {"exp_cal_state": expected()}, [reply]).reward == 1.0
    assert play(FOLDER, {"exp_cal_state": expected()}, [reply], PARITY).reward == 0.0


@pytest.mark.parametrize("constraint", ["soon", "before noon", "between 10am", "at 25"])
def test_constraints_that_nobody_could_read_are_refused(constraint: str) -> None:
    with pytest.raises(Exception, match="exp_cal_state"):
        answered("[]", expected(constraint))


def test_times_are_written_as_they_are_read() -> None:
    names = runpy.run_path(str(FOLDER / "data/generate.py"))
    assert [names["time_text"](at) for at in (0, 570, 720, 765, 1380)] == ["12am", "9:30am", "12pm", "12:45pm", "11pm"]
