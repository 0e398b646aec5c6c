"""A watchdog for code that runs inline on the event loop.

The loop's thread stores what it is about to run and since when, nothing else (0.3 µs a call). A daemon thread looks at
that every quarter of a second. An entry that stays too long is interrupted by an exception in the loop's thread:

========================================= ==============================================================
CPU time ≥ limit                          ``CpuTimeExceeded``
wall ≥ limit, CPU < a tenth of the limit  ``WallTimeExceeded``: it sleeps or waits (``blocked_share``)
wall ≥ ``patience`` x limit               ``WallTimeExceeded``: the machine is too busy to say more
no reaction within ``grace`` seconds      ``on_stall(label, stack)``: it is stuck in C code or swallows the exception
========================================= ==============================================================

Both times count from the first look, because the watchdog's own thread may be late on a busy machine, and wall time
without what either thread waited for a processor.

The interrupt must never hit code outside of the guarded region. Both sides are ordered by the interpreter lock: the
watchdog announces (``_firing``), then checks that the entry is still there; the loop removes the entry, then looks for
an announcement, and if there is one withdraws the exception under the lock that the watchdog fires under.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from kubegym.resources.limits import CpuTimeExceeded, Overrun, WallTimeExceeded
from kubegym.sandbox.proc import thread_queued_seconds

T = TypeVar("T")
OnStall = Callable[[str, str], None]
"""Called in the watchdog's thread with the label and the stack of the code that does not react."""

_log = logging.getLogger(__name__)


class _Interrupt(BaseException):
    """Raised into the loop's thread; not an Exception, so that ``except Exception`` of an author lets it pass."""


class _CpuInterrupt(_Interrupt):
    pass


class _WallInterrupt(_Interrupt):
    pass


class Entry:
    """What the loop's thread runs: its label, its limit in seconds, and when it began (``time.monotonic``)."""

    __slots__ = ("fired", "label", "limit", "seen", "stalled", "started")

    def __init__(self, label: str, limit: float, started: float) -> None:
        self.label = label
        self.limit = limit
        self.started = started
        self.seen: tuple[float, float] | None = None
        self.fired: float | None = None
        self.stalled = False


