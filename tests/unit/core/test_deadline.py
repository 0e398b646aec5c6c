"""A rollout's deadline: what waits move it, and what was only lent."""

from __future__ import annotations

import asyncio

import pytest

from kubegym.core.clock import Deadline

pytestmark = pytest.mark.looptime


async def test_what_was_lent_and_used_moves_it() -> None:
    deadline = Deadline(10, stall_seconds=100)
    async with deadline.timeout():
        lent = deadline.lend()
        assert lent == 100
        await asyncio.sleep(50)
        deadline.take_back(lent - 50)
        assert deadline.remaining() == pytest.approx(10)
        deadline.excuse(1000)  # what is left of the stall limit
        assert deadline.remaining() == pytest.approx(60)


async def test_what_was_lent_in_vain_ends_it() -> None:
    deadline = Deadline(10, stall_seconds=100)
    scope = deadline.timeout()

    async def late() -> None:
        async with scope:
            lent = deadline.lend()
            await asyncio.sleep(50)
            deadline.take_back(lent)
            assert deadline.remaining() == 0
            await asyncio.sleep(1)

    with pytest.raises(TimeoutError):
        await late()
    assert scope.expired()
    assert asyncio.get_running_loop().time() < 51


async def test_a_loan_ends_with_the_stall_limit() -> None:
    deadline = Deadline(10, stall_seconds=5)
    scope = deadline.timeout()

    async def hanging() -> None:
        async with scope:
            deadline.lend()
            await asyncio.sleep(1e6)

    with pytest.raises(TimeoutError):
        await hanging()
    assert asyncio.get_running_loop().time() == pytest.approx(15)
