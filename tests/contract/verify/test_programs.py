"""Programs by tests, in the sandbox: what passes, what is the same output, and what is told of the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from kubegym.sandbox import Limits, LocalSandbox
from kubegym.verify.programs import Case, run_tests, same_output, same_value

pytestmark = pytest.mark.contract


@pytest.fixture
async def sandbox() -> AsyncIterator[LocalSandbox]:
    one = LocalSandbox()
    yield one
    await one.close()


@pytest.mark.parametrize(
    ("actual", "expected", "same"),
    [
        ("1\n2\n", "1\n2", True),
        ("\n 1 \n", "1", True),
        ("1\n\n2", "1\n2", False),
        ("1 2", "1  2", True),
        ("a b", "a  b", False),
        ("0.3333333", "0.33333334", True),
        ("0.333", "0.33333334", False),
        ("100000000.0", "100000001.0", True),
        ("50000000000000000", "50000000000000001", False),
        ("1.0", "1", True),
        ("1e0", "1", True),
        ("nan", "nan", True),
        ("nan 1.0", "nan 1", False),
        ("inf 1.0", "inf 1", True),
        ("YES", "Yes", False),
        ("", "", True),
    ],
)
def test_outputs_are_compared_line_by_line(actual: str, expected: str, same: bool) -> None:
    assert same_output(actual, expected) is same


@pytest.mark.parametrize(
    ("actual", "expected", "same"),
    [
        ([1, 2], [1, 2], True),
        (1.0, 1, True),
        (1.000001, 1, True),
        (1.001, 1, False),
        ([1.000001], [1], False),
        ("1", 1, True),
        ("x", "y", False),
        (None, 0, False),
        (True, 1, True),
        ({"a": 1}, {"a": 1}, True),
        (10**400, 1, False),
    ],
)
def test_values_are_json(actual: Any, expected: Any, same: bool) -> None:
    assert same_value(actual, expected) is same


async def test_a_report_counts_what_was_run(sandbox: LocalSandbox) -> None:
    cases = [Case(f"{n}", f"{n * n}") for n in (1, 2, 3, 4)]
    code = "n = int(input())\nprint(n * n if n < 3 else 0)"
    first = await run_tests(sandbox, code, cases)
    assert (first.passed, first.problem, first.detail, first.share) == ([True, True, False], "wrong", "0\n", 0.5)
    whole = await run_tests(sandbox, code, cases, stop_at_first=False)
    assert (whole.passed, whole.all_passed) == ([True, True, False, False], False)
    assert whole.cpu_seconds > 0
    assert not (await run_tests(sandbox, code, [])).all_passed


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("raise ValueError('no')", "error"),
        ("raise SystemExit(3)", "error"),
        ("syntax error", "error"),
        ("while True: pass", "time"),
        ("held = []\nwhile True: held.append(bytes(1 << 24))", "error"),
        ("import os\nos.abort()", "error"),
        ("open('big', 'wb').write(bytes(1 << 26))", "error"),
        ("import socket\nsocket.create_connection(('127.0.0.1', 1))", "error"),
    ],
)
async def test_why_a_program_fails(sandbox: LocalSandbox, code: str, problem: str) -> None:
    limits = Limits(cpu_seconds=0.5, wall_seconds=60.0, memory_bytes=256 << 20, file_bytes=1 << 20)
    report = await run_tests(sandbox, code, [Case("", "1")], limits=limits)
    assert (report.passed, report.problem) == ([False], problem)


async def test_a_program_that_prints_what_is_right_may_be_forgiven_its_exit_code(sandbox: LocalSandbox) -> None:
    code = "print(1)\nraise SystemExit(3)"
    assert not (await run_tests(sandbox, code, [Case("", "1")])).all_passed
    assert (await run_tests(sandbox, code, [Case("", "1")], any_exit=True)).all_passed
    assert not (await run_tests(sandbox, "print(1)\n1 / 0", [Case("", "1")], any_exit=True)).all_passed


@pytest.mark.parametrize(
    ("code", "passes"),
    [
        ("def f(a, b):\n    return [a, b]", True),
        ("def f(a, b):\n    return (a, b)", True),
        ("f = lambda a, b: [a, b]", True),
        ("class Solution:\n    def f(self, a, b):\n        return [a, b]", True),
        ("def f(a, b):\n    print([a, b])", False),
        ("class Equal(list):\n    __eq__ = lambda *_: True\ndef f(a, b):\n    return Equal()", False),
        ("import json\njson.dumps = lambda *_, **__: '[1, \"x\\\\ny\"]'\ndef f(a, b): return 0", False),
    ],
)
async def test_a_functions_value_is_compared_outside(sandbox: LocalSandbox, code: str, passes: bool) -> None:
    report = await run_tests(sandbox, code, [Case([1, "x\ny"], [1, "x\ny"], "f"), Case([2, "z'\""], [2, "z'\""], "f")])
    assert report.all_passed is passes, report


async def test_each_test_is_a_fresh_program(sandbox: LocalSandbox) -> None:
    code = "import os\nprint(len(os.listdir('.')))\nopen('left', 'w').close()"
    report = await run_tests(sandbox, code, [Case("", "0"), Case("", "0")])
    assert report.all_passed, report
