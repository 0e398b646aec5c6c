from __future__ import annotations

import asyncio

import pytest

from kubegym_operator.reconcile.limiter import TokenBucket

pytestmark = pytest.mark.looptime


async def test_a_burst_passes_at_once_and_then_the_rate_holds() -> None:
    bucket = TokenBucket(rate=10, burst=5)
    times = []
    for _ in range(15):
        await bucket.take()
        times.append(asyncio.get_running_loop().time())
    assert times[:5] == [0.0] * 5
    assert times[-1] == pytest.approx(1.0, abs=0.01)


async def test_turns_are_given_in_order_and_none_is_lost() -> None:
    bucket = TokenBucket(rate=2, burst=1)
    order: list[int] = []

    async def one(number: int) -> None:
        await bucket.take()
        order.append(number)

    await asyncio.gather(*(one(number) for number in range(6)))
    assert order == list(range(6))
    assert asyncio.get_running_loop().time() == pytest.approx(2.5, abs=0.01)


async def test_a_pause_holds_everybody() -> None:
    bucket = TokenBucket(rate=100, burst=100)
    bucket.pause(30.0)
    await bucket.take()
    assert asyncio.get_running_loop().time() == pytest.approx(30.0, abs=0.01)


async def test_rest_earns_no_more_than_a_burst() -> None:
    bucket = TokenBucket(rate=1, burst=3)
    await asyncio.sleep(1000)
    for _ in range(4):
        await bucket.take()
    assert asyncio.get_running_loop().time() == pytest.approx(1001.0, abs=0.01)
