"""A session on this machine: the caller's pipes to one program that runs call after call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import threading
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from kubegym.sandbox.child import LENGTH
from kubegym.sandbox.errors import SandboxError, SandboxLost
from kubegym.sandbox.payload import check_report, parse_value
from kubegym.sandbox.proc import thread_queued_seconds
from kubegym.sandbox.protocol import Execution, Limits

_CHUNK = 1 << 16
_FLOOD = 16 << 20
_END_SECONDS = 30.0


class Warden(Protocol):
    """The other end: tells of the program's end, and ends it."""

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell it."""
        ...

    async def report(self) -> dict[str, Any]:
        """Its report, once the program has ended."""
        ...


@dataclass(slots=True)
class Pipes:
    """The caller's and the program's ends of a session."""

    mine: list[int] = field(default_factory=list)
    theirs: list[int] = field(default_factory=list)

    @classmethod
    def open(cls) -> Self:
        """Commands in; stdout, stderr and values out."""
        pipes = cls()
        for index in range(4):
            ends = os.pipe2(os.O_CLOEXEC)
            mine, theirs = ends if index else reversed(ends)
            os.set_blocking(mine, False)
            pipes.mine.append(mine)
            pipes.theirs.append(theirs)
        return pipes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_theirs()
        for end in self.mine:
            os.close(end)
        self.mine.clear()

    def close_theirs(self) -> None:
        """The program has them now."""
        for end in self.theirs:
            os.close(end)
        self.theirs.clear()


class LocalSession:
    """See ``kubegym.sandbox.protocol.SandboxSession``. One call at a time.

    Args:
        warden: watches over the program.
        pipes: to it.
        limits: of the session.
    """

    def __init__(self, warden: Warden, pipes: Pipes, limits: Limits) -> None:
        self._warden = warden
        self._commands, self._stdout, self._stderr, self._values = pipes.mine
        self._limits = limits
        self._began = False
        self._turn = asyncio.Lock()
        self._ending = asyncio.ensure_future(warden.report())

    async def run(self, code: str, *, value: str | None = None) -> Execution:
        """See ``SandboxSession.run``."""
        async with self._turn:
            if self._ending.done():
                raise SandboxLost("the session's program has ended", retryable=False)
            if not self._began:
                await self._begin()
            return await self._call(code, value)

    async def _begin(self) -> None:
        """Wait until it is there, or has ended before: its time counts from then on. The warden bounds this."""
        loop = asyncio.get_running_loop()
        begun: asyncio.Future[None] = loop.create_future()

        def settle(*_: object) -> None:
            _settle(begun)

        loop.add_reader(self._values, settle)
        self._ending.add_done_callback(settle)
        try:
            await begun
            self._began = True
        finally:
            self._ending.remove_done_callback(settle)
            loop.remove_reader(self._values)

    async def _call(self, code: str, value: str | None) -> Execution:
        call = _Call(secrets.token_hex(8).encode(), self._limits.output_bytes)
        body = json.dumps({"call": call.id.decode(), "code": code, "value": value}).encode()
        began = time.monotonic()
        try:
            stopped = await self._in_time(self._exchange(call, LENGTH.pack(len(body)) + body))
        except BaseException:
            self._kill()
            raise
        seconds = time.monotonic() - began
        if stopped is None and call.answer is not None:
            return self._answered(call, seconds)
        return await self._ended(call, stopped, seconds)

    async def _in_time(self, exchange: Coroutine[Any, Any, str | None]) -> str | None:
        """What comes of it; ``wall`` after the time that a call may take.

        When this thread waits for a processor the program does, too, most likely: that time is added, up to threefold.
        """
        limit, thread, began = self._limits.wall_seconds, threading.get_native_id(), time.monotonic()
        before = thread_queued_seconds(thread)
        work = asyncio.ensure_future(exchange)
        try:
            left = limit
            while left > 0 and not work.done():
                await asyncio.wait({work}, timeout=left)
                queued = thread_queued_seconds(thread) - before
                left = limit + min(queued, 3 * limit) - (time.monotonic() - began)
            return work.result() if work.done() else "wall"
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _exchange(self, call: _Call, data: bytes) -> str | None:
        """Write a call and read until its answer, its end, or a flood. The limit that stopped it, if one did."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[str | None] = loop.create_future()

        def settle(result: str | None) -> None:
            if not done.done():
                done.set_result(result)

        def ended(_: object) -> None:
            settle(None)

        def drain(descriptor: int, buffer: _Buffer) -> None:
            if not buffer.read(descriptor):
                loop.remove_reader(descriptor)
            if buffer.seen > buffer.cap + _FLOOD:
                settle("output")

        def take() -> None:
            drain(self._values, call.values)
            if call.complete():
                settle(None)

        loop.add_reader(self._values, take)
        for descriptor, buffer in ((self._stdout, call.stdout), (self._stderr, call.stderr)):
            loop.add_reader(descriptor, drain, descriptor, buffer)
        self._ending.add_done_callback(ended)
        try:
            writing = asyncio.ensure_future(_write(loop, self._commands, data))
            try:
                return await done
            finally:
                writing.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await writing
        finally:
            self._ending.remove_done_callback(ended)
            for descriptor in (self._stdout, self._stderr, self._values):
                loop.remove_reader(descriptor)
            for descriptor, buffer in ((self._stdout, call.stdout), (self._stderr, call.stderr)):
                while buffer.seen <= buffer.cap + _FLOOD and buffer.read(descriptor):
                    pass

    def _answered(self, call: _Call, seconds: float) -> Execution:
        assert call.answer is not None
        code, value = call.answer
        has_value, parsed = parse_value(value)
        return Execution(
            stdout=call.stdout.text(),
            stderr=call.stderr.text(),
            exit_code=code,
            value=parsed,
            has_value=has_value,
            cut=call.stdout.cut or call.stderr.cut,
            wall_seconds=seconds,
        )

    async def _ended(self, call: _Call, stopped: str | None, seconds: float) -> Execution:
        """The program is gone, or has to go: what its warden says."""
        report = await self._last_words()
        check_report(report)
        why: Any = stopped or (report["stopped"] if report["stopped"] != "told" else None)
        return Execution(
            stdout=call.stdout.text(),
            stderr=call.stderr.text(),
            exit_code=report["exit_code"],
            signal=report["signal"],
            stopped=why,
            refused=tuple(report["refused"]),
            cut=call.stdout.cut or call.stderr.cut,
            cpu_seconds=report["cpu_seconds"],
            wall_seconds=seconds,
        )

    def _kill(self) -> None:
        if not self._ending.done():
            with contextlib.suppress(SandboxError):
                self._warden.send({"do": "stop"})

    async def _last_words(self) -> dict[str, Any]:
        self._kill()
        try:
            async with asyncio.timeout(_END_SECONDS):
                return await asyncio.shield(self._ending)
        except TimeoutError:
            raise SandboxLost(f"the session did not end in {_END_SECONDS:g} s") from None

    async def close(self) -> None:
        """End the program, whatever it does."""
        with contextlib.suppress(SandboxError):
            await self._last_words()
        self._ending.cancel()
        with contextlib.suppress(SandboxError, asyncio.CancelledError):
            await self._ending


