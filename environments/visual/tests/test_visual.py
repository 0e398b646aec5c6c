"""What the policy is shown, and what it answers for it."""

from __future__ import annotations

import base64
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from kubegym.testing import Played, play

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).resolve().parents[1]
ROWS = [json.loads(line) for line in (FOLDER / "data/example.jsonl").read_text().splitlines()]
PICTURE = runpy.run_path(str(FOLDER / "picture.py"))
SCRIPT = runpy.run_path(str(FOLDER / "data/generate.py"))
TASK = {"rooms": {"kitchen": [["red", 123], ["blue", 456]]}, "expected_answer": 123}


def look(room: str) -> Any:
    return play(FOLDER, TASK, [{"name": "look", "arguments": {"room": room}}, "123"]).tool_outputs[0]


def answered(text: str) -> Played:
    return play(FOLDER, TASK, [text])


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_the_oracle_earns_every_example(row: dict[str, Any]) -> None:
    played = play(FOLDER, row, "oracle")
    assert played.reward == 1.0
    assert len(played.tool_outputs) == len(row.get("rooms", {}))


def test_the_files_are_what_the_script_writes() -> None:
    written = SCRIPT["files"]()
    assert {name: (FOLDER / "data" / name).read_bytes() for name in written} == written
    assert len(written) == 3


def test_images_stand_in_rows_by_path_and_as_data() -> None:
    parts = [row["responses_create_params"]["input"][0]["content"] for row in ROWS]
    urls = [content[1]["image_url"] for content in parts if isinstance(content, list)]
    assert urls[:2] == ["images/0.png", "images/2.png"]
    assert all(url.startswith("data:image/png;base64,") for url in urls[2:])


def test_a_room_is_shown_as_an_image_behind_its_name() -> None:
    text, image = look(" Kitchen")
    assert text == {"type": "input_text", "text": "This is the kitchen."}
    data = base64.b64decode(image["image_url"].removeprefix("data:image/png;base64,"))
    assert image["type"] == "input_image"
    assert data == PICTURE["png"]([("red", 123), ("blue", 456)])
    assert "there is no 'cellar'; there is: kitchen" in look("cellar")


def test_the_answer_is_in_no_text_that_the_policy_gets() -> None:
    for row in SCRIPT["rows"](count=40, seed=5):
        played = play(FOLDER, row, "oracle")
        request = json.dumps([{**item, "arguments": ""} for item in played.requests[-1]["input"]])
        shown = request.split("data:image/png")[0] if "tools" in row["responses_create_params"] else request
        assert f" {row['expected_answer']}" not in shown


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("123", 123),
        ("It is 123.", 123),
        ("**123**", 123),
        ("456, no: 123", 123),
        ("1,123", 1123),
        ("123.5", 123.5),
        ("red", None),
    ],
)
def test_the_last_number_is_the_answer(text: str, answer: float | None) -> None:
    played = answered(text)
    assert played.fields == {"answer": answer}
    assert played.reward == float(answer == 123)


@pytest.mark.parametrize("boxes", [[], [["red", 1000]], [["pink", 3]], [["red", 1]] * 31])
def test_rooms_that_cannot_be_drawn_are_refused(boxes: list[Any]) -> None:
    with pytest.raises(Exception, match="rooms"):
        play(FOLDER, {"rooms": {"attic": boxes}, "expected_answer": 1}, ["1"])
