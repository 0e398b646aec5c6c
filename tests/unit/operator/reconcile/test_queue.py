from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from kubegym_operator.kube.errors import TooManyRequests, Unavailable
from kubegym_operator.reconcile.keys import Key, Result
from kubegym_operator.reconcile.queue import Queue

pytestmark = pytest.mark.looptime

A = Key("RolloutJob", "one", "a")
B = Key("RolloutJob", "one", "b")
C = Key("RolloutJob", "two", "c")


@asynccontextmanager
async def running(queue: Queue) -> AsyncIterator[Queue]:
    task = asyncio.create_task(queue.run())
    await asyncio.sleep(0)
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Runs:
    """Remembers when which key was worked on."""

    def __init__(self, takes: float = 0.0, answer: Callable[[Key], Result] = lambda key: Result()) -> None:
        self.began: list[tuple[float, Key]] = []
        self.now = 0
        self.most = 0
        self._takes = takes
        self._answer = answer

    async def __call__(self, key: Key) -> Result:
        self.began.append((asyncio.get_running_loop().time(), key))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self._takes)
            return self._answer(key)
        finally:
            self.now -= 1

    @property
    def keys(self) -> list[Key]:
        return [key for _, key in self.began]

    @property
    def times(self) -> list[float]:
        return [time for time, _ in self.began]


def failing(times: int, error: Exception) -> Callable[[Key], Result]:
    left = [times]

    def answer(key: Key) -> Result:
        if left[0] > 0:
            left[0] -= 1
            raise error
        return Result()

    return answer


async def test_many_events_for_a_waiting_key_are_one_run() -> None:
    runs = Runs()
    queue = Queue(runs)
    for _ in range(100):
        queue.add(A)
    async with running(queue):
        await asyncio.sleep(5)
    assert runs.keys == [A]


async def test_a_key_is_never_in_work_twice_and_what_comes_meanwhile_runs_afterwards() -> None:
    runs = Runs(takes=1.0)
    async with running(Queue(runs, spacing=0.5)) as queue:
        queue.add(A)
        for _ in range(9):
            await asyncio.sleep(0.1)
            queue.add(A)
        await asyncio.sleep(10)
    assert runs.most == 1
    assert runs.times == pytest.approx([0.0, 1.5], abs=0.01)


async def test_runs_of_a_key_lie_apart_even_when_it_was_idle_between() -> None:
    runs = Runs()
    async with running(Queue(runs, spacing=1.0)) as queue:
        queue.add(A)
        await asyncio.sleep(0.1)
        queue.add(A)
        await asyncio.sleep(5)
        queue.add(A)
        await asyncio.sleep(5)
    assert runs.times == pytest.approx([0.0, 1.0, 5.1], abs=0.01)


async def test_a_failing_key_waits_longer_each_time_and_at_most_five_minutes() -> None:
    runs = Runs(answer=failing(14, Unavailable("away")))
    async with running(Queue(runs, rng=random.Random(7))) as queue:
        queue.add(A)
        await asyncio.sleep(3600)
    pauses = [later - earlier for earlier, later in zip(runs.times, runs.times[1:], strict=False)]
    assert len(pauses) == 14
    for failures, pause in enumerate(pauses, start=1):
        assert 0.1 * 0.5 <= pause <= min(300.0, 0.5 * 2 ** (failures - 1)) + 0.2
    assert max(pauses) > 60
    assert queue.retries == 14


async def test_a_success_ends_the_backoff() -> None:
    runs = Runs(answer=failing(6, Unavailable("away")))
    async with running(Queue(runs)) as queue:
        queue.add(A)
        await asyncio.sleep(600)
        before = len(runs.began)
        queue.add(A)
        await asyncio.sleep(1)
    assert len(runs.began) == before + 1


async def test_the_server_is_not_asked_before_the_time_it_named() -> None:
    runs = Runs(answer=failing(1, TooManyRequests("busy", retry_after=42.0)))
    async with running(Queue(runs)) as queue:
        queue.add(A)
        await asyncio.sleep(100)
    assert runs.times == pytest.approx([0.0, 42.0], abs=0.1)


async def test_an_event_cuts_a_long_backoff_short_but_not_to_nothing() -> None:
    eighth = asyncio.Event()
    fail = failing(8, Unavailable("away"))

    def answer(key: Key) -> Result:
        if len(runs.began) == 8:
            eighth.set()
        return fail(key)

    runs = Runs(answer=answer)
    async with running(Queue(runs, rng=random.Random(1))) as queue:
        queue.add(A)
        await eighth.wait()
        last = runs.times[-1]
        await asyncio.sleep(5)
        queue.add(A)
        queue.add(A)
        await asyncio.sleep(2)
    assert runs.times[8] == pytest.approx(last + 5.5, abs=0.01)


