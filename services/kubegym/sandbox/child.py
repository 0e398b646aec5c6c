"""What happens in the forked child: the walls, one after the other, then the program. It never returns.

The order matters. Files are written by the user that owns them; Landlock and the filter come last, because they refuse
what the steps before need; the program's code is looked at only when they stand.
"""

from __future__ import annotations

import contextlib
import gc
import json
import linecache
import marshal
import os
import resource
import signal
import socket
import struct
import sys
import threading
import traceback
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

from kubegym.sandbox import kernel
from kubegym.sandbox.syscalls import LISTENER_DESCRIPTOR

PROGRAM = "program.py"
"""What tracebacks call the code."""

VALUE_DESCRIPTOR = 3
COMMANDS_DESCRIPTOR = 4
_FIRST_CLOSED = 5
WALL_FAILED = 125
"""Exit code of a child that could not build its walls, and ran nothing."""

WALLS_STAND = b"+"
"""The child's message when all of its walls stand; any other says why they do not."""

LENGTH = struct.Struct("!I")
_DESCRIPTOR = struct.Struct("@i")


@dataclass(frozen=True, slots=True)
class Place:
    """Where and behind what a child runs; made by its warden.

    Attributes:
        uid: the user it becomes; None stays the one it is.
        scratch: its folder.
        rules: descriptors and Landlock rights of what it may read.
        abi: of Landlock; 0 to do without.
        program: the filter; None to do without.
        listen: whether the filter has a listener.
        kept: descriptors that stay open: of folders that the program may read, but could not reach by path.
    """

    uid: int | None
    scratch: str
    rules: tuple[tuple[int, int], ...]
    abi: int
    program: kernel.Program | None
    listen: bool
    kept: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Streams:
    """The child's ends: stdin, stdout, stderr, the value, commands of a session (or -1), and the warden's socket."""

    payload: int
    stdin: int
    stdout: int
    stderr: int
    value: int
    commands: int
    listener: socket.socket


def run(place: Place, streams: Streams, limits: dict[str, float], base_bytes: int) -> NoReturn:
    """Build the walls and run the program in the payload.

    Args:
        place: see there.
        streams: see there.
        limits: as in ``Limits.to_dict``.
        base_bytes: address space that the fork server had already.
    """
    warden = streams.listener
    try:
        head = LENGTH.unpack(os.pread(streams.payload, LENGTH.size, 0))[0]
        payload = marshal.loads(os.pread(streams.payload, head, LENGTH.size))
        _take_streams(streams)
        warden = socket.socket(fileno=LISTENER_DESCRIPTOR)
        _limit(limits, base_bytes, place.uid is not None, warm="argv" not in payload)
        _become(place.uid)
        _fill(place.scratch, payload["files"], LISTENER_DESCRIPTOR - 1, LENGTH.size + head)
        _wall_in(place, warden)
        warden.close()
        _close_others(_FIRST_CLOSED - (streams.commands < 0), place.kept)
    except BaseException as error:
        with contextlib.suppress(OSError):
            warden.send(f"{type(error).__name__}: {error}".encode())
        os._exit(WALL_FAILED)
    if "argv" in payload:
        _execute_other(payload["argv"])
    gc.enable()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # or every program would draw the fork server's numbers
    if "session" in payload:
        _session()
    code, value = _execute(payload["code"], payload.get("value"), vars(sys.modules["__main__"]))
    if value is not None:
        _write_all(VALUE_DESCRIPTOR, value)
    _exit(code)


def _take_streams(streams: Streams) -> None:
    """Put descriptors at their places; above them stay only the payload's and the warden's socket, for a moment."""
    ends = [streams.stdin, streams.stdout, streams.stderr, streams.value]
    if streams.commands >= 0:
        ends.append(streams.commands)
    high = [os.dup2(end, LISTENER_DESCRIPTOR + 2 + index) for index, end in enumerate(ends)]
    os.dup2(streams.listener.fileno(), LISTENER_DESCRIPTOR)
    os.dup2(streams.payload, LISTENER_DESCRIPTOR - 1)
    for index, end in enumerate(high):
        os.dup2(end, index)
        os.close(end)
    if streams.commands < 0:
        with contextlib.suppress(OSError):
            os.close(COMMANDS_DESCRIPTOR)