class Watchdog:
    """Guards the thread that calls ``bind``; see the module's description.

    Args:
        on_stall: what to do about code that cannot be interrupted; the default logs its stack. The engine ends the
            process, so that the poison protocol finds the rollout that did it.
        poll: seconds between looks.
        blocked_share: of its limit; what used less CPU time than that waits rather than computes.
        patience: how many times its limit something may take on a machine that is too busy to tell.
        grace: seconds an interrupt may take to be noticed.
    """

    def __init__(
        self,
        on_stall: OnStall | None = None,
        *,
        poll: float = 0.25,
        blocked_share: float = 0.1,
        patience: float = 4.0,
        grace: float = 10.0,
    ) -> None:
        self._on_stall = on_stall or _log_stall
        self._poll = poll
        self._blocked_share = blocked_share
        self._patience = patience
        self._grace = grace
        self._entry: Entry | None = None
        self._firing: Entry | None = None
        self._lock = threading.Lock()
        self._thread_id = 0
        self._native_id = 0
        self._cpu_clock: int | None = None
        self._stop: threading.Event | None = None

    def bind(self) -> None:
        """Guard the calling thread from now on. May be called again, from the same thread."""
        ident = threading.get_ident()
        if self._stop is not None:
            if ident != self._thread_id:
                raise RuntimeError("a watchdog guards one thread; make another for this one")
            return
        self._thread_id = ident
        self._native_id = threading.get_native_id()
        clock_of = getattr(time, "pthread_getcpuclockid", None)  # absent on macOS
        self._cpu_clock = clock_of(ident) if clock_of is not None else None
        self._stop = threading.Event()
        owner = threading.current_thread()
        threading.Thread(target=self._watch, args=(self._stop, owner), name="kubegym-watchdog", daemon=True).start()

    def close(self) -> None:
        """Stop looking."""
        if self._stop is not None:
            self._stop.set()
            self._stop = None

    def call(self, label: str, limit: float, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """``function(*args, **kwargs)``, interrupted when it exceeds the limit. Raises Overrun then."""
        entry = Entry(label, limit, time.monotonic())
        try:
            try:
                self._entry = entry
                return function(*args, **kwargs)
            finally:
                self._entry = None
                if self._firing is not None or entry.fired is not None:
                    self._withdraw()
        except _Interrupt as interrupt:
            self._withdraw()
            raise _overrun(interrupt, entry) from None

    @types.coroutine
    def steps(self, label: str, limit: float, coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """Await a coroutine with each of its uninterrupted steps guarded. Raises Overrun."""
        send, throw = coroutine.send, coroutine.throw
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                if error is None:
                    awaited = self.call(label, limit, _step, send, value)
                else:
                    awaited = self.call(label, limit, _step, throw, error)
            except Overrun:
                coroutine.close()
                raise
            if type(awaited) is _Returned:
                return awaited.value  # type: ignore[no-any-return]
            try:
                value, error = (yield awaited), None
            except BaseException as thrown:  # cancellation and GeneratorExit belong to the coroutine
                value, error = None, thrown

    def inspect(self, now: float, cpu: float) -> None:
        """Look once.

        Args:
            now: ``time.monotonic()``, less the seconds for which the guarded thread, or the one that looks and may hold
                the interpreter lock meanwhile, was ready and had no processor.
            cpu: the guarded thread's CPU seconds.
        """
        entry = self._entry
        if entry is None:
            return
        if entry.seen is None:
            entry.seen = (now, cpu)
        wall, used = now - entry.seen[0], cpu - entry.seen[1]
        if entry.fired is not None:
            if now - entry.fired >= self._grace and not entry.stalled:
                self._stall(entry)
        elif used >= entry.limit:
            self._fire(entry, _CpuInterrupt, now)
        elif wall >= entry.limit and (used < self._blocked_share * entry.limit or wall >= self._patience * entry.limit):
            self._fire(entry, _WallInterrupt, now)

    def _watch(self, stop: threading.Event, owner: threading.Thread) -> None:
        threads = (self._native_id, threading.get_native_id())
        while not stop.wait(self._poll) and owner.is_alive():
            if self._entry is not None:
                self.inspect(time.monotonic() - sum(map(thread_queued_seconds, threads)), self._cpu_time())

    def _cpu_time(self) -> float:
        return time.clock_gettime(self._cpu_clock) if self._cpu_clock is not None else time.process_time()

    def _fire(self, entry: Entry, interrupt: type[_Interrupt], now: float) -> None:
        with self._lock:
            self._firing = entry
            try:
                if self._entry is entry:
                    entry.fired = now
                    _raise_in_thread(self._thread_id, interrupt)
            finally:
                self._firing = None

    def _withdraw(self) -> None:
        """Take back an exception that was set but not yet raised; the region it was meant for is over."""
        while True:
            try:
                self._entry = None
                with self._lock:
                    _raise_in_thread(self._thread_id, None)
                return
            except _Interrupt:  # it arrived here: nothing is left to take back, but the entry must be gone
                continue

    def _stall(self, entry: Entry) -> None:
        entry.stalled = True
        frame = sys._current_frames().get(self._thread_id)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
        self._on_stall(entry.label, stack)


class _Returned:
    """A coroutine's return value (StopIteration cannot travel through a plain call inside of a generator)."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def _step(advance: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return advance(argument)
    except StopIteration as stop:
        return _Returned(stop.value)


def _overrun(interrupt: _Interrupt, entry: Entry) -> Overrun:
    seconds = time.monotonic() - entry.started
    if isinstance(interrupt, _CpuInterrupt):
        return CpuTimeExceeded(
            f"{entry.label} computed for more than {entry.limit:g} s; @offload moves heavy work off the event loop"
        )
    return WallTimeExceeded(
        f"{entry.label} blocked the event loop for {seconds:.1f} s without computing (limit {entry.limit:g} s); "
        "await what it waits for"
    )


def _raise_in_thread(thread_id: int, exception: type[BaseException] | None) -> None:
    target = ctypes.py_object(exception) if exception is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), target)


def _log_stall(label: str, stack: str) -> None:
    _log.error("%s does not react to its time limit; it is stuck here:\n%s", label, stack)
