"""Suspects of a crash run in a child process, so that a poisoned rollout fails alone (DESIGN section 6, step 5).

After a worker died without releasing its shards, whatever was perhaps in flight is run in a child with a memory limit
below the worker's: first all together, which settles the innocent quickly; if the child dies, those left run one at a
time, and the second death under the same rollout is that rollout's failure, ``WorkerCrashed``. Deaths of the worker
itself count against nobody, nor does a child that cannot even start: that ends the run.

The child is a fresh interpreter (engines and stores do not survive a fork). Frames on a socket pair are length-
prefixed pickles between two processes of one user; nothing of them comes from a network.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import pickle
import resource
import signal
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from kubegym.core.errors import RunFailed, WorkerError
from kubegym.core.protocols import Assignment, Attempt, Episodes
from kubegym.rollout.scheduler import Work

log = logging.getLogger("kubegym.rollout")

Runner = Callable[[Assignment], Awaitable[Attempt]]
_LENGTH = struct.Struct("!Q")
START_SECONDS = 300.0
"""How long a child may take until its episodes are there; an engine may load weights."""

_CRASHED_EXIT = 70  # EX_SOFTWARE
_PR_SET_PDEATHSIG = 1
_BOOT = """
import sys
sys.path[:] = sys.argv[2:]
from kubegym.rollout.isolate import child
child(int(sys.argv[1]))
"""


class ChildDied(Exception):
    """The isolated child ended while it ran a rollout."""


@dataclass(frozen=True)
class ChildSpec:
    """How a child builds its episodes: ``factory`` (``module:function``, async) is called with ``argument``.

    ``memory_bytes`` limits the child's data (RLIMIT_DATA); None picks four fifths of what this process may use.
    """

    factory: str
    argument: Any = None
    memory_bytes: int | None = None
    path: list[str] = field(default_factory=lambda: list(sys.path))


class IsolatedChild:
    """A running child; ``run`` may be called many times at once."""

    def __init__(self, spec: ChildSpec) -> None:
        self._spec = spec
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Attempt]] = {}
        self._calls = 0

    async def __aenter__(self) -> IsolatedChild:
        ours, theirs = socket.socketpair()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _BOOT,
                str(theirs.fileno()),
                *self._spec.path,
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        try:
            reader, self._writer = await asyncio.open_connection(sock=ours)
            memory = self._spec.memory_bytes or _memory_limit()
            _send(self._writer, (os.getpid(), memory, self._spec.factory, self._spec.argument))
            await self._started(reader)
        except BaseException:
            await self.__aexit__()
            raise
        self._reading = asyncio.create_task(self._read(reader))
        return self

    async def _started(self, reader: asyncio.StreamReader) -> None:
        """Wait until the child has its episodes. Raises RunFailed: no rollout is to blame."""
        try:
            async with asyncio.timeout(START_SECONDS):
                problem: str | None = await _receive(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            problem = "it died"
        except TimeoutError:
            problem = f"it took more than {START_SECONDS:g} s"
        if problem is not None:
            raise RunFailed(
                f"the process that should run the suspects of a crash alone did not start: {problem}",
                reason="NoIsolation",
            )

    async def __aexit__(self, *exc: object) -> None:
        if self._process is None:
            return
        if self._writer is not None:
            self._writer.close()
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    @property
    def alive(self) -> bool:
        """Whether the child still answers."""
        return self._reading is not None and not self._reading.done()

    async def run(self, assignment: Assignment) -> Attempt:
        """Make an attempt in the child. Raises ChildDied."""
        if not self.alive or self._writer is None:
            raise ChildDied
        self._calls += 1
        call = self._calls
        future: asyncio.Future[Attempt] = asyncio.get_running_loop().create_future()
        self._waiting[call] = future
        try:
            _send(self._writer, (call, assignment))
            return await future
        finally:
            self._waiting.pop(call, None)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                call, attempt = await _receive(reader)
                if (future := self._waiting.get(call)) is not None and not future.done():
                    future.set_result(attempt)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the child ended: said to all who wait, below
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ChildDied())


class Quarantine:
    """Runs suspects until each has a result.

    Args:
        spec: how children are made.
        at_once: how many run together in the first child.
    """

    DEATHS = 2

    def __init__(self, spec: ChildSpec, at_once: int = 32) -> None:
        self._spec = spec
        self._at_once = at_once

    async def run(self, suspects: list[Work], finish: Callable[[Work, Runner], Awaitable[None]]) -> None:
        """Call ``finish(work, runner)`` for every suspect, with a runner that works in a child."""
        left = suspects
        if len(suspects) > 1:
            left = await self._together(suspects, finish)
        async with _Alone(self._spec, self.DEATHS) as alone:
            for work in left:
                await finish(work, alone)

    async def _together(self, suspects: list[Work], finish: Callable[[Work, Runner], Awaitable[None]]) -> list[Work]:
        left: list[Work] = []
        gate = asyncio.Semaphore(self._at_once)

        async def one(child: IsolatedChild, work: Work) -> None:
            async with gate:
                try:
                    await finish(work, child.run)
                except ChildDied:
                    left.append(work)

        async with IsolatedChild(self._spec) as child, asyncio.TaskGroup() as group:
            for work in suspects:
                group.create_task(one(child, work))
        if left:
            log.warning("the child died; %d suspects run one at a time", len(left))
        return sorted(left, key=lambda work: (work[0].shard.plan.index, work[1]))


class _Alone:
    """Runs one rollout at a time in a child that nothing else runs in; the second death under one is its failure.

    The child is kept for the next rollout: only deaths cost a start. What an earlier rollout broke in it cannot fail
    a later one, whose second try begins in a fresh child.
    """

    def __init__(self, spec: ChildSpec, deaths: int) -> None:
        self._spec = spec
        self._deaths = deaths
        self._child: IsolatedChild | None = None

    async def __aenter__(self) -> _Alone:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._child is not None:
            await self._child.__aexit__(None, None, None)

    async def __call__(self, assignment: Assignment) -> Attempt:
        for _ in range(self._deaths):
            if self._child is None:
                self._child = IsolatedChild(self._spec)
                await self._child.__aenter__()
            try:
                return await self._child.run(assignment)
            except ChildDied:
                log.warning("rollout=%s killed the child it ran in", assignment.rollout_id)
                await self._child.__aexit__(None, None, None)
                self._child = None
        error = WorkerError(f"the process that ran this rollout alone died {self._deaths} times")
        return Attempt("failed", failure=error.failure(assignment.attempt))


def _memory_limit() -> int:
    """Four fifths of the memory this process may use: its cgroup's limit, or the machine's."""
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = min(limit, int(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    return limit * 4 // 5


def _send(writer: asyncio.StreamWriter, frame: Any) -> None:
    body = pickle.dumps(frame, protocol=pickle.HIGHEST_PROTOCOL)
    writer.write(_LENGTH.pack(len(body)) + body)


async def _receive(reader: asyncio.StreamReader) -> Any:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return pickle.loads(await reader.readexactly(length))


def child(descriptor: int) -> None:
    """Entry point of the child process."""
    asyncio.run(_serve(socket.socket(fileno=descriptor)))


def _die_with(parent: int) -> None:
    """Let the kernel kill this process with its parent: a rollout that hangs would outlive it (Linux)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it was gone before we asked
        os._exit(_CRASHED_EXIT)


async def _serve(connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    parent, memory, factory, argument = await _receive(reader)
    _die_with(parent)
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (memory if hard == resource.RLIM_INFINITY else min(memory, hard), hard))
    module, _, name = factory.partition(":")
    try:
        episodes: Episodes = await getattr(import_module(module), name)(argument)
    except Exception as error:  # whatever the environment's own code raises; the parent tells the user
        _send(writer, f"{type(error).__name__}: {error}")
        await writer.drain()
        raise
    _send(writer, None)
    running: set[asyncio.Task[None]] = set()

    async def one(call: int, assignment: Assignment) -> None:
        try:
            _send(writer, (call, await episodes.run(assignment)))
        except Exception:  # out of memory, or a result that cannot be handed over: as in a worker, that is its death
            try:
                log.exception("rollout=%s: the isolated child ends", assignment.rollout_id)
            finally:
                os._exit(_CRASHED_EXIT)

    try:
        while True:
            task = asyncio.create_task(one(*await _receive(reader)))
            running.add(task)
            task.add_done_callback(running.discard)
    except asyncio.IncompleteReadError:
        pass  # the parent has what it wanted
    finally:
        for task in running:
            task.cancel()
        await episodes.close()
