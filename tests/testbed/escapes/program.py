"""One escape, and what its program finds at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kubegym.sandbox.protocol import Execution, Limits

LIMITS = Limits(
    cpu_seconds=3, wall_seconds=60, memory_bytes=128 << 20, file_bytes=16 << 20, disk_bytes=32 << 20, files=500
)
TREE = Limits(
    cpu_seconds=4,
    wall_seconds=60,
    memory_bytes=128 << 20,
    processes=8,
    threads=8,
    file_bytes=16 << 20,
    disk_bytes=32 << 20,
    files=500,
)
"""For programs that were allowed processes."""

WAITING = replace(LIMITS, wall_seconds=4)
"""For programs that wait until that is over."""

PRELUDE = '''
import ctypes, errno, json, os, sys
WORLD = json.load(open("world.json"))
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def attempt(function, *allowed):
    """Try; a refusal is containment, and so is one of the allowed results."""
    try:
        result = function()
    except (Exception, SystemExit) as error:
        print("CONTAINED", type(error).__name__, getattr(error, "errno", ""), flush=True)
        return None
    if result in allowed:
        print("CONTAINED", repr(result)[:100], flush=True)
    else:
        print("ESCAPED", repr(result)[:200], flush=True)
    return result

def call(number, *arguments):
    """A system call by number (x86-64)."""
    converted = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_void_p(a) if a is None else ctypes.c_long(a)
                 if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *converted)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def read(path):
    with open(path, "rb") as file:
        return file.read(200)
'''


def printed(execution: Execution) -> bool:
    """Every attempt was refused, and there was one."""
    return "CONTAINED" in execution.stdout and "ESCAPED" not in execution.stdout


def stopped(*limits: str) -> Callable[[Execution], bool]:
    """One of these limits ended it, or its own error did; nothing escaped."""
    return lambda execution: execution.stopped in limits and "ESCAPED" not in execution.stdout


@dataclass(frozen=True)
class Escape:
    """A way out that somebody may try.

    Attributes:
        name: unique, for the test's name.
        tries: what it tries, in a sentence.
        code: the program, after ``PRELUDE``; empty with ``argv``.
        contained: whether what came of it is containment.
        argv: another program than Python.
        files: beside ``world.json``.
        limits: see there.
        value: the expression asked for.
        stdin: what it reads.
        collect: files asked for.
        before: a program that runs in the same place just before, for what it may leave.
    """

    name: str
    tries: str
    code: str = ""
    contained: Callable[[Execution], bool] = printed
    argv: Sequence[str] | None = None
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    limits: Limits = LIMITS
    value: str | None = None
    stdin: str = ""
    collect: Sequence[str] = ()
    before: str | None = None


def one(name: str, tries: str, expression: str, *allowed: str, setup: str = "", **options: object) -> Escape:
    """An escape that is one expression."""
    arguments = ", ".join([f"lambda: {expression}", *allowed])
    return Escape(name, tries, f"{setup}\nattempt({arguments})", **options)  # type: ignore[arg-type]
