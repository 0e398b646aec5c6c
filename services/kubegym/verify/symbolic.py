"""Whether two mathematical expressions are equal, by math-verify. Needs the extra ``verify``.

SymPy may compute for ever, so it does in a process of its own that is killed at a limit of CPU time. The event loop
never waits for it (``python -m benchmarks symbolic`` measures that).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from kubegym.core.errors import InvalidSpec
from kubegym.resources.limits import CpuTimeExceeded, ProcessDied, WallTimeExceeded
from kubegym.resources.offload import pool
from kubegym.verify.text import undelimited

VERSION = "symbolic-1"
"""Raised when verdicts change. The library's own version: ``library_version``."""

CPU_SECONDS = 10.0

TROUBLE = (ProcessDied, WallTimeExceeded)
"""What ``compare`` raises where the process, or the machine, was in trouble."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of comparing.

    Attributes:
        equal: whether the answer is the expected expression.
        extracted: what was read as the answer; None for nothing.
        stopped: comparing took more CPU time than allowed.
    """

    equal: bool
    extracted: str | None
    stopped: bool = False


def require() -> None:
    """Say early what is missing, without importing it; for ``setup``. Raises InvalidSpec."""
    if find_spec("math_verify") is None:
        raise InvalidSpec("symbolic math needs math-verify: pip install 'kubegym[verify]'", reason="MissingDependency")


def library_version() -> str:
    """The version of math-verify; empty where there is none."""
    try:
        return version("math-verify")
    except PackageNotFoundError:
        return ""


async def compare(expected: str, text: str, *, cpu_seconds: float = CPU_SECONDS) -> Comparison:
    r"""Compare the answer in a text with an expression.

    Args:
        expected: the right one, in LaTeX or plain; ``$...$`` or ``\(...\)`` around it is taken off.
        text: where the answer stands: the last ``\boxed{}``, else what looks like one most. To judge nothing but what
            the policy declared its answer, give ``\boxed{...}`` around ``verify.text.boxed(text)``.
        cpu_seconds: CPU time for all of it. An answer that needs more is not equal (DESIGN 3.2: computing is the
            answer's doing); one that only got no processor raises.

    Raises:
        ProcessDied: SymPy's process crashed, or was killed.
        WallTimeExceeded: the machine was too busy; in ``verify`` this is "VerifierStarved", which is retried.
        ModuleNotFoundError: math-verify is not installed, see ``require``.
    """
    gold = f"\\boxed{{{undelimited(expected)}}}"
    try:
        equal, extracted = await pool().run("kubegym.verify.symbolic_child", "compare", (gold, text), {}, cpu_seconds)
    except CpuTimeExceeded:
        return Comparison(False, None, stopped=True)
    return Comparison(equal, extracted)
