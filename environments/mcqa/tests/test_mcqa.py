"""NeMo Gym's rules for reading a letter, case by case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kubegym.testing import load_environment, play

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).resolve().parents[1]
MULTIPLE_CHOICE = load_environment(FOLDER).cls
ROWS = [json.loads(line) for line in (FOLDER / "data/example.jsonl").read_text().splitlines()]
OPTIONS = [{"A": "Rome"}, {"B": "Paris"}, {"C": "New  York"}, {"D": "Berlin"}]
MD = {"grading_mode": "lenient_answer_colon_md"}


def read(text: str, mode: str | None = None, config: dict[str, Any] | None = None, **fields: Any) -> str | None:
    """The letter that grading reads."""
    row = {"options": OPTIONS, "expected_answer": "B", **({"grading_mode": mode} if mode else {}), **fields}
    played = play(MULTIPLE_CHOICE, row, [text], config)
    letter = played.fields["extracted_answer"]
    assert played.reward == float(letter == "B")
    return letter


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["uuid"])
@pytest.mark.parametrize("config", [{}, MD, {"grading_mode": "lenient_boxed"}], ids=str)
def test_the_oracle_earns_every_example(row: dict[str, Any], config: dict[str, Any]) -> None:
    assert play(MULTIPLE_CHOICE, row, "oracle", config).reward == 1.0


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["uuid"])
def test_another_letter_earns_nothing(row: dict[str, Any]) -> None:
    other = "B" if row["expected_answer"] == "A" else "A"
    assert play(MULTIPLE_CHOICE, row, [f"\\boxed{{{other}}}\nAnswer: {other}"]).reward == 0.0


STRICT = [
    (r"\boxed{B}", "B"),
    (r"so \boxed{ B }.", "B"),
    (r"\boxed{(B)}", "B"),
    (r"\boxed{[B]}", "B"),
    (r"\boxed{**B**}", "B"),
    (r"\boxed{B2}", "B"),
    (r"\boxed{\text{B}}", "B"),
    (r"\boxed{\text{\text{ B }}}", "B"),
    (r"\boxed{ \text{B} }", "B"),
    (r"\boxed{\textbf{B}}", None),
    (r"\boxed{B: Paris}", "B"),
    (r"\boxed{B) Paris}", "B"),
    (r"\boxed{B. Paris}", "B"),
    (r"\boxed{B - Paris}", "B"),
    (r"\boxed{\text{B: Paris}}", "B"),
    (r"\boxed{(B) Paris}", None),
    (r"\boxed{b}", None),
    (r"\boxed{b) Paris}", None),
    (r"\boxed{B Paris}", None),
    (r"\boxed{Paris}", None),
    (r"\boxed{A, B}", None),
    (r"\boxed{}", None),
    (r"\boxed{E}", None),
    (r"\boxed{E: Oslo}", None),
    (r"\boxed{A} no, \boxed{B}", "B"),
    (r"\boxed{B} no, \boxed{Paris}", None),
    (r"\boxed{B} no, \boxed{A", None),
    (r"\boxed{B", None),
    (r"\boxed {B}", None),
    (r"boxed{B}", None),
    ("\\boxed{\nB\n}", "B"),
    (r"\boxed{\{B\}}", "B"),
    ("B", None),
    ("Answer: B", None),
    ("\\boxed{\u0628}", None),
]


@pytest.mark.parametrize(("text", "letter"), STRICT)
def test_strict_single_letter_boxed(text: str, letter: str | None) -> None:
    assert read(text) == letter
    assert read(text, "strict_single_letter_boxed") == letter


@pytest.mark.parametrize(("text", "letter"), [case for case in STRICT if case[1]])
def test_lenient_boxed_reads_what_strict_reads(text: str, letter: str) -> None:
    assert read(text, "lenient_boxed") == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"\boxed{Paris}", "B"),
        (r"\boxed{the city of PARIS, France}", "B"),
        (r"\boxed{\text{Paris}}", "B"),
        (r"\boxed{(B) Paris}", "B"),
        ("\\boxed{new\n york}", "C"),
        (r"\boxed{Paris or Rome}", None),
        (r"\boxed{Oslo}", None),
        (r"\boxed{Rome} no, \boxed{Paris}", "B"),
        (r"\boxed{Paris} no, \boxed{it}", None),
        ("Paris", None),
    ],
)
def test_lenient_boxed_reads_an_options_text(text: str, letter: str | None) -> None:
    assert read(text, "lenient_boxed") == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: B", "B"),
        ("answer : b", "B"),
        ("The ANSWER:B", "B"),
        ("Answer:\nB", "B"),
        (r"Answer: \text{B}", "B"),
        ("Answer: paris", "B"),
        ("Answer: new   york", "C"),
        ("Answer: B \nbecause", "B"),
        ("Answer: B.", None),
        ("**Answer: B**", None),
        ("Answer: E", None),
        ("Answer: Paris, I think", None),
        ("Answer: A\nAnswer: B", "A"),
        ("Answer: none\nAnswer: B", None),
        ("B", None),
        (r"\boxed{B}", None),
    ],
)
def test_lenient_answer_colon(text: str, letter: str | None) -> None:
    assert read(text, "lenient_answer_colon") == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: B", "B"),
        ("answer: b", "B"),
        ("**Answer: B**", "B"),
        ("**Answer:** B", "B"),
        ("**Answer**: B", "B"),
        ("__Answer__: B", "B"),
        ("Answer: *B*", "B"),
        ("Answer: `B`.", "B"),
        ("Answer: B because it is", "B"),
        ("Answer: B) Paris", "B"),
        ("Answer: (B)", "B"),
        ("Answer: the option B", "B"),
        ("Answer: it is not A but B", "B"),
        ("Answer: B2", None),
        ("Answer: Because", None),
        ("Answer: I think B", None),
        ("Answer: A or B", None),
        ("Answer: A and B", None),
        ("Answer: A/B", None),
        ("Answer: A, B", None),
        ("Answer: A B", None),
        ("Answer: B or B", "B"),
        ("Answer: B or E", "B"),
        ("Answer: E", None),
        ("Answer: A\nAnswer: B", "B"),
        ("Answer: B\nAnswer: unclear", "B"),
        ("Answer: \u0628", "B"),
        ("Answer: \u09ac", "B"),
        ("Answer: \uff22", "B"),
        ("\uff21nswer\uff1a \uff22", "B"),
        ("Answer:", None),
        (r"\boxed{B}", None),
    ],
)
def test_lenient_answer_colon_md(text: str, letter: str | None) -> None:
    assert read(text, config=MD) == letter


def test_an_answer_prefix_of_the_row_stands_for_answer() -> None:
    metadata = {"answer_prefix": "Antwort:"}
    assert read("Antwort: B", config=MD) is None
    assert read("Antwort: B", config=MD, template_metadata=metadata) == "B"
    assert read("antwort:B\nund Schluss", config=MD, template_metadata=metadata) == "B"
    assert read("Answer: A\nAntwort: B", config=MD, template_metadata=metadata) == "B"
    assert read(r"\boxed{B}", config=MD, template_metadata=metadata) == "B"


@pytest.mark.parametrize(
    ("regex", "text", "letter"),
    [
        (r"selected:\s*([A-Za-z])", "Selected: B", "B"),
        (r"selected:\s*([A-Za-z])", "SELECTED: b", "B"),
        (r"selected:\s*([A-Za-z])", "Selected: A, rather selected: B", "B"),
        (r"selected:\s*(.+)", "Selected: new york", "C"),
        (r"selected:\s*(.+)", "Selected: Oslo", None),
        (r"selected:\s*([A-Za-z])", "Selected: Z", "Z"),
        (r"selected:\s*([A-Za-z])", r"\boxed{B}", "B"),
        (r"selected:\s*(.+)", r"Selected: Oslo \boxed{B}", "B"),
        (r"selected:\s*(?:([A-D])|\((\w)\))", "Selected: (b)", "B"),
        (r"\b[A-D]$", "So B", "B"),
        ([r"first:\s*(\w)", r"second:\s*(\w)"], "second: B", "B"),
        ([r"first:\s*(\w)", r"second:\s*(\w)"], "second: A first: B", "B"),
        ([r"first:\s*(\w+)", r"second:\s*(\w)"], "first: none second: B", "B"),
        ([], r"\boxed{B}", "B"),
        (r"الإجابة:\s*([أ-د])", "الإجابة: ب", "B"),
        (r"উত্তর:\s*(\S)", "উত্তর: ব", "B"),
        ("\u7b54\u6848\uff1a(.)", "\u7b54\u6848\uff1a\uff22", "B"),
    ],
)
def test_output_regex(regex: str | list[str], text: str, letter: str | None) -> None:
    assert read(text, template_metadata={"output_regex": regex}) == letter


def test_a_regex_needs_no_options() -> None:
    row = {"expected_answer": "b", "template_metadata": {"output_regex": r"is (\w)"}}
    played = play(MULTIPLE_CHOICE, row, ["It is B"])
    assert played.reward == 1.0
    assert played.fields == {"expected_answer": "B", "extracted_answer": "B"}


@pytest.mark.parametrize("text", ["", "  \n"])
def test_no_text_no_reward(text: str) -> None:
    assert read(text, template_metadata={"output_regex": "(.?)"}) is None


def test_all_output_text_is_joined() -> None:
    parts = [{"type": "output_text", "text": "\\bo"}, {"type": "output_text", "text": "xed{B}"}]
    message = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": parts}
    assert play(MULTIPLE_CHOICE, {"options": OPTIONS, "expected_answer": "B"}, [message]).reward == 1.0


def test_reasoning_is_not_read() -> None:
    reasoning = {"id": "r", "type": "reasoning", "summary": [{"type": "summary_text", "text": r"\boxed{B}"}]}
    played = play(MULTIPLE_CHOICE, {"options": OPTIONS, "expected_answer": "B"}, [[reasoning, "I do not know"]])
    assert played.reward == 0.0
    assert played.fields["extracted_answer"] is None


def test_null_options_cannot_be_chosen() -> None:
    options = [{"A": "Rome", "B": "Paris", "C": None}]
    assert read(r"\boxed{B}", options=options) == "B"
    assert read(r"\boxed{C}", options=options) is None


def test_the_configuration_wins_over_the_row() -> None:
    assert read("Answer: B", "strict_single_letter_boxed", {"grading_mode": "lenient_answer_colon"}) == "B"
    assert read(r"\boxed{Paris}", "lenient_boxed", {"grading_mode": "strict_single_letter_boxed"}) is None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"grading_mode": "lenient_answer_colon_md"}, "grading_mode"),
        ({"expected_answer": " "}, "expected_answer is empty"),
        ({"expected_answer": None}, "expected_answer"),
        ({"template_metadata": {"output_regex": "(["}}, "does not compile"),
        ({"template_metadata": {"output_regex": [3]}}, "must be a string or a list of strings"),
        ({"options": {"A": "Rome"}}, "options"),
    ],
)
def test_rows_that_cannot_be_graded_are_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(Exception, match=says) as caught:
        play(MULTIPLE_CHOICE, {"options": OPTIONS, "expected_answer": "B", **fields}, ["B"])
    assert type(caught.value).__name__ == "InvalidRows"


def test_key_metrics_are_those_at_the_highest_k() -> None:
    metrics = {
        "mean/reward": 0.5,
        "mean/total_tokens": 9.0,
        "pass@1/accuracy": 50.0,
        "pass@2/accuracy": 60.0,
        "pass@2/no_answer": 1.0,
        "pass@10/no_answer": 2.0,
        "pass@1[avg-of-2]/accuracy": 3.0,
        "pass@1[avg-of-10]/accuracy": 4.0,
        "pass@1[avg-of-10]/no_answer": 5.0,
        "pass@1[avg-of-10]/accuracy/std_err_across_runs": 6.0,
        "majority@10/accuracy": 7.0,
        "majority@10/no_answer": 8.0,
    }
    assert MULTIPLE_CHOICE.get_key_metrics(metrics) == {
        "mean/reward": 0.5,
        "pass@1/accuracy": 50.0,
        "pass@1[avg-of-10]/accuracy": 4.0,
        "pass@1[avg-of-10]/no_answer": 5.0,
        "pass@10/no_answer": 2.0,
        "majority@10/accuracy": 7.0,
    }
    assert MULTIPLE_CHOICE.get_key_metrics({"mean/reward": 1.0}) == {"mean/reward": 1.0}
