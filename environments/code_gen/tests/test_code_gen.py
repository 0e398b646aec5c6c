"""Which programs pass, and what is said of those that do not."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from kubegym.testing import InvalidRows, Played, load_environment, play

pytestmark = pytest.mark.contract

CODE = load_environment(Path(__file__).resolve().parents[1]).cls
DOUBLE = {"inputs": ["2\n", "21\n"], "outputs": ["4\n", "42\n"]}
ADD = {"inputs": ["[1, 2]\n3", "[]\n7"], "outputs": ["[1, 2, 3]", "[7]"], "fn_name": "append"}


def run_on(code: str, tests: dict[str, Any], config: dict[str, Any] | None = None) -> Played:
    row = {"verifier_metadata": {"unit_tests": tests, "difficulty": "easy"}}
    return play(CODE, row, [f"Here it is:\n```python\n{code}\n```"], config)


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        ("print(int(input()) * 2)", DOUBLE),
        ("import sys\nfor line in sys.stdin:\n    print(2 * int(line), end='  \\n\\n')", DOUBLE),
        ("if __name__ == '__main__':\n    print(f'{int(input()) * 2}.0')", DOUBLE),
        ("print(int(input()) * 2)\nsys.exit(0)", DOUBLE),
        ("def append(items: List[int], item):\n    return items + [item]", ADD),
        ("def append(items, item):\n    return (*items, item)", ADD),
        ("class Solution:\n    def append(self, items, item):\n        return items + [item]", ADD),
    ],
)
def test_right_programs_pass(code: str, tests: dict[str, Any]) -> None:
    played = run_on(code, tests)
    assert (played.reward, played.fields["result"]) == (1.0, [True, True])
    assert played.fields["extracted_model_code"] == code
    assert played.fields["difficulty"] == "easy"


@pytest.mark.parametrize(
    ("code", "tests", "result", "problem"),
    [
        ("print(4)", DOUBLE, [True, -2], "wrong"),
        ("print(int(input()) * 2)\nprint()\nprint(1)", DOUBLE, [-2], "wrong"),
        ("print(1 / 0)", DOUBLE, [-4], "error"),
        ("print(4", DOUBLE, [-4], "error"),
        ("def append(items, item):\n    return object()", ADD, [-4], "error"),
        ("def other(): pass", ADD, [-4], "error"),
    ],
)
def test_the_first_failing_test_says_why(code: str, tests: dict[str, Any], result: list[Any], problem: str) -> None:
    played = run_on(code, tests)
    assert played.reward == 0.0
    assert (played.fields["result"], played.fields["metadata"]["problem"]) == (result, problem)


@pytest.mark.parametrize(
    ("code", "seconds"), [("while True: pass", 2.0), ("import time\ntime.sleep(60)", 0.5)], ids=["computes", "sleeps"]
)
def test_a_program_without_an_end_is_said_to_take_too_long(code: str, seconds: float) -> None:
    played = run_on(code, DOUBLE, {"unit_test_timeout_secs": seconds})
    assert played.reward == 0.0
    assert (played.fields["result"], played.fields["metadata"]["problem"]) == ([-3], "time")


def test_a_program_that_exits_with_an_error_passes_for_nemo_gym_alone() -> None:
    code = "print(int(input()) * 2)\nsys.exit(1)"
    assert run_on(code, DOUBLE).reward == 0.0
    assert run_on(code, DOUBLE, {"parity": "nemo-gym"}).reward == 1.0
    assert run_on("print(4)\nraise ValueError", DOUBLE, {"parity": "nemo-gym"}).fields["result"] == [-4]


@pytest.mark.parametrize("reply", ["", "print(4)", "```\nprint(4)"])
def test_without_two_fences_there_is_no_program(reply: str) -> None:
    played = play(CODE, {"verifier_metadata": {"unit_tests": DOUBLE}}, [reply])
    assert (played.reward, played.fields["extracted_model_code"]) == (0.0, None)


def test_the_last_pair_of_fences_holds_the_program() -> None:
    reply = "```\nprint(0)\n```\nBetter:\n```python\nprint(int(input()) * 2)\n```\nDone."
    assert play(CODE, {"verifier_metadata": {"unit_tests": DOUBLE}}, [reply]).reward == 1.0


def test_packed_tests_are_read() -> None:
    packed = base64.b64encode(zlib.compress(json.dumps(DOUBLE).encode())).decode()
    assert run_on("print(int(input()) * 2)", {"packed": packed}).reward == 1.0


@pytest.mark.parametrize(
    ("tests", "says"),
    [
        ({}, "inputs"),
        ({"inputs": [], "outputs": []}, "every program would pass"),
        ({"inputs": ["1"], "outputs": []}, "zip"),
        ({"inputs": ["x"], "outputs": ["1"], "fn_name": "f"}, "Expecting value"),
    ],
)
def test_tests_that_cannot_be_read_are_refused(tests: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRows, match=says):
        run_on("pass", tests)
