"""The watchdog: its rules with given clocks, and real interrupts of real loops."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kubegym.resources.limits import CpuTimeExceeded, WallTimeExceeded
from kubegym.resources.watchdog import Entry, Watchdog, _Interrupt, _WallInterrupt


@pytest.fixture
def dog() -> Iterator[Watchdog]:
    """One that looks often and knows CPU time only, so that a busy machine cannot turn computing into waiting."""
    watchdog = Watchdog(poll=0.01, blocked_share=0.0, patience=1e6)
    watchdog.bind()
    yield watchdog
    watchdog.close()


def compute_for_ever() -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("looks", "fires"),
    [
        ([(1.0, 0.0), (9.9, 9.8)], None),
        ([(1.0, 50.0), (9.0, 60.0)], CpuTimeExceeded),
        ([(1.0, 50.0), (11.0, 50.5)], WallTimeExceeded),
        ([(1.0, 50.0), (11.0, 52.0), (40.0, 55.0)], None),
        ([(1.0, 50.0), (11.0, 52.0), (41.0, 55.0)], WallTimeExceeded),
    ],
    ids=["in time", "computes", "blocks", "busy machine", "busy machine for too long"],
)
def test_rules(
    looks: list[tuple[float, float]], fires: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit of 10 s: looks at (seconds since it began, CPU seconds of the thread)."""
    watchdog, raised = Watchdog(patience=4.0), []
    monkeypatch.setattr(watchdog, "_fire", lambda entry, interrupt, now: raised.append(interrupt.__name__))
    watchdog._entry = Entry("f", 10.0, 0.0)
    for now, cpu in looks:
        watchdog.inspect(now, cpu)
    assert raised == ([] if fires is None else ["_CpuInterrupt" if fires is CpuTimeExceeded else "_WallInterrupt"])


def test_a_computing_loop_is_interrupted(dog: Watchdog) -> None:
    with pytest.raises(CpuTimeExceeded, match=r"verify computed for more than 0\.05 s"):
        dog.call("verify", 0.05, compute_for_ever)
    assert dog.call("verify", 5.0, lambda: "next") == "next"


def test_a_sleeping_call_is_told_from_a_computing_one() -> None:
    dog = Watchdog(poll=0.01)
    dog.bind()

    def wait_in_small_pieces() -> None:
        event = threading.Event()
        while not event.wait(0.02):
            pass

    with pytest.raises(WallTimeExceeded, match="blocked the event loop"):
        dog.call("tool f", 0.5, wait_in_small_pieces)
    dog.close()


def test_except_exception_does_not_swallow_it(dog: Watchdog) -> None:
    def stubborn() -> None:
        while True:
            with contextlib.suppress(Exception):
                compute_for_ever()

    with pytest.raises(CpuTimeExceeded):
        dog.call("f", 0.05, stubborn)


def test_what_swallows_everything_is_reported_with_its_stack() -> None:
    ended = threading.Event()
    reports: list[tuple[str, str]] = []

    def on_stall(label: str, stack: str) -> None:
        reports.append((label, stack))
        ended.set()

    def compute() -> None:
        while not ended.is_set():
            pass

    def swallows_everything() -> str:
        while not ended.is_set():
            with contextlib.suppress(BaseException):
                compute()  # a call: in Python 3.13 the jump back of a loop lies outside of its try
        return "survived"

    dog = Watchdog(on_stall, poll=0.01, grace=0.05)
    dog.bind()
    assert dog.call("verify", 0.05, swallows_everything) == "survived"
    dog.close()
    assert len(reports) == 1
    assert reports[0][0] == "verify"
    assert "swallows_everything" in reports[0][1]


def test_exceptions_and_results_pass(dog: Watchdog) -> None:
    assert dog.call("f", 1.0, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        dog.call("f", 1.0, divmod, 7, 0)
    assert dog._entry is None


def test_the_interrupt_never_lands_outside(dog: Watchdog) -> None:
    """Fire at once at everything, from a thread that races with the regions' ends."""
    stop = threading.Event()

    def race() -> None:
        while not stop.is_set():
            entry = dog._entry
            if entry is not None:
                dog._fire(entry, _WallInterrupt, time.monotonic())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    racer = threading.Thread(target=race, daemon=True)
    racer.start()
    interrupted = outside = calls = 0
    try:
        while (calls < 2000 or not interrupted) and not outside:
            calls += 1
            try:
                try:
                    dog.call("f", 60.0, sum, range(50))
                except WallTimeExceeded:
                    interrupted += 1
                for _ in range(20):
                    pass
            except _Interrupt:
                outside += 1
    finally:
        stop.set()
        racer.join()
        sys.setswitchinterval(interval)
    assert outside == 0
    assert dog._entry is None


async def test_steps_of_a_coroutine_are_guarded_one_by_one(dog: Watchdog) -> None:
    async def long_but_polite() -> str:
        for _ in range(40):
            time.thread_time()
            await asyncio.sleep(0.005)
        return "done"

    assert await dog.steps("f", 0.1, long_but_polite()) == "done"

    async def hogs() -> None:
        await asyncio.sleep(0)
        compute_for_ever()

    with pytest.raises(CpuTimeExceeded):
        await dog.steps("f", 0.05, hogs())


async def test_steps_pass_results_errors_and_cancellation(dog: Watchdog) -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    seen: list[str] = []

    async def waits() -> Any:
        try:
            return await future
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            seen.append("finally")

    task = asyncio.ensure_future(run(dog, waits()))
    await asyncio.sleep(0)
    future.set_exception(LookupError("lost"))
    with pytest.raises(LookupError):
        await task
    future = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(run(dog, waits()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["finally", "cancelled", "finally"]


async def run(dog: Watchdog, coroutine: Any) -> Any:
    return await dog.steps("f", 10.0, coroutine)


def test_one_watchdog_guards_one_thread(dog: Watchdog) -> None:
    dog.bind()
    problems: list[str] = []

    def other() -> None:
        try:
            dog.bind()
        except RuntimeError as error:
            problems.append(str(error))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert problems == ["a watchdog guards one thread; make another for this one"]
