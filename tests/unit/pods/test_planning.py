"""One worker plans, the others wait, and another plans when the first one dies over it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from kubegym.core.errors import InvalidRows, PlanConflict, RowProblem, StoreError
from kubegym.pods.planning import HEAD_START_SECONDS, LEASE_KEY, open_shared
from kubegym.rollout import Opened
from kubegym.storage import MemoryStore, ObjectStore
from kubegym.storage.faults import Fault, FaultyStore, Rule, Script
from testbed.episodes import ScriptedEpisodes, draft
from testbed.runs import access, collect

pytestmark = [pytest.mark.unit, pytest.mark.looptime]

ASKED = draft(4, 2)


class Checks:
    """Counts who checks the rows; takes its time."""

    def __init__(self, seconds: float = 10.0, error: Exception | None = None) -> None:
        self.count = 0
        self.seconds = seconds
        self.error = error

    async def __call__(self) -> None:
        self.count += 1
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error


async def opened(store: ObjectStore, worker: str, check: Checks, *, first: bool = False) -> Opened:
    return await open_shared(access(store, worker=worker), ASKED, check, first=first)


async def test_one_of_many_checks_and_all_have_its_plan() -> None:
    store, check = MemoryStore(), Checks(seconds=100.0)  # longer than a lease: it is renewed
    found = await asyncio.gather(*(opened(store, f"{n}", check, first=n == 0) for n in range(6)))
    assert check.count == 1
    assert len({one.plan.run_id for one in found}) == 1
    assert await store.get(LEASE_KEY) is None


async def test_without_worker_0_another_plans_after_a_while() -> None:
    store, check = MemoryStore(), Checks(seconds=0.0)
    started = asyncio.get_running_loop().time()
    await opened(store, "3", check)
    assert asyncio.get_running_loop().time() - started >= HEAD_START_SECONDS
    assert check.count == 1


async def test_a_planner_that_died_is_replaced_when_its_lease_lapses() -> None:
    store = MemoryStore()
    dying = FaultyStore(store, Script(Rule(Fault.CRASH_AFTER, nth=1, operations=frozenset({"create"}))))
    with contextlib.suppress(BaseException):
        await opened(dying, "0", Checks(), first=True)
    assert await store.get(LEASE_KEY) is not None
    check = Checks(seconds=1.0)
    async with asyncio.timeout(120):
        await asyncio.gather(opened(store, "1", check), opened(store, "2", check))
    assert check.count == 1


async def test_bad_rows_end_the_planner_and_write_nothing() -> None:
    store = MemoryStore()
    bad = Checks(error=InvalidRows([RowProblem("rows", 1, "bad")], 1))
    with pytest.raises(InvalidRows):
        await opened(store, "0", bad, first=True)
    assert [key async for key in store.list()] == []


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.REPEAT])
@pytest.mark.parametrize("nth", range(1, 8))
async def test_trouble_at_any_operation(fault: Fault, nth: int) -> None:
    inner = MemoryStore()
    store = FaultyStore(inner, Script(Rule(fault, nth=nth, seconds=1.0)))
    found = await opened(store, "0", Checks(seconds=0.0), first=True)
    again = await opened(inner, "1", Checks(error=StoreError("nothing is to be checked")))
    assert again.plan == found.plan


async def test_growth_is_planned_and_checked_once_the_earlier_generation_is_finished() -> None:
    store = MemoryStore()
    await collect(store, draft(2, 1), ScriptedEpisodes())
    check = Checks(seconds=1.0)
    found = await asyncio.gather(*(opened(store, f"{n}", check, first=n == 0) for n in range(3)))
    assert check.count == 1
    assert {one.plan.generation for one in found} == {2}


async def test_another_run_s_output_is_refused() -> None:
    store = MemoryStore()
    await collect(store, draft(4, 2, temperature=1.0), ScriptedEpisodes())
    with pytest.raises(PlanConflict, match="temperature"):
        await opened(store, "0", Checks(), first=True)
