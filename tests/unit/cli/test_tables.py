"""Tables, hints and transcripts: pure texts."""

from __future__ import annotations

import io
from typing import Any

import orjson
import pytest

from kubegym.cli.result import failure_hints, messages_of, one_line, truncated_lines
from kubegym.cli.show import Address, parse_address
from kubegym.cli.tables import pass_at_k, print_table, result_rows
from kubegym.cli.transcript import LONGEST, input_text, transcript
from kubegym.core.errors import InvalidSpec
from kubegym.data.merge import EnvironmentSummary


def summary(**changes: Any) -> EnvironmentSummary:
    fields: dict[str, Any] = {
        "environment": "math",
        "tasks": 10,
        "rollouts": 40,
        "scored": 37,
        "unscored": 0,
        "failed": {"ModelTimeout": 1, "ToolCrashed": 2},
        "mean_reward": 0.5,
        "pass_at_1": 50.0,
        "k": 4,
        "pass_at_k": 80.0,
        "coverage": 0.9,
        "input_tokens": 12345,
        "output_tokens": 678,
        "seconds": 20.0,
    }
    return EnvironmentSummary(**{**fields, **changes})


def test_a_line_of_the_result_table() -> None:
    headings, (row,) = result_rows([summary()])
    assert dict(zip(headings, row, strict=True)) == {
        "environment": "math",
        "tasks": "10",
        "rollouts": "40",
        "scored": "37",
        "failed": "3\nToolCrashed 2\nModelTimeout 1",
        "mean reward": "0.500",
        "pass@1": "50.0 %",
        "pass@k": "80.0 % (k=4, 90% of tasks)",
        "tokens in/out": "12,345 / 678",
        "s/rollout": "0.50",
    }


def test_rollouts_that_were_cut_short_are_said() -> None:
    cut = summary(truncated={"context_window": 2, "max_output_tokens": 30})
    assert truncated_lines([summary(), cut]) == [
        "32 of 40 rollouts of math were cut short: max_output_tokens 30, context_window 2"
    ]


def test_unscored_has_a_column_only_where_there_is_something() -> None:
    assert "unscored" not in result_rows([summary()])[0]
    headings, rows = result_rows([summary(), summary(unscored=3)])
    assert [row[headings.index("unscored")] for row in rows] == ["0", "3"]


def test_what_is_not_known_is_a_dash() -> None:
    nothing = summary(scored=0, mean_reward=None, pass_at_1=None, pass_at_k=None, k=0, rollouts=0, failed={})
    headings, (row,) = result_rows([nothing])
    cells = dict(zip(headings, row, strict=True))
    assert [cells[name] for name in ("mean reward", "pass@1", "pass@k", "s/rollout")] == ["-"] * 4
    assert cells["failed"] == "0"
    assert pass_at_k(summary(coverage=1.0)) == "80.0 % (k=4)"


def test_tables_in_a_pipe_are_not_wrapped() -> None:
    stream = io.StringIO()
    print_table(["name", "value"], [["x" * 120, "1"], ["[bold]", "2"]], stream)
    lines = stream.getvalue().splitlines()
    assert lines[2].startswith("x" * 120)
    assert lines[3].startswith("[bold]"), "cells are no markup"


def test_hints_name_reasons_an_example_and_the_commands() -> None:
    lines = failure_hints("runs/x", {"A": 1, "B": 5, "C": 2, "D": 1}, {"B": "it broke"})
    assert lines[1] == "9 rollouts failed and have no reward:"
    assert lines[2] == "  B 5  such as: it broke"
    assert "  and 1 more reasons" in lines
    assert lines[-2].endswith("kubegym show runs/x --failed")
    assert lines[-1].endswith("kubegym retry runs/x --reason B")


def test_examples_come_from_whole_lines() -> None:
    def line(reason: str | None, message: str) -> bytes:
        failure = {"reason": reason, "message": message} if reason else None
        return orjson.dumps({"kubegym": {"failure": failure}}) + b"\n"

    head = line(None, "") + line("A", "first\n  one") + line("A", "second") + line("B", "cut")[:-5]
    assert messages_of(head) == {"A": "first one"}
    assert one_line("x" * 500, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("3", Address(3)),
        ("3-0", Address(3, 0)),
        ("1a2b3c4d-3-0", Address(3, 0)),
        ("1a2b3c4d-3-0-a2", Address(3, 0, 2)),
    ],
)
def test_tasks_and_rollouts_are_named_by_number_or_id(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "x", "3-", "-3", "3-0-1-1", "3-0-b"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match="neither a task"):
        parse_address(text)


def row() -> dict[str, Any]:
    message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "It is 5."}]}
    return {
        "responses_create_params": {"instructions": "Be brief.", "input": "2+3?"},
        "response": {
            "output": [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I add."}]},
                {"type": "function_call", "name": "add", "arguments": '{"a": 2, "b": [3]}', "call_id": "c"},
                {"type": "function_call_output", "call_id": "c", "output": "5\nexactly"},
                {"type": "function_call", "name": "add", "arguments": "{oops", "call_id": "d"},
                {"type": "function_call_output", "call_id": "d", "output": "no JSON"},
                message,
            ]
        },
        "reward": None,
        "reward_components": {"style": 0.5},
        "_ng_rollout_index": 0,
        "kubegym": {
            "rollout_id": "1a2b3c4d-3-0-a1",
            "task_index": 3,
            "environment": {"name": "math", "version": "1"},
            "attempt": 1,
            "outcome": "failed",
            "failure": {
                "stage": "verifier",
                "reason": "VerifierError",
                "message": "no\nverdict",
                "retryable": True,
                "attempt": 1,
            },
            "stop_reason": "completed",
            "seed": 7,
            "policy": {"model": "tiny", "versions": []},
            "usage": {"policy": {"calls": 3, "input_tokens": 1200, "reasoning_tokens": None}},
            "timing": {"model": 0.25, "total": 0.5},
            "turns": [{"reward": None}, {"reward": 0.5}],
        },
    }


def test_a_transcript_tells_everything_in_order() -> None:
    text = "\n".join(transcript(row()))
    expected = [
        "rollout 1a2b3c4d-3-0-a1 of math, model tiny, attempt 1",
        "[instructions]\n  Be brief.",
        "[user]\n  2+3?",
        "── turn 1",
        "[reasoning]\n  I add.",
        "[call add]\n  a: 2\n  b: [3]",
        "[tool output]\n  5\n  exactly",
        "── turn 2",
        "[call add]\n  {oops\n  (not JSON)",
        "── turn 3",
        "[assistant]\n  It is 5.",
        "── result",
        "outcome      failed, reward -, stop reason completed",
        "component    style 0.5",
        "failure      verifier VerifierError (attempt 1, retryable)\n             no\n             verdict",
        "turn rewards -, 0.5",
        "seconds      model 0.250, total 0.500",
        "policy       calls 3, input_tokens 1,200",
        "seed         7",
    ]
    positions = [text.index(part) for part in expected]
    assert positions == sorted(positions)


def test_a_rollout_without_any_reply_has_a_transcript_too() -> None:
    bare = {**row(), "response": None, "responses_create_params": {}}
    assert "failure      verifier VerifierError" in "\n".join(transcript(bare))
    assert input_text(bare) == ""


def test_long_texts_are_cut() -> None:
    long = row()
    long["responses_create_params"]["input"] = "x" * (LONGEST + 5)
    assert "… 5 more characters" in input_text(long)