def _limit(limits: dict[str, float], base_bytes: int, alone: bool, *, warm: bool) -> None:
    """Rlimits. A program of its own may reserve address space without end, as runtimes do; its data is limited."""
    memory = int(limits["memory_bytes"])
    cpu = int(limits["cpu_seconds"]) + 1
    tasks = int((limits["processes"] + 1) * (limits["threads"] + 1))
    wanted = {
        resource.RLIMIT_FSIZE: int(limits["file_bytes"]),
        resource.RLIMIT_NOFILE: int(limits["descriptors"]),
        resource.RLIMIT_AS if warm else resource.RLIMIT_DATA: memory + (base_bytes if warm else 0),
    }
    if alone:  # the count is a user's: with a user of one's own it is this execution's
        wanted[resource.RLIMIT_NPROC] = tasks
    for which, value in wanted.items():
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))  # a second for a program that handles the first signal


def _become(uid: int | None) -> None:
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if os.geteuid() == 0:
        raise PermissionError("the program would run as root")
    os.umask(0o077)
    warden = os.getppid()
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # forgotten by the kernel when the user changes: set after
    if os.getppid() != warden:
        os._exit(WALL_FAILED)


def _fill(scratch: str, files: list[tuple[str, int]], source: int, offset: int) -> None:
    """Write the caller's files, whose bytes follow each other in the payload from ``offset``."""
    os.chdir(scratch)
    for path, size in files:
        folder = os.path.dirname(path)
        if folder:
            os.makedirs(folder, exist_ok=True)
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o700)
        end = offset + size
        while offset < end:
            sent = os.sendfile(target, source, offset, end - offset)
            if not sent:
                raise OSError("the payload is shorter than it says")
            offset += sent
        os.close(target)


def _wall_in(place: Place, warden: socket.socket) -> None:
    """no_new_privs, Landlock, seccomp; then an empty message to the warden, with the filter's listener if it has one.

    The filter lets ``sendmsg`` through on that descriptor alone.
    """
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if place.abi:
        ruleset = kernel.landlock_ruleset(place.abi)
        for descriptor, rights in place.rules:
            kernel.landlock_allow(ruleset, descriptor, rights)
        scratch = os.open(".", os.O_PATH | os.O_DIRECTORY)
        kernel.landlock_allow(ruleset, scratch, kernel.rights_of(kernel.SCRATCH, place.abi))
        kernel.landlock_restrict_self(ruleset)
    if place.program is not None and place.listen:
        listener = _DESCRIPTOR.pack(place.program.load(listen=True))
        warden.sendmsg([WALLS_STAND], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, listener)])
        return
    if place.program is not None:
        place.program.load(listen=False)
    os.write(warden.fileno(), WALLS_STAND)


def _close_others(first: int, kept: tuple[int, ...]) -> None:
    """Close every descriptor from ``first`` on but those kept."""
    for descriptor in (*sorted(kept), 1 << 20):
        if first < descriptor:  # Python 3.13 takes an empty range beyond the limit of descriptors for all that follow
            os.closerange(first, descriptor)
        first = descriptor + 1


def _execute_other(argv: list[str]) -> NoReturn:
    """Become another program. Nothing of ours is inherited but the streams 0, 1, 2."""
    os.closerange(VALUE_DESCRIPTOR, _FIRST_CLOSED)
    for which in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(which, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, dict(os.environ))
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        os._exit(126 if isinstance(error, PermissionError) else 127)


