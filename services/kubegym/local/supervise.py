"""A process that watches over the worker: a crash ends the worker, never the run (DESIGN 3.3, section 6 step 5).

The worker is forked before anything heavy is imported, does everything, and writes its exit code into shared memory
when it is done. A worker that ended without (a segmentation fault, ``os._exit`` in a verifier, the kernel's OOM
killer, environment code that blocked it for good) is started again; it resumes, and runs what had been in flight in
isolation. That is bounded by starts in a row that settled nothing.

Shared memory rather than a pipe: it never blocks the writer, outlives a crash, and is not held open by a grandchild.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

MAX_BARREN_STARTS = 5
"""Starts in a row without a newly settled rollout, after which the run is given up."""

STOPPING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # no SIGHUP on Windows
_PR_SET_PDEATHSIG = 1


class Reports:
    """What a worker tells whoever watches over it. Lies in memory that both share.

    Layout: announced (1 byte), exit code (4), settled rollouts (8), length of the output's name (4), the name.
    """

    _HEAD = struct.Struct("<?iqI")
    _SIZE = 64 << 10

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._SIZE)

    @property
    def exit_code(self) -> int | None:
        """The worker's exit code; None while it has not announced one."""
        announced, code, _, _ = self._read()
        return code if announced else None

    @property
    def settled(self) -> int:
        """Rollouts that had a result when the worker last looked."""
        return self._read()[2]

    @property
    def output(self) -> str | None:
        """Where the run writes, once that is known: a worker that is started again goes on there."""
        length = self._read()[3]
        return self._memory[self._HEAD.size : self._HEAD.size + length].decode() if length else None

    def announce(self, code: int) -> None:
        """Work is over; ``code`` is the exit code, whatever still happens to the process."""
        _, _, settled, length = self._read()
        self._HEAD.pack_into(self._memory, 0, True, code, settled, length)

    def progress(self, settled: int) -> None:
        """So many rollouts have a result."""
        announced, code, _, length = self._read()
        self._HEAD.pack_into(self._memory, 0, announced, code, settled, length)

    def opened(self, output: str) -> None:
        """The run writes there."""
        name = output.encode()[: self._SIZE - self._HEAD.size]
        self._memory[self._HEAD.size : self._HEAD.size + len(name)] = name
        announced, code, settled, _ = self._read()
        self._HEAD.pack_into(self._memory, 0, announced, code, settled, len(name))

    def _read(self) -> tuple[bool, int, int, int]:
        fields: tuple[bool, int, int, int] = self._HEAD.unpack_from(self._memory, 0)
        return fields


class Signals:
    """SIGINT, SIGTERM and SIGHUP, from the first moment on: remembered, and told to one listener.

    Attributes:
        received: the first one; None while there is none.
        count: how many.
        listener: told of each, in the main thread between two instructions.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.count = 0
        self.listener: Callable[[signal.Signals], None] | None = None

    @contextlib.contextmanager
    def caught(self) -> Iterator[Signals]:
        """Catch them within the block. What is ignored (``nohup``) stays ignored."""
        before = {number: signal.getsignal(number) for number in STOPPING}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.received = self.received or signal.Signals(number)
        if self.listener is not None:
            self.listener(signal.Signals(number))


Work = Callable[[Reports, Signals], int]
"""The worker's work, from nothing to its exit code. Called once in every process that is started."""


def supervise(work: Work, say: Callable[[str], None]) -> int:
    """Do the work in a child process and return its exit code, in the parent and in the child.

    SIGTERM and SIGHUP are handed on to the child, which then ends cleanly; a second signal kills it. A child never
    outlives its parent (Linux).

    Args:
        work: must end soon after a signal.
        say: tells the user that the worker died, and what follows.

    Raises:
        RuntimeError: threads run already; a fork would lose them.
    """
    signals = Signals()
    with signals.caught():
        if not hasattr(os, "fork"):
            return work(Reports(), signals)
        if threading.active_count() != 1:
            raise RuntimeError("the worker must be started before any thread is")
        return _watch(work, say, signals)


def _watch(work: Work, say: Callable[[str], None], signals: Signals) -> int:
    reports = Reports()
    barren = most = 0
    while True:
        child = _fork(signals)
        if child == 0:
            code = work(reports, signals)
            reports.announce(code)
            return code
        death = _described(_wait(child, signals))
        if reports.exit_code is not None:
            return reports.exit_code
        if signals.received is not None:
            return 128 + signals.received
        barren = 0 if reports.settled > most else barren + 1
        most = max(most, reports.settled)
        if barren >= MAX_BARREN_STARTS:
            say(
                f"error: the worker {death}, and {barren} starts in a row finished no rollout. What is finished is "
                "saved; the same command goes on from there. Its log (--log-level debug) may say more. [WorkerCrashed]"
            )
            return 1
        say(f"the worker {death}; it is started again, and what was in flight runs in isolation")


def _fork(signals: Signals) -> int:
    """Fork with signals held back, so that none falls between two stools. Returns 0 in the child."""
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        child = os.fork()
        if child == 0:
            signals.listener = None
            die_with(parent)
        else:
            signals.listener = lambda number: _forward(child, number, signals)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    if child and signals.received is not None:
        _forward(child, signals.received, signals)
    return child


def _forward(child: int, number: signal.Signals, signals: Signals) -> None:
    """The first signal asks, which may come twice (a terminal's Ctrl-C reaches the child, too); the second kills."""
    with contextlib.suppress(ProcessLookupError):  # it ended by itself in this moment; the wait says how
        os.kill(child, number if signals.count < 2 else signal.SIGKILL)


def _wait(child: int, signals: Signals) -> int:
    _, status = os.waitpid(child, 0)  # goes on after a signal's handler ran (PEP 475)
    signals.listener = None
    return status


def _described(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended with exit code {code} in the middle of its work"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, whatever way (Linux)."""
    if sys.platform != "linux":
        return
    libc: Any = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it was gone before we asked
        os._exit(1)