class _Buffer:
    """The first ``cap`` bytes of a stream."""

    __slots__ = ("cap", "data", "seen")

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.data = bytearray()
        self.seen = 0

    @property
    def cut(self) -> bool:
        return self.seen > self.cap

    def read(self, descriptor: int) -> bool:
        """Take what is there; False when there is nothing now, or never will be."""
        try:
            chunk = os.read(descriptor, _CHUNK)
        except OSError:
            return False
        self.seen += len(chunk)
        self.data += chunk[: max(0, self.cap - len(self.data))]
        return bool(chunk)

    def text(self) -> str:
        return self.data.decode(errors="replace")


class _Call:
    """What comes back of one call. Its id keeps an earlier call's late answer apart."""

    def __init__(self, id_: bytes, cap: int) -> None:
        self.id = id_
        self.stdout, self.stderr = _Buffer(cap), _Buffer(cap)
        self.values = _Buffer(cap + 64)
        self.answer: tuple[int, bytes] | None = None

    def complete(self) -> bool:
        """Look for the answer in what came: a length, then the call's id, an exit code and perhaps a value."""
        data = self.values.data
        while len(data) >= LENGTH.size:
            size = LENGTH.unpack_from(data)[0]
            if len(data) < LENGTH.size + size:
                return self.values.cut  # a value larger than what is kept never completes
            frame = bytes(data[LENGTH.size : LENGTH.size + size])
            del data[: LENGTH.size + size]
            id_, _, rest = frame.partition(b" ")
            code, _, value = rest.partition(b" ")
            if id_ == self.id and code.isdigit() and len(code) < 4:
                self.answer = (int(code), value)
                return True
        return False


async def _write(loop: asyncio.AbstractEventLoop, descriptor: int, data: bytes) -> None:
    """All of it; waits for a program that reads slowly."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            ready = loop.create_future()
            loop.add_writer(descriptor, _settle, ready)
            try:
                await ready
            finally:
                loop.remove_writer(descriptor)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