def prepare(scratch: str) -> None:
    """In the warden, once: make the interpreter look as if it had been started for a program in ``scratch``.

    Everything done here is done for all of its programs, and costs them nothing.
    """
    for name in [name for name in sys.modules if name == "kubegym" or name.startswith("kubegym.")]:
        del sys.modules[name]
    sys.modules["__main__"] = ModuleType("__main__")
    sys.argv = [PROGRAM]
    sys.path.insert(0, scratch)
    for name in ("HOME", "TMPDIR"):
        os.environ[name] = scratch
    _open_streams()
    for which, value in _SAME_FOR_ALL.items():
        resource.setrlimit(which, (min(value, resource.getrlimit(which)[0]) if value else 0,) * 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _open_streams() -> None:
    """Text streams over 0, 1 and 2, as long as these are pipes: a stream remembers what it was opened on."""
    saved = [os.dup(descriptor) for descriptor in range(3)]
    reading, writing = os.pipe()
    for descriptor, end in enumerate((reading, writing, writing)):
        os.dup2(end, descriptor)
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    for descriptor, original in enumerate(saved):
        os.dup2(original, descriptor)
        os.close(original)
    os.close(reading)
    os.close(writing)


_SAME_FOR_ALL = {
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_MEMLOCK: 64 << 10,
    resource.RLIMIT_MSGQUEUE: 0,
    resource.RLIMIT_NICE: 0,
    resource.RLIMIT_RTPRIO: 0,
}


def _execute(code: str, value: str | None, namespace: dict[str, Any]) -> tuple[int, bytes | None]:
    """Run code; its exit code, and the value of an expression as JSON where there is one."""
    linecache.cache[PROGRAM] = (len(code), None, code.splitlines(keepends=True), PROGRAM)
    try:
        exec(compile(code, PROGRAM, "exec"), namespace)
        if value is None:
            return 0, None
        return 0, json.dumps(eval(compile(value, "value", "eval"), namespace), allow_nan=False).encode()
    except SystemExit as end:
        return _exit_code(end.code), None
    except BaseException as error:
        _print_error(error)
        return 1, None


def _exit_code(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def _print_error(error: BaseException) -> None:
    """The traceback, without our own frames."""
    shown = error.__traceback__
    while shown is not None and shown.tb_frame.f_code.co_filename == __file__:
        shown = shown.tb_next
    try:
        traceback.print_exception(type(error), error, shown)
    except BaseException:  # its own __str__ or memory, once more
        os.write(2, f"{type(error).__name__}\n".encode())


def _exit(code: int) -> NoReturn:
    """End as an interpreter does: wait for threads, call what atexit knows, flush."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        import atexit

        atexit._run_exitfuncs()
        sys.stdout.flush()
    except SystemExit as end:
        code = _exit_code(end.code)
    except BaseException as error:
        _print_error(error)
        code = code or 120  # as an interpreter whose last flush failed
    with contextlib.suppress(BaseException):
        sys.stderr.flush()
    os._exit(code)


def _session() -> NoReturn:
    """Say that it is there, and run what comes in, one call after the other, until the caller hangs up."""
    namespace = vars(sys.modules["__main__"])
    _write_all(VALUE_DESCRIPTOR, LENGTH.pack(0))
    while (head := _read_all(COMMANDS_DESCRIPTOR, LENGTH.size)) is not None:
        body = _read_all(COMMANDS_DESCRIPTOR, LENGTH.unpack(head)[0])
        if body is None:
            break
        call = json.loads(body)
        code, value = _execute(call["code"], call["value"], namespace)
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        answer = b"%s %d %s" % (call["call"].encode(), code, value or b"")
        _write_all(VALUE_DESCRIPTOR, LENGTH.pack(len(answer)) + answer)
    _exit(0)


def _read_all(descriptor: int, size: int) -> bytes | None:
    chunks = []
    while size:
        chunk = os.read(descriptor, min(size, 1 << 20))
        if not chunk:
            return None
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
