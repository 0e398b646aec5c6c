"""What runs untrusted code, as its callers see it: one protocol for this machine and for pods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, Protocol

from kubegym.sandbox.errors import InvalidExecution

MAX_DESCRIPTORS: Final = 500

Stopped = Literal["cpu", "wall", "memory", "disk", "output", "refusals"]
"""Which limit ended a program: CPU seconds, wall seconds, memory of all its processes, disk or files, output, or
refused system calls without end. A limit that the program meets as an error of its own (MemoryError, EAGAIN for one
process too many, EFBIG) ends nothing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one execution may use.

    Attributes:
        cpu_seconds: CPU time of all its processes.
        wall_seconds: time from start to end; time in which it waited for a busy processor is added, up to threefold.
        memory_bytes: of all its processes together.
        processes: how many it may have beside the first one, at any time. 0: it can start none.
        threads: how many threads it may have beside the first of each process.
        file_bytes: of a single file.
        disk_bytes: of all its files together.
        files: how many files and folders.
        descriptors: open at a time, at most 500.
        output_bytes: kept of stdout, of stderr and of the value, each; more is cut.
    """

    cpu_seconds: float = 10.0
    wall_seconds: float = 30.0
    memory_bytes: int = 512 << 20
    processes: int = 0
    threads: int = 32
    file_bytes: int = 64 << 20
    disk_bytes: int = 256 << 20
    files: int = 10_000
    descriptors: int = 128
    output_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for name, bound in _BOUNDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not bound[0] <= value <= bound[1]:
                raise InvalidExecution(f"limits.{name} is {value!r}; it has to be from {bound[0]:g} to {bound[1]:g}")

    def to_dict(self) -> dict[str, float]:
        """As JSON."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


_BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "cpu_seconds": (0.01, 86_400),
    "wall_seconds": (0.01, 86_400),
    "memory_bytes": (1 << 20, 1 << 44),
    "processes": (0, 4096),
    "threads": (0, 4096),
    "file_bytes": (0, 1 << 40),
    "disk_bytes": (0, 1 << 40),
    "files": (1, 1_000_000),
    "descriptors": (16, MAX_DESCRIPTORS),
    "output_bytes": (0, 64 << 20),
}


@dataclass(frozen=True, slots=True)
class Execution:
    """What came of a program: text, bytes, numbers and JSON, nothing that could run.

    All of it but ``exit_code``, ``signal``, ``stopped``, ``refused`` and the times is what the *program* says. Compare
    it with an answer that never entered the sandbox; never ask the program whether it passed.

    Attributes:
        stdout, stderr: what it wrote, UTF-8 with what is none replaced, cut at ``limits.output_bytes``.
        exit_code: None when a signal ended it. In a session: 0, or 1 after an exception.
        signal: the number of the signal that ended it.
        stopped: the limit that ended it, see ``Stopped``.
        value: what the asked expression had for a value, as JSON carries it; None when there is none.
        has_value: whether there is one: the program ran to its end and the expression gave JSON.
        files: contents of the files asked for, as far as they were there: regular, and no larger than asked.
        refused: system calls that were refused, each once, in order.
        cut: stdout or stderr is not whole.
        cpu_seconds: of all its processes, as far as they ended or were seen.
        wall_seconds: from the fork to the end.
    """

    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None
    signal: int | None = None
    stopped: Stopped | None = None
    value: Any = None
    has_value: bool = False
    files: Mapping[str, bytes] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    cut: bool = False
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether it ended by itself, with exit code 0."""
        return self.exit_code == 0 and self.stopped is None


class SandboxSession(Protocol):
    """A program that keeps its globals over several calls. After one that was stopped, further calls raise."""

    async def run(self, code: str, *, value: str | None = None) -> Execution:
        """Execute code in the session's globals. An exception of the code is its exit code 1.

        ``limits.wall_seconds`` and ``output_bytes`` hold for each call, all others for the session.

        Raises:
            SandboxLost: the session ended before this call.
        """
        ...


class Sandbox(Protocol):
    """Runs code that nobody trusts."""

    async def run(
        self,
        code: str | None = None,
        *,
        argv: Sequence[str] | None = None,
        files: Mapping[str, str | bytes] | None = None,
        stdin: str | bytes = b"",
        limits: Limits | None = None,
        value: str | None = None,
        collect: Sequence[str] = (),
    ) -> Execution:
        """Run a Python program, or any other, in a fresh place, and say what came of it.

        Args:
            code: a Python program, run in an interpreter whose libraries are loaded already.
            argv: another program and its arguments instead, by name or absolute path, with the same walls.
            files: text or bytes by relative path, in the program's working folder.
            stdin: what it reads.
            limits: default ``Limits()``.
            value: an expression, evaluated after ``code`` in its globals; its value comes back as JSON.
            collect: relative paths of files to bring back.

        Raises:
            InvalidExecution: arguments that cannot be run.
            SandboxError: the sandbox could not do its part.
        """
        ...

    def session(
        self, *, files: Mapping[str, str | bytes] | None = None, limits: Limits | None = None
    ) -> AbstractAsyncContextManager[SandboxSession]:
        """A program that keeps its globals, until the block ends."""
        ...

    async def close(self) -> None:
        """End every program, and the sandbox."""
        ...
