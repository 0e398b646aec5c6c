"""Replicas that take calls and say nothing, in virtual time."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from kubegym.http import Url
from kubegym.http.replicas import Replica
from kubegym.http.watch import TRIAL_SECONDS, Watch

pytestmark = [pytest.mark.unit, pytest.mark.looptime]


class Engine:
    """What a watch is told of a replica."""

    def __init__(self, *, works: bool) -> None:
        self.works = works
        self.looks = self.notes = self.trials = 0
        self.asked: list[str] = []

    async def at_work(self, replica: Replica) -> bool:
        self.looks += 1
        self.asked.append("look")
        return self.works

    async def answers(self, replica: Replica) -> bool:
        self.trials += 1
        return self.works

    async def note(self, replica: Replica) -> bool:
        self.notes += 1
        self.asked.append("note")
        return True


def watching(engine: Engine) -> Watch:
    return Watch(engine.at_work, engine.answers, note=engine.note, seconds=30.0)


async def call(watch: Watch, replica: Replica, seconds: float) -> str:
    scope, heard = asyncio.timeout(None), False
    try:
        async with scope:
            watch.begin(replica, scope)
            try:
                await asyncio.sleep(seconds)
                heard = True
            finally:
                watch.end(replica, scope, heard)
    except TimeoutError:
        return "cut"
    return "whole"


async def test_calls_at_a_silent_replica_are_cut_and_nobody_is_sent_there() -> None:
    engine, replica = Engine(works=False), Replica(Url("http://127.0.0.1:1"))
    watch = watching(engine)
    loop = asyncio.get_running_loop()
    calls = await asyncio.gather(*(call(watch, replica, 1000.0) for _ in range(5)))
    assert calls == ["cut"] * 5
    assert 30 <= loop.time() <= 36
    assert (replica.out_until, watch.found, engine.notes) == (math.inf, 1, 1)
    assert not replica.usable(loop.time())
    await asyncio.sleep(3 * TRIAL_SECONDS + 1)
    assert engine.trials == 3
    engine.works = True
    await asyncio.sleep(TRIAL_SECONDS)
    assert replica.usable(loop.time())
    assert replica.joined > 0, "it starts slowly"
    watch.close()


async def test_one_that_is_at_work_is_left_in_peace() -> None:
    engine, replica = Engine(works=True), Replica(Url("http://127.0.0.1:1"))
    watch = watching(engine)
    assert await call(watch, replica, 600.0) == "whole"
    assert engine.looks > 10
    assert replica.usable(0.0)
    watch.close()


async def test_one_that_answers_others_is_not_even_looked_at() -> None:
    engine, replica = Engine(works=False), Replica(Url("http://127.0.0.1:1"))
    watch = watching(engine)
    long = asyncio.ensure_future(call(watch, replica, 300.0))
    for _ in range(20):
        await call(watch, replica, 14.0)
    assert await long == "whole"
    assert engine.looks == 0
    watch.close()


async def test_nothing_runs_while_no_call_is_open() -> None:
    engine, replica = Engine(works=False), Replica(Url("http://127.0.0.1:1"))
    watch = watching(engine)
    await call(watch, replica, 1.0)
    await asyncio.sleep(600)
    assert (engine.looks, engine.notes) == (0, 0)
    assert await call(watch, replica, 10.0) == "whole"


@pytest.mark.looptime(False)
async def test_after_a_stall_of_this_process_it_is_noted_first_how_far_a_replica_is() -> None:
    engine, replica = Engine(works=False), Replica(Url("http://127.0.0.1:1"))
    watch = Watch(engine.at_work, engine.answers, note=engine.note, seconds=0.2)
    open_call = asyncio.ensure_future(call(watch, replica, 600.0))
    await asyncio.sleep(0)
    time.sleep(0.4)  # noqa: ASYNC251 - a machine that stands still
    assert await open_call == "cut"
    assert engine.asked == ["note", "look"]
    watch.close()
