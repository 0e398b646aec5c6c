"""``@offload``: heavy sync code runs in killable processes beside the event loop.

The method is named by module and qualified name, its arguments are pickled. For a method of an environment the instance
travels too: ``config``, ``task``, ``row``, the random generators and every attribute of its own that pickle can carry;
``shared``, ``models`` and ``logger`` stay behind. What comes back is the return value alone: changes that the method
makes to ``self`` are lost, so return what you need. Classes must be importable: defined in a module, not in a function,
notebook or ``__main__``.

A process runs one call at a time and is kept for the next. CPU time over the limit kills it (``CpuTimeExceeded``, also
enforced by the kernel should this process die); wall time over four times that without reaching the CPU limit kills it,
too (``WallTimeExceeded``), where what it waited for a processor does not count; its own death is ``ProcessDied``. CPU
time of processes that the method starts counts from the moment they have been waited for.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import inspect
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar, overload

from kubegym.resources.limits import CpuTimeExceeded, ProcessDied, WallTimeExceeded
from kubegym.resources.loader import registered_folders
from kubegym.sandbox.proc import thread_queued_seconds

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_CPU_SECONDS = 60.0
WALL_FACTOR = 4.0
_POLL_SECONDS = 0.1


@overload
def offload(function: Callable[P, T], /) -> Callable[P, Coroutine[Any, Any, T]]: ...
@overload
def offload(
    *, cpu_seconds: float = DEFAULT_CPU_SECONDS
) -> Callable[[Callable[P, T]], Callable[P, Coroutine[Any, Any, T]]]: ...
def offload(function: Callable[P, T] | None = None, /, *, cpu_seconds: float = DEFAULT_CPU_SECONDS) -> Any:
    """Run a sync function or method in a process of its own; calling it gives something to await.

    Works for hooks and tools (the runtime awaits them) and for functions you call yourself. See the module for what
    travels. The plain function stays reachable as ``__wrapped__``.

    Args:
        function: what to run, when used without parentheses.
        cpu_seconds: CPU time of one call.

    Raises:
        TypeError: on an async function, which needs no process to stay out of the way.
    """

    def wrap(target: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
        if inspect.iscoroutinefunction(target):
            raise TypeError(f"{target.__qualname__} is async; @offload is for sync code that computes")

        @functools.wraps(target)
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return await pool().run(target.__module__, target.__qualname__, args, kwargs, cpu_seconds)  # type: ignore[no-any-return]

        return call

    return wrap if function is None else wrap(function)


class OffloadPool:
    """Processes for offloaded calls, started when first needed.

    Args:
        processes: how many calls run at once; the others wait, and waiting counts against no limit.
    """

    def __init__(self, processes: int | None = None) -> None:
        self.processes = processes or os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(self.processes, thread_name_prefix="kubegym-offload")
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()

    async def run(
        self, module: str, qualname: str, args: tuple[Any, ...], kwargs: dict[str, Any], cpu_seconds: float
    ) -> Any:
        """Call a function in a process. Raises what it raises, CpuTimeExceeded, WallTimeExceeded or ProcessDied."""
        if "<locals>" in qualname or module == "__main__":
            raise TypeError(f"@offload cannot reach {qualname}: define it in a module that can be imported")
        try:
            call = pickle.dumps((module, qualname, args, kwargs), protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise TypeError(f"@offload cannot send {qualname} its arguments: {error}") from error
        cancelled = threading.Event()
        job = (registered_folders(), call, cpu_seconds)
        try:
            answer = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._run, qualname, job, cpu_seconds, cancelled
            )
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return _value(answer)

    def close(self) -> None:
        """End the idle processes; running calls end first."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        while True:
            try:
                self._idle.get_nowait().kill()
            except queue.Empty:
                return

    def _run(self, qualname: str, job: tuple[Any, ...], cpu_seconds: float, cancelled: threading.Event) -> Any:
        if cancelled.is_set():
            return None
        process = self._take()
        try:
            answer = process.ask(qualname, job, cpu_seconds, cancelled)
        except BaseException:
            process.kill()
            raise
        self._idle.put(process)
        return answer

    def _take(self) -> _Process:
        while True:
            try:
                process = self._idle.get_nowait()
            except queue.Empty:
                return _Process()
            if process.alive():
                return process
            process.kill()


class _Process:
    """One child and the socket to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # A session of its own: Ctrl-C is the parent's affair, and a kill takes what the method started along.
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "kubegym.resources.offload_child", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
            )
        self._connection = Connection(ours.detach())

    def alive(self) -> bool:
        return self._popen.poll() is None

    def ask(self, qualname: str, job: tuple[Any, ...], cpu_seconds: float, cancelled: threading.Event) -> Any:
        self._connection.send_bytes(pickle.dumps(job))
        early = self._until_ready(qualname, cancelled)
        if early is not None:
            return early
        started, cpu_before, queued_before = time.monotonic(), self._cpu_time(), thread_queued_seconds(self._popen.pid)
        wall_seconds = WALL_FACTOR * cpu_seconds
        while not self._connection.poll(_POLL_SECONDS):
            if cancelled.is_set():
                raise ProcessDied(f"{qualname} was cancelled")
            if self._cpu_time() - cpu_before >= cpu_seconds:
                raise CpuTimeExceeded(f"{qualname} computed for more than {cpu_seconds:g} s in its process")
            queued = thread_queued_seconds(self._popen.pid) - queued_before
            late = time.monotonic() - started - queued >= wall_seconds
            if late and not self._connection.poll():  # its answer may have come while we ourselves stood still
                raise WallTimeExceeded(
                    f"{qualname} did not end in {wall_seconds:g} s and computed for less than "
                    f"{cpu_seconds:g} s of them; the machine is busy or it waits"
                )
        return self._receive(qualname, cpu_seconds)

    def _until_ready(self, qualname: str, cancelled: threading.Event) -> Any:
        """Wait until the child has the call; starting Python and importing are not the call's time.

        None, or the answer where the child could not even begin.
        """
        deadline = time.monotonic() + 120
        while not self._connection.poll(_POLL_SECONDS):
            if cancelled.is_set():
                raise ProcessDied(f"{qualname} was cancelled")
            if time.monotonic() >= deadline:
                raise WallTimeExceeded(f"the process for {qualname} did not start in 120 s")
        return self._receive(qualname, 0.0)

    def _receive(self, qualname: str, cpu_seconds: float) -> Any:
        try:
            return pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            code = self._popen.wait(timeout=10)
            if code == -signal.SIGXCPU:
                raise CpuTimeExceeded(f"{qualname} computed for more than {cpu_seconds:g} s in its process") from None
            raise ProcessDied(f"the process that ran {qualname} ended with {_ending(code)}") from None

    def kill(self) -> None:
        self._connection.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()

    def _cpu_time(self) -> float:
        """CPU seconds of the child, 0 where the platform does not tell (the kernel's own limit holds then)."""
        try:
            # The clock id of another process's CPU time, as clock_getcpuclockid(3) computes it on Linux.
            return time.clock_gettime((~self._popen.pid << 3) | 2)
        except OSError:
            return 0.0


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _value(answer: Any) -> Any:
    kind, value = answer
    if kind == "returned":
        return value
    raise value


@functools.cache
def pool() -> OffloadPool:
    """This process's pool, for all environments."""
    shared = OffloadPool()
    atexit.register(shared.close)
    return shared
