"""The bridge to fhaviary, and the two datasets that come with it."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aviary.core", reason="needs kubegym[aviary]")

from kubegym.testing import Played, play

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).resolve().parents[1]
ROWS = [json.loads(line) for line in (FOLDER / "data/example.jsonl").read_text().splitlines()]


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def locks(*replies: Any) -> Played:
    return play(FOLDER, {"dataset": "locks", "task_idx": 7}, replies)


def sums(*replies: Any) -> Played:
    return play(FOLDER, {"task_idx": 7}, replies)


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_the_oracle_earns_every_example(row: dict[str, Any]) -> None:
    played = play(FOLDER, row, "oracle")
    assert played.reward == 1.0
    assert played.fields["done"]


def test_the_examples_are_what_the_script_writes() -> None:
    assert (FOLDER / "data/example.jsonl").read_text() == runpy.run_path(str(FOLDER / "data/generate.py"))["content"]()


def test_the_world_brings_its_text_and_tools() -> None:
    request = sums("?", "!").requests[0]
    assert request["input"][0]["content"].startswith("A shop gets ")
    assert [tool["name"] for tool in request["tools"]] == ["calculator", "submit_answer"]
    assert request["tools"][0]["parameters"]["properties"]["expr"]["type"] == "string"
    assert [tool["name"] for tool in locks("?", "!").requests[0]["tools"]] == ["open_box", "say_word"]


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("2 * (3 + 4) - 1", "13"),
        ("7 / 2", "3.5"),
        ("-3", "-3"),
        ("1 / 0", "That cannot be calculated"),
        ("9 ** 9 ** 9", "That cannot be calculated"),
        ("__import__('os')", "That cannot be calculated"),
        ("", "That cannot be calculated"),
    ],
)
def test_the_calculator_knows_the_four_signs(expression: str, answer: str) -> None:
    assert sums(call("calculator", expr=expression), "?", "!").tool_outputs[0].startswith(answer)


def test_boxes_open_with_their_keys_only() -> None:
    played = locks(call("open_box", colour="pink"), call("say_word", word="guess"), call("open_box", colour="red"), "!")
    assert played.tool_outputs == ["There is no pink box.", "You have said it.", "The episode is over."]
    assert (played.reward, played.fields) == (0.0, {"steps": 2, "done": True})


def test_a_message_without_a_call_is_answered_by_the_world() -> None:
    played = sums("I think it is 5.", call("submit_answer", answer="5"), "Done.")
    replies = [item["content"] for item in played.items if item.get("role") == "user"]
    assert replies[1].startswith("No tool calls received.")
    assert played.fields == {"steps": 2, "done": True}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (call("open_door"), "there is no tool 'open_door'"),
        (call("calculator", id=1, expr="1"), "calculator takes expr"),
        (call("calculator"), "calculator takes expr"),
        ({"name": "calculator", "arguments": "{"}, "Invalid tool call arguments"),
        (call("submit_answer", answer=[1]), "Encountered exception"),
    ],
)
def test_what_the_policy_does_wrong_is_said_and_nothing_breaks(wrong: dict[str, Any], says: str) -> None:
    played = sums(wrong, *["?"] * 3, call("submit_answer", answer="0"), "!")
    assert says in played.tool_outputs[0]
    assert (played.outcome, played.reward) == ("scored", 0.0)


def test_datasets_are_configured_by_their_name() -> None:
    played = play(FOLDER, {"dataset": "dummy"}, ["?"], {"datasets": {"dummy": {}}})
    assert "print_story" in [tool["name"] for tool in played.requests[0]["tools"]]
    unknown = play(FOLDER, {"dataset": "hotpotqa", "task_idx": 0}, ["?"])
    assert unknown.failure is not None
    assert "no dataset 'hotpotqa'; there are sums, locks" in unknown.failure.message
