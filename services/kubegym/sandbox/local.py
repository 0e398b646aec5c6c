"""The sandbox of this machine or pod: starts the fork server, hands it programs, reads what came of them."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kubegym.sandbox import kernel
from kubegym.sandbox.check import Enforced, Wall, examine, require
from kubegym.sandbox.errors import SandboxBusy, SandboxLost, SandboxUnavailable
from kubegym.sandbox.filters import compile_filter, syscall_names
from kubegym.sandbox.payload import Request, execution, request_of, session_payload
from kubegym.sandbox.protocol import Execution, Limits
from kubegym.sandbox.session import LocalSession, Pipes
from kubegym.sandbox.warden import MESSAGE_BYTES

DEFAULT_LIBRARIES = ("numpy",)
_START_SECONDS = 120.0
_GRACE_SECONDS = 30.0
"""How much longer than a program may last its warden may take before it counts as lost."""
_SESSION_SECONDS = 86_400.0
"""How long a session may last with the pauses between its calls."""
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OPENSSL_CONF": "/dev/null",  # its own lies in a folder that programs cannot read
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
}


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """How a local sandbox is set up.

    Attributes:
        libraries: loaded before the first program, importable in all; None is numpy where it is installed.
        places: programs that run at once; None is one a processor. Sessions have places beside these.
        readable: folders and files that programs may read beside the system and the libraries.
        folder: where working folders are made; the temporary folder by default.
        without: walls that may be missing. Everything else has to hold, or nothing starts.
        queue_seconds: how long a program waits for a place.
    """

    libraries: Sequence[str] | None = None
    places: int | None = None
    readable: Sequence[str] = ()
    folder: str | None = None
    without: frozenset[Wall] = field(default_factory=frozenset)
    queue_seconds: float = 600.0


class LocalSandbox:
    """See ``kubegym.sandbox.protocol.Sandbox``. Starts with the first program; of one event loop.

    Args:
        settings: see there.

    Raises:
        SandboxUnavailable: from ``run`` and ``session``, when this machine lacks a wall that may not be missing.
    """

    def __init__(self, settings: SandboxSettings | None = None) -> None:
        self.settings = settings or SandboxSettings()
        self._server: _ForkServer | None = None
        self._starting = asyncio.Lock()
        self._idle: list[_Place] = []
        self._running = 0
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()

    @property
    def places(self) -> int:
        """How many programs run at once: one, where nothing but a missing Landlock would keep them apart."""
        if Wall.LANDLOCK not in examine().walls and os.geteuid() != 0:
            return 1
        return self.settings.places or os.cpu_count() or 1

    async def start(self) -> Enforced:
        """Start the fork server, if it does not run yet; what it enforces."""
        return (await self._started()).enforced

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
        """See ``Sandbox.run``."""
        request = request_of(code, argv, files, stdin, limits or Limits(), value, collect)
        await self._take_turn()
        try:
            place = self._idle.pop() if self._idle else await self._place()
            try:
                done = await self._in_place(place, request)
            except BaseException:
                place.close()
                raise
            self._idle.append(place)
            return done
        finally:
            self._give_turn()

    @contextlib.asynccontextmanager
    async def session(
        self, *, files: Mapping[str, str | bytes] | None = None, limits: Limits | None = None
    ) -> AsyncIterator[LocalSession]:
        """See ``Sandbox.session``."""
        limits = limits or Limits()
        payload = session_payload(files, limits)
        place = await self._place()
        with place, Pipes.open() as pipes:
            with payload:
                theirs = [payload.fileno(), *pipes.theirs]
                lasting = replace(limits, wall_seconds=_SESSION_SECONDS)  # between calls, too; each call has its own
                place.send({"do": "session", "limits": lasting.to_dict()}, theirs)
            pipes.close_theirs()
            session = LocalSession(place, pipes, limits)
            try:
                yield session
            finally:
                await session.close()

    async def close(self) -> None:
        """End every program, the wardens and the fork server."""
        for place in self._idle:
            place.close()
        self._idle.clear()
        if self._server is not None:
            server, self._server = self._server, None
            await asyncio.get_running_loop().run_in_executor(None, server.close)

    async def _take_turn(self) -> None:
        """Wait for one of the places, first come, first served."""
        if self._running < self.places:
            self._running += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self.settings.queue_seconds):
                await turn
        except TimeoutError:
            raise SandboxBusy(f"no place became free in {self.settings.queue_seconds:g} s") from None
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._give_turn()
            raise

    def _give_turn(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._running -= 1

    async def _started(self) -> _ForkServer:
        async with self._starting:
            if self._server is None:
                enforced = require(self.settings.without)
                loop = asyncio.get_running_loop()
                self._server = await loop.run_in_executor(None, _ForkServer, self.settings, enforced)
                weakref.finalize(self, self._server.close)
            return self._server

    async def _place(self) -> _Place:
        """A warden of one's own; of another fork server where the one before was killed. Raises SandboxLost."""
        server = self._server or await self._started()
        try:
            return server.place()
        except SandboxLost:
            if self._server is server:
                self._server = None
                await asyncio.get_running_loop().run_in_executor(None, server.close)
            return (await self._started()).place()

    async def _in_place(self, place: _Place, request: Request) -> Execution:
        with request.files() as descriptors:
            place.send(request.message, [file.fileno() for file in descriptors])
            limit = 4 * request.limits.wall_seconds + _GRACE_SECONDS
            try:
                async with asyncio.timeout(limit):
                    report = await place.report()
            except TimeoutError:
                raise SandboxLost(f"the sandbox said nothing for {limit:g} s") from None
            return execution(report, request, descriptors[1])


