"""The queue before an engine, in virtual time: bounded, fair between runs, nothing lost when callers leave."""

from __future__ import annotations

import asyncio
import random

import pytest

from kubegym.model.errors import ModelOverloaded
from kubegym.model.queue import FairQueue

pytestmark = [pytest.mark.unit, pytest.mark.looptime]


async def work(queue: FairQueue, run: str, seconds: float, done: list[str] | None = None) -> float:
    waited = await queue.enter(run)
    try:
        await asyncio.sleep(seconds)
        if done is not None:
            done.append(run)
    finally:
        queue.leave(run, seconds)
    return waited


async def test_so_many_at_work_and_the_others_wait_their_turn() -> None:
    queue = FairQueue(2, 10)
    assert await asyncio.gather(*(work(queue, "a", 5.0) for _ in range(6))) == [0, 0, 5, 5, 10, 10]
    assert (queue.working, queue.waiting, queue.refused) == (0, 0, 0)


async def test_a_full_queue_says_when_to_come_back() -> None:
    queue = FairQueue(1, 1)
    calls = [asyncio.ensure_future(work(queue, "a", 5.0)) for _ in range(2)]
    await asyncio.sleep(1)
    with pytest.raises(ModelOverloaded) as caught:
        await queue.enter("a")
    assert caught.value.status == 429
    assert caught.value.retry_after is not None
    assert 1 <= caught.value.retry_after <= 30
    await asyncio.gather(*calls)
    assert queue.refused == 1


async def test_the_next_place_goes_to_the_run_with_the_fewest_at_work() -> None:
    """A run of 90 calls and one of 10 that come later: both get half of the engine while both want it."""
    queue = FairQueue(10, 1000, wait_seconds=1000)
    done: list[str] = []
    calls = [asyncio.ensure_future(work(queue, "big", 1.0, done)) for _ in range(90)]
    await asyncio.sleep(0)
    calls += [asyncio.ensure_future(work(queue, "small", 1.0, done)) for _ in range(10)]
    await asyncio.sleep(3.5)
    assert done.count("small") == 10
    await asyncio.gather(*calls)
    assert len(done) == 100


async def test_where_the_queue_is_full_the_run_that_fills_it_gives_way() -> None:
    queue = FairQueue(1, 10, wait_seconds=1000)
    greedy = [asyncio.ensure_future(work(queue, "greedy", 1.0)) for _ in range(11)]
    await asyncio.sleep(0)
    others = [asyncio.ensure_future(work(queue, "other", 1.0)) for _ in range(8)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [call.done() for call in others].count(True) == 3, "beyond its half of the queue"
    assert [call.done() for call in greedy].count(True) == 5, "the newest of them"
    ended = await asyncio.gather(*greedy, *others, return_exceptions=True)
    assert sum(isinstance(one, ModelOverloaded) for one in ended) == 8
    assert (queue.working, queue.waiting, queue.refused) == (0, 0, 8)


async def test_nobody_waits_for_ever() -> None:
    queue = FairQueue(1, 10, wait_seconds=30.0)
    busy = asyncio.ensure_future(work(queue, "a", 100.0))
    await asyncio.sleep(0)
    began = asyncio.get_running_loop().time()
    with pytest.raises(ModelOverloaded):
        await queue.enter("b")
    assert asyncio.get_running_loop().time() - began == pytest.approx(30.0)
    assert queue.waiting == 0
    await busy


async def test_a_paused_queue_lets_nobody_in_and_forgets_nobody() -> None:
    queue = FairQueue(4, 10)
    early = asyncio.ensure_future(work(queue, "a", 3.0))
    await asyncio.sleep(0)
    queue.pause()
    late = asyncio.ensure_future(work(queue, "a", 1.0))
    await queue.idle()
    assert early.done()
    assert not late.done()
    await asyncio.sleep(5)
    queue.resume()
    assert await late == pytest.approx(8.0)


async def test_callers_that_leave_at_any_moment_leave_nothing_behind() -> None:
    rng = random.Random(1)
    queue = FairQueue(3, 20, wait_seconds=2.0)
    calls = []
    for number in range(400):
        calls.append(asyncio.ensure_future(work(queue, f"r{number % 5}", rng.uniform(0, 0.3))))
        if rng.random() < 0.4:
            asyncio.get_running_loop().call_later(rng.uniform(0, 0.3), calls[-1].cancel)
        await asyncio.sleep(rng.uniform(0, 0.1))
    await asyncio.gather(*calls, return_exceptions=True)
    assert (queue.working, queue.waiting) == (0, 0)
    assert await work(queue, "a", 0.0) == 0.0
