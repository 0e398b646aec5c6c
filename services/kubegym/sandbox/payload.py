"""A program on its way into the sandbox, and what came of it on its way out: memory files and small messages."""

from __future__ import annotations

import contextlib
import io
import marshal
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final

import orjson

from kubegym.sandbox.child import LENGTH
from kubegym.sandbox.errors import InvalidExecution, SandboxError, SandboxStarved
from kubegym.sandbox.protocol import Execution, Limits

_MOST_FILES: Final = 1000
_MOST_COLLECTED: Final = 100
_MOST_PATH: Final = 255


@dataclass(frozen=True, slots=True)
class Request:
    """One execution, checked.

    Attributes:
        payload: what the child reads: a marshalled object with its length before it, then the files.
        stdin: what the program reads.
        limits: see there.
        collect: paths of files to bring back.
        other: whether it is another program than Python code.
    """

    payload: bytes
    stdin: bytes
    limits: Limits
    collect: tuple[str, ...]
    other: bool

    @property
    def message(self) -> dict[str, Any]:
        """What the warden is told: numbers and names."""
        message = {"do": "run", "limits": self.limits.to_dict(), "other": self.other}
        return {**message, "collect": self.collect} if self.collect else message

    @contextlib.contextmanager
    def files(self) -> Iterator[list[BinaryIO]]:
        """Memory files of the payload, the output, and stdin if there is any."""
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(memory_file(self.payload)), stack.enter_context(memory_file(b""))]
            if self.stdin:
                files.append(stack.enter_context(read_only(self.stdin)))
            yield files


def request_of(
    code: str | None,
    argv: Sequence[str] | None,
    files: Mapping[str, str | bytes] | None,
    stdin: str | bytes,
    limits: Limits,
    value: str | None,
    collect: Sequence[str],
) -> Request:
    """Check what ``Sandbox.run`` was given. Raises InvalidExecution."""
    program: dict[str, Any] = {}
    if (code is None) == (argv is None):
        raise InvalidExecution("give code or argv, one of the two")
    if argv is not None:
        if value is not None:
            raise InvalidExecution("value is an expression of Python code; argv has none")
        if isinstance(argv, str) or not argv or not all(isinstance(each, str) and "\0" not in each for each in argv):
            raise InvalidExecution(f"argv is {argv!r}; it has to be a program and its arguments, without NUL")
        program["argv"] = list(argv)
    else:
        if not isinstance(code, str) or not isinstance(value, str | None):
            raise InvalidExecution("code and value are texts")
        program |= {"code": code, "value": value}
    if len(collect) > _MOST_COLLECTED:
        raise InvalidExecution(f"collect names {len(collect)} files; {_MOST_COLLECTED} is the most")
    return Request(
        _payload(program, files, limits),
        stdin.encode() if isinstance(stdin, str) else bytes(stdin),
        limits,
        tuple(_relative(path) for path in collect),
        argv is not None,
    )


def session_payload(files: Mapping[str, str | bytes] | None, limits: Limits) -> BinaryIO:
    """The memory file of a session. Raises InvalidExecution."""
    return memory_file(_payload({"session": True}, files, limits))


def _payload(program: dict[str, Any], files: Mapping[str, str | bytes] | None, limits: Limits) -> bytes:
    contents = {
        _relative(path): text.encode() if isinstance(text, str) else bytes(text) for path, text in (files or {}).items()
    }
    if len(contents) > min(_MOST_FILES, limits.files):
        raise InvalidExecution(f"{len(contents)} files; {min(_MOST_FILES, limits.files)} is the most")
    large = [path for path, data in contents.items() if len(data) > limits.file_bytes]
    if large or sum(map(len, contents.values())) > limits.disk_bytes:
        raise InvalidExecution(f"the files are larger than limits allow: {', '.join(large) or 'all together'}")
    program["files"] = [[path, len(data)] for path, data in contents.items()]
    head = marshal.dumps(program)  # for a child of the same interpreter, which reads it fastest
    return b"".join([LENGTH.pack(len(head)), head, *contents.values()])


def _relative(path: str) -> str:
    pure = PurePosixPath(path)
    if not path or "\0" in path or pure.is_absolute() or ".." in pure.parts or str(pure) == ".":
        raise InvalidExecution(f"{path!r} is no relative path of a file in the working folder")
    if any(len(os.fsencode(part)) > _MOST_PATH for part in pure.parts) or len(pure.parts) > 32:
        raise InvalidExecution(f"the path {path[:80]!r}... is too long")
    return str(pure)


def memory_file(data: bytes) -> BinaryIO:
    """An anonymous file in memory."""
    file = open(os.memfd_create("kubegym", os.MFD_CLOEXEC), "w+b", buffering=0)  # noqa: SIM115 - the caller's to close
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    return file


@contextlib.contextmanager
def read_only(data: bytes) -> Iterator[BinaryIO]:
    """Such a file that whoever gets it can only read."""
    with memory_file(data) as file, open(f"/proc/self/fd/{file.fileno()}", "rb", buffering=0) as reading:
        yield reading


def execution(report: Mapping[str, Any], request: Request, output: BinaryIO) -> Execution:
    """What the warden's report and the output file say. Raises SandboxError and SandboxStarved."""
    check_report(report)
    cap = request.limits.output_bytes
    at = output.fileno()
    stdout, stderr, value = (os.pread(at, size, index * cap) for index, size in enumerate(report["sizes"]))
    files = {path: _read(at, offset, size) for path, offset, size in report.get("files", ())}
    return outcome(report, stdout, stderr, value, files, cut=report["cut"])


def outcome(
    report: Mapping[str, Any],
    stdout: bytes,
    stderr: bytes,
    value: bytes,
    files: Mapping[str, bytes],
    *,
    cut: bool,
) -> Execution:
    """An execution of its parts."""
    has_value, parsed = parse_value(value)
    return Execution(
        stdout=stdout.decode(errors="replace"),
        stderr=stderr.decode(errors="replace"),
        exit_code=report["exit_code"],
        signal=report["signal"],
        stopped=report["stopped"],
        value=parsed,
        has_value=has_value,
        files=files,
        refused=tuple(report["refused"]),
        cut=cut,
        cpu_seconds=report["cpu_seconds"],
        wall_seconds=report["wall_seconds"],
    )


def check_report(report: Mapping[str, Any]) -> None:
    """Raise for what was not the program's doing."""
    if report["failed"] is not None:
        raise SandboxError(f"the program could not be started: {report['failed']}")
    if report["starved"]:
        raise SandboxStarved("the program waited for a processor for longer than it ran; the machine is overloaded")


def parse_value(data: bytes) -> tuple[bool, Any]:
    """A value as the program gave it; whatever is no JSON is none."""
    try:
        return True, orjson.loads(data)
    except orjson.JSONDecodeError:
        return False, None


def _read(descriptor: int, offset: int, size: int) -> bytes:
    buffer = io.BytesIO()
    while size > 0:
        data = os.pread(descriptor, min(size, 1 << 20), offset)
        if not data:
            break
        buffer.write(data)
        offset += len(data)
        size -= len(data)
    return buffer.getvalue()
