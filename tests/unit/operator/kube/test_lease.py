from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kubegym_operator.errors import Fenced
from kubegym_operator.kube.errors import Conflict, Unavailable
from kubegym_operator.kube.lease import LEASE, Connect, Election, Lease, LeaseTimes
from kubegym_operator.kube.memory import MemoryKube
from kubegym_operator.kube.protocol import KubeApi, Object

TIMES = LeaseTimes(retry=2.0, write=8.0, renew=10.0, duration=15.0)
QUICK = LeaseTimes(retry=0.02, write=0.3, renew=0.4, duration=1.0)
"""Lost soon."""
PATIENT = LeaseTimes(retry=0.02, write=300.0, renew=400.0, duration=500.0)
"""Kept, however busy the machine is."""
WAIT = 300.0
"""Seconds, against hanging."""


class Time:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Candidates:
    """Candidates for one lease, on one clock."""

    def __init__(self) -> None:
        self.api = MemoryKube()
        self.time = Time()

    def __call__(self, identity: str) -> Election:
        return Election(self.api, "home", "operator", identity, TIMES, self.time)

    async def spec(self) -> Object:
        lease = await self.api.get(LEASE, "home", "operator")
        assert lease is not None
        spec: Object = lease["spec"]
        return spec


@pytest.fixture
def candidates() -> Candidates:
    return Candidates()


async def test_the_first_takes_it_and_renews_it(candidates: Candidates) -> None:
    first = candidates("first")
    assert await first.attempt() == 1000.0
    acquired = (await candidates.spec())["acquireTime"]
    candidates.time.now += 2
    assert await first.attempt() == 1002.0
    spec = await candidates.spec()
    assert (spec["holderIdentity"], spec["leaseTransitions"], spec["acquireTime"]) == ("first", 0, acquired)
    assert spec["leaseDurationSeconds"] == 15


async def test_another_waits_as_long_as_it_is_renewed(candidates: Candidates) -> None:
    first, second = candidates("first"), candidates("second")
    await first.attempt()
    for _ in range(30):
        candidates.time.now += 2
        await first.attempt()
        assert await second.attempt() is None


async def test_another_takes_it_after_its_duration_by_its_own_clock(candidates: Candidates) -> None:
    first, second = candidates("first"), candidates("second")
    await first.attempt()
    assert await second.attempt() is None
    candidates.time.now += 14
    assert await second.attempt() is None
    candidates.time.now += 2
    assert await second.attempt() is not None
    spec = await candidates.spec()
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("second", 1)
    assert await first.attempt() is None


async def test_a_latecomer_waits_the_whole_duration_from_its_first_look(candidates: Candidates) -> None:
    await candidates("first").attempt()
    candidates.time.now += 1000
    late = candidates("late")
    assert await late.attempt() is None
    candidates.time.now += 16
    assert await late.attempt() is not None


async def test_of_two_that_take_it_at_once_one_gets_it(candidates: Candidates) -> None:
    await candidates("gone").attempt()
    second, third = candidates("second"), candidates("third")
    await asyncio.gather(second.attempt(), third.attempt())
    candidates.time.now += 16
    candidates.api.latency = 0.01  # both read before either writes
    taken = await asyncio.gather(second.attempt(), third.attempt())
    assert sorted(moment is not None for moment in taken) == [False, True]


async def test_two_that_create_it_at_once(candidates: Candidates) -> None:
    candidates.api.latency = 0.01
    taken = await asyncio.gather(candidates("a").attempt(), candidates("b").attempt())
    assert sorted(moment is not None for moment in taken) == [False, True]


async def test_a_released_lease_is_free_at_once(candidates: Candidates) -> None:
    first = candidates("first")
    await first.attempt()
    await first.release()
    assert await candidates("second").attempt() is not None
    await first.release()  # not its own any more
    assert (await candidates.spec())["holderIdentity"] == "second"


async def test_an_unclear_answer_is_an_error_and_not_a_loss(candidates: Candidates) -> None:
    first = candidates("first")
    await first.attempt()
    candidates.api.fail(Unavailable("away"), verb="patch")
    with pytest.raises(Unavailable):
        await first.attempt()
    candidates.api.fail(Conflict("changed"), verb="patch")
    assert await first.attempt() is None


def connected(api: MemoryKube) -> Connect:
    @asynccontextmanager
    async def connect() -> AsyncIterator[KubeApi]:
        yield api

    return connect


class Loss:
    """What the thread says when it loses."""

    def __init__(self) -> None:
        self.why: list[str] = []
        self.told = threading.Event()

    def __call__(self, why: str) -> None:
        self.why.append(why)
        self.told.set()


async def test_the_thread_holds_it_and_lets_it_go() -> None:
    api, loss = MemoryKube(), Loss()
    lease = Lease(connected(api), "home", "operator", "me", loss, PATIENT)
    with pytest.raises(Fenced):
        lease.check()
    lease.start()
    await asyncio.wait_for(lease.acquired(), WAIT)
    assert lease.leading
    lease.check()
    await lease.stop()
    assert not lease.leading
    assert loss.why == []
    stored = await api.get(LEASE, "home", "operator")
    assert stored is not None
    assert stored["spec"]["holderIdentity"] == ""
    with pytest.raises(Fenced):
        lease.check()


async def test_a_lease_that_cannot_be_renewed_is_lost_and_nothing_is_written_before_that() -> None:
    api, loss = MemoryKube(), Loss()
    lease = Lease(connected(api), "home", "operator", "me", loss, QUICK)
    lease.start()
    await asyncio.wait_for(lease.acquired(), WAIT)
    api.down = True
    assert await asyncio.to_thread(loss.told.wait, WAIT)
    with pytest.raises(Fenced):
        lease.check()
    assert loss.why == ["the lease could not be renewed in time"]
    assert not lease.leading


async def test_a_lease_that_another_holds_is_lost_at_once() -> None:
    api, loss = MemoryKube(), Loss()
    lease = Lease(connected(api), "home", "operator", "me", loss, PATIENT)
    lease.start()
    await asyncio.wait_for(lease.acquired(), WAIT)
    await api.patch(LEASE, "home", "operator", {"spec": {"holderIdentity": "usurper"}})
    assert await asyncio.to_thread(loss.told.wait, WAIT)
    assert loss.why == ["another operator holds the lease"]


async def test_a_standby_takes_over_when_the_leader_lets_go() -> None:
    api = MemoryKube()
    leader, standby = (Lease(connected(api), "home", "operator", name, Loss(), PATIENT) for name in ("a", "b"))
    leader.start()
    await asyncio.wait_for(leader.acquired(), WAIT)
    standby.start()
    assert not standby.leading
    await leader.stop()
    await asyncio.wait_for(standby.acquired(), WAIT)
    await standby.stop()


async def test_a_thread_that_breaks_ends_the_process() -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[KubeApi]:
        raise RuntimeError("no way")
        yield MemoryKube()

    loss = Loss()
    Lease(broken, "home", "operator", "me", loss, QUICK).start()
    assert await asyncio.to_thread(loss.told.wait, WAIT)
    assert "no way" in loss.why[0]
