"""Judging a program by tests, in the sandbox. The expected outputs never enter it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from kubegym.sandbox import Execution, Limits, Sandbox

VERSION = "programs-1"
"""Raised when verdicts change."""

Problem = Literal["wrong", "error", "time", "memory", "limit"]
"""Why a test failed: another output, an exception or exit code, CPU time, memory, another limit."""

LIMITS = Limits(cpu_seconds=10.0, wall_seconds=30.0, memory_bytes=4 << 30)
"""Of one test. CPU time decides; wall time is there for programs that sleep."""

_STARRED = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing"),
)
PRELUDE = "\n".join(
    [
        *(f"from {module} import *" for module in _STARRED),
        f"import {', '.join(module for module in _STARRED if module not in ('builtins', 'typing'))}",
        "sys.setrecursionlimit(50_000)",
        "",
    ]
)
"""The names that programs of the LiveCodeBench format may use without importing them."""

_TOLERANCE = Decimal("1e-6")
_STOPPED: dict[str, Problem] = {"cpu": "time", "wall": "time", "memory": "memory"}
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Case:
    """One test of a program.

    Attributes:
        given: what it reads from stdin, or the arguments of a function (``call``).
        expected: what it has to print, or to return, as JSON values.
        call: the function to call; empty for a program that reads and prints. A class ``Solution`` holds it where the
            program has one.
    """

    given: Any
    expected: Any
    call: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a program's tests.

    Attributes:
        passed: one entry a test that was run, in order.
        total: how many tests there are.
        problem: why the first failing test failed; None where none did.
        detail: what it printed or raised instead, cut.
        cpu_seconds: of all runs.
    """

    passed: list[bool] = field(default_factory=list)
    total: int = 0
    problem: Problem | None = None
    detail: str = ""
    cpu_seconds: float = 0.0

    @property
    def all_passed(self) -> bool:
        """Whether every test passed, and there was one."""
        return self.total > 0 and len(self.passed) == self.total and all(self.passed)

    @property
    def share(self) -> float:
        """Share of all tests that passed; tests that were not run did not."""
        return sum(self.passed) / self.total if self.total else 0.0


async def run_tests(
    sandbox: Sandbox,
    code: str,
    cases: Sequence[Case],
    *,
    limits: Limits = LIMITS,
    prelude: str = PRELUDE,
    stop_at_first: bool = True,
    any_exit: bool = False,
) -> Report:
    """Run a program on every test, each time afresh.

    Args:
        sandbox: ``self.sandbox``.
        code: a Python program.
        cases: the tests, in order.
        limits: of each test.
        prelude: code that goes before the program; empty for none.
        stop_at_first: leave the tests out that come after one that failed.
        any_exit: judge what a program printed also where it ended with ``sys.exit(1)``, but not by an exception.

    Raises:
        SandboxError: the sandbox could not do its part.
    """
    passed: list[bool] = []
    problem: Problem | None = None
    detail, seconds = "", 0.0
    for case in cases:
        done = await _execute(sandbox, prelude + code, case, limits)
        seconds += done.cpu_seconds
        trouble = _judge(done, case, any_exit)
        passed.append(trouble is None)
        if trouble is None:
            continue
        if problem is None:
            problem, detail = trouble, _detail(done, case)
        if stop_at_first:
            break
    return Report(passed, len(cases), problem, detail, seconds)


def same_output(actual: str, expected: str) -> bool:
    """Whether two outputs are the same, line by line: by text, else number by number.

    Spaces at both ends of a line and empty lines at both ends of the whole do not count. Numbers may differ by 1e-6,
    absolute or relative, where one of the two is written as a fraction; integers are exact, however large.
    """
    ours = [line.strip() for line in actual.strip().split("\n")]
    right = [line.strip() for line in expected.strip().split("\n")]
    return len(ours) == len(right) and all(map(_same_line, ours, right))


def same_value(actual: Any, expected: Any) -> bool:
    """Whether two JSON values are the same; single numbers may differ by 1e-5 relative, as in numpy's ``allclose``."""
    if actual == expected:
        return True
    if not isinstance(actual, int | float | str) or not isinstance(expected, int | float | str):
        return False
    try:
        ours, right = float(actual), float(expected)
    except (ValueError, OverflowError):
        return False
    return math.isfinite(ours) and abs(ours - right) <= 1e-8 + 1e-5 * abs(right)


async def _execute(sandbox: Sandbox, code: str, case: Case, limits: Limits) -> Execution:
    if not case.call:
        return await sandbox.run(code, stdin=case.given, limits=limits)
    owner = "Solution()." if "class Solution" in code else ""
    arguments = json.dumps(json.dumps(case.given))
    value = f"{owner}{case.call}(*__import__('json').loads({arguments}))"
    return await sandbox.run(code, limits=limits, value=value)


def _judge(done: Execution, case: Case, any_exit: bool) -> Problem | None:
    if done.stopped is not None:
        return _STOPPED.get(done.stopped, "limit")
    if case.call:
        if not done.has_value:
            return "error"
        return None if same_value(done.value, case.expected) else "wrong"
    if not done.ok and not (any_exit and done.exit_code is not None and "Traceback" not in done.stderr):
        return "error"
    return None if same_output(done.stdout, case.expected) else "wrong"


def _detail(done: Execution, case: Case) -> str:
    if done.stopped is not None:
        return f"stopped by its limit: {done.stopped}"
    text = repr(done.value) if case.call and done.has_value else done.stdout if done.ok else done.stderr[-_SHOWN:]
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _same_line(actual: str, expected: str) -> bool:
    if actual == expected:
        return True
    ours, right = actual.split(), expected.split()
    return len(ours) == len(right) and all(map(_same_number, ours, right))


def _same_number(actual: str, expected: str) -> bool:
    try:
        ours, right = Decimal(actual), Decimal(expected)
        if ours == right:
            return True
    except (InvalidOperation, ValueError):
        return False
    if not any("." in text or "e" in text.lower() for text in (actual, expected)):
        return False
    if not (ours.is_finite() and right.is_finite()):
        return False
    return abs(ours - right) <= _TOLERANCE * max(abs(right), Decimal(1))