class _Place:
    """A warden's socket."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        control.setblocking(False)

    def __enter__(self) -> _Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Tell the warden; a message is small, and it reads each before the next is due. Raises SandboxLost."""
        try:
            socket.send_fds(self._control, [json.dumps(message).encode()], list(descriptors))
        except OSError as error:
            raise SandboxLost(f"the sandbox's process is gone ({error})") from error

    async def report(self) -> dict[str, Any]:
        """What it says of the program. Raises SandboxLost."""
        try:
            data = await asyncio.get_running_loop().sock_recv(self._control, MESSAGE_BYTES)
        except OSError as error:
            raise SandboxLost(f"the sandbox's process is gone ({error})") from error
        if not data:
            raise SandboxLost("the sandbox's process ended with the program")
        return json.loads(data)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Hang up: the warden ends its program and itself."""
        self._control.close()


class _ForkServer:
    """The fork server's process. Blocking: started and closed in a thread."""

    def __init__(self, settings: SandboxSettings, enforced: Enforced) -> None:
        self.enforced = enforced
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            # No cwd of ours, no environment of ours, no descriptor but the socket, no terminal.
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-m", "kubegym.sandbox.zygote", str(theirs.fileno())],
                cwd="/",
                env={**_ENVIRONMENT, **_search_path()},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._control = mine
        mine.settimeout(_START_SECONDS)
        try:
            self._greet(settings)
        except BaseException:
            self.close()
            raise

    def _greet(self, settings: SandboxSettings) -> None:
        wanted = settings.libraries
        if wanted is None:
            wanted = [name for name in DEFAULT_LIBRARIES if importlib.util.find_spec(name) is not None]
        seccomp = Wall.SECCOMP in self.enforced.walls
        listen = Wall.LISTENER in self.enforced.walls
        setup = {
            "libraries": list(wanted),
            "readable": [os.path.realpath(path) for path in settings.readable],
            "folder": settings.folder or tempfile.gettempdir(),
            "abi": kernel.landlock_abi() if Wall.LANDLOCK in self.enforced.walls else 0,
            "filter": compile_filter(listen=listen).hex() if seccomp else "",
            "listen": listen,
            "names": syscall_names() if listen else {},
        }
        text = json.dumps(setup).encode()
        try:
            self._control.sendall(len(text).to_bytes(8, "big") + text)
            hello = json.loads(self._control.recv(MESSAGE_BYTES) or b'{"error": "it ended at once"}')
        except (OSError, ValueError) as error:
            raise SandboxUnavailable(f"the sandbox's fork server did not start: {error}") from error
        if "error" in hello:
            raise SandboxUnavailable(f"the sandbox's fork server did not start: {hello['error']}")

    def place(self) -> _Place:
        """A warden of one's own."""
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                socket.send_fds(self._control, [b"w"], [theirs.fileno()])
            except OSError as error:
                mine.close()
                raise SandboxLost(f"the sandbox's fork server is gone ({error})") from error
        return _Place(mine)

    def close(self) -> None:
        """Hang up and wait: it ends its wardens, which end their programs."""
        self._control.close()
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _search_path() -> dict[str, str]:
    """Where the fork server finds what this process finds."""
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path and os.path.isdir(path))}