async def test_namespaces_take_turns() -> None:
    runs = Runs(takes=1.0)
    queue = Queue(runs, workers=1)
    crowd = [Key("RolloutJob", "crowd", str(number)) for number in range(50)]
    for key in crowd:
        queue.add(key)
    queue.add(C)
    async with running(queue):
        await asyncio.sleep(100)
    assert runs.keys.index(C) == 1
    assert len(runs.began) == 51


async def test_no_more_keys_than_workers_are_in_work() -> None:
    runs = Runs(takes=1.0)
    queue = Queue(runs, workers=3)
    for number in range(10):
        queue.add(Key("RolloutJob", str(number), "x"))
    async with running(queue):
        await asyncio.sleep(0.5)
        assert (queue.depth, queue.running) == (7, 3)
        await asyncio.sleep(10)
    assert runs.most == 3
    assert len(runs.began) == 10


async def test_a_run_says_when_the_key_is_due_again() -> None:
    runs = Runs(answer=lambda key: Result(requeue_after=30.0))
    async with running(Queue(runs)) as queue:
        queue.add(A)
        await asyncio.sleep(95)
    assert runs.times == pytest.approx([0.0, 30.0, 60.0, 90.0], abs=0.2)


async def test_the_earliest_of_several_times_counts() -> None:
    runs = Runs()
    async with running(Queue(runs)) as queue:
        queue.add(A, after=50)
        queue.add(A, after=20)
        queue.add(A, after=90)
        await asyncio.sleep(200)
    assert runs.times == pytest.approx([20.0])


async def test_what_a_run_says_replaces_what_an_earlier_one_said() -> None:
    answers = iter([Result(requeue_after=10.0), Result(requeue_after=100.0), Result()])
    runs = Runs(answer=lambda key: next(answers))
    async with running(Queue(runs)) as queue:
        queue.add(A)
        await asyncio.sleep(5)
        queue.add(A)
        await asyncio.sleep(500)
    assert runs.times == pytest.approx([0.0, 5.0, 105.0], abs=0.1)


async def test_a_run_that_hangs_is_cancelled_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    began: list[float] = []
    ended: list[str] = []

    async def hang_once(key: Key) -> Result:
        began.append(asyncio.get_running_loop().time())
        if len(began) == 1:
            await asyncio.sleep(10_000)
        return Result()

    queue = Queue(hang_once, limit=60.0, observe=lambda key, result, seconds: ended.append(result))
    async with running(queue):
        queue.add(A)
        await asyncio.sleep(120)
    assert len(began) == 2
    assert ended == ["Timeout", "ok"]
    assert "not done after 60 s" in caplog.text


async def test_a_bug_is_logged_with_its_trace_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    runs = Runs(answer=failing(1, ZeroDivisionError("oops")))
    ended: list[str] = []
    queue = Queue(runs, workers=1, observe=lambda key, result, seconds: ended.append(result))
    with caplog.at_level(logging.ERROR):
        async with running(queue):
            queue.add(A)
            queue.add(B)
            await asyncio.sleep(10)
    assert ended == ["InternalError", "ok", "ok"]
    assert any(record.exc_info for record in caplog.records)


async def test_the_age_of_the_oldest_key_counts_waiting_and_work() -> None:
    queue = Queue(Runs(takes=100.0), workers=1)
    assert queue.oldest_age() == 0.0
    async with running(queue):
        queue.add(A)
        await asyncio.sleep(10)
        queue.add(B)
        await asyncio.sleep(5)
        assert queue.oldest_age() == pytest.approx(15.0)
        await asyncio.sleep(90)
        assert queue.oldest_age() == pytest.approx(95.0)
        await asyncio.sleep(100)
        assert queue.oldest_age() == 0.0


async def test_a_backing_off_key_is_not_old() -> None:
    async with running(Queue(Runs(answer=failing(20, Unavailable("away"))))) as queue:
        queue.add(A)
        await asyncio.sleep(1000)
        assert queue.oldest_age() == 0.0


@pytest.mark.parametrize(("takes", "finished"), [(2.0, True), (60.0, False)])
async def test_stopping_lets_work_end_and_does_not_wait_for_ever(takes: float, finished: bool) -> None:
    done: list[Key] = []

    async def work(key: Key) -> Result:
        await asyncio.sleep(takes)
        done.append(key)
        return Result()

    queue = Queue(work)
    async with running(queue):
        queue.add(A)
        queue.add(B, after=1.0)
        await asyncio.sleep(0.5)
    assert done == ([A] if finished else [])
    assert asyncio.get_running_loop().time() == pytest.approx(2.0 if finished else 5.5, abs=0.01)


async def test_nothing_is_kept_of_keys_that_are_done() -> None:
    async with running(Queue(Runs())) as queue:
        for number in range(1000):
            queue.add(Key("RolloutJob", "many", str(number)))
        await asyncio.sleep(60)
        assert queue._items == {}
        assert queue._ready == {}
