from __future__ import annotations

import asyncio

import pytest
from aiohttp.test_utils import TestClient, TestServer

from kubegym_operator.kube.config import Credentials
from kubegym_operator.kube.memory import MemoryKube
from kubegym_operator.metrics import OperatorMetrics
from kubegym_operator.reconcile.cache import Cache
from kubegym_operator.reconcile.keys import Key, Result
from kubegym_operator.reconcile.queue import Queue
from kubegym_operator.reconcile.resync import Resync
from kubegym_operator.watch.probes import Health, application
from kubegym_operator.watch.stream import Stream

KEY = Key("RolloutJob", "team", "run")


async def login() -> Credentials:
    raise AssertionError("nobody watches here")


class Alive(Stream):
    """A stream that says it lives."""

    @property
    def alive(self) -> bool:
        return True


def health(*, stream: type[Stream] = Alive) -> Health:
    async def work(key: Key) -> Result:
        return Result()

    api = MemoryKube()
    return Health(
        Queue(work),
        Resync(api, Cache(), lambda key, after: None, period=100.0),
        stream(login, lambda event, obj: None),
        stuck_seconds=600.0,
        leading=lambda: True,
    )


@pytest.mark.looptime
async def test_a_standby_is_well_and_ready_for_ever() -> None:
    standby = health()
    await asyncio.sleep(100_000)
    assert standby.wrong() is None
    assert standby.unready() is None


@pytest.mark.looptime
async def test_a_leader_is_ready_when_it_knows_the_cluster() -> None:
    leader = health()
    leader.led = asyncio.get_running_loop().time()
    assert leader.unready() == "reading the cluster"
    assert leader.wrong() is None
    leader.filled = True
    assert leader.unready() is None
    leader.stopping = True
    assert leader.unready() == "shutting down"


@pytest.mark.looptime
async def test_a_key_that_is_due_for_too_long_is_told() -> None:
    leader = health()
    leader.led = 0.0
    leader.queue.add(KEY)  # and nobody works
    await asyncio.sleep(500)
    assert leader.wrong() is None
    await asyncio.sleep(200)
    assert leader.wrong() == "a key is due since 700 s"
    leader.filled = True
    assert leader.unready() == leader.wrong()


@pytest.mark.looptime
async def test_a_leader_that_has_listed_nothing_for_too_long_is_told() -> None:
    leader = health()
    leader.led = 0.0
    await asyncio.sleep(850)
    assert leader.wrong() is None
    leader.resync.last = 850.0
    await asyncio.sleep(850)
    assert leader.wrong() is None
    await asyncio.sleep(100)
    assert leader.wrong() == "nothing has been listed for 950 s"


async def test_a_leader_without_watches_is_told() -> None:
    leader = health(stream=Stream)
    leader.led = asyncio.get_running_loop().time()
    leader.filled = True
    assert leader.wrong() == "nobody watches"


async def test_the_endpoints_tell_it() -> None:
    leader = health(stream=Stream)
    async with TestClient(TestServer(application(leader, OperatorMetrics().registry))) as client:
        answer = await client.get("/healthz")
        assert answer.status == 200
        assert await answer.json() == {
            "status": "ok",
            "leading": True,
            "lastEventAge": None,
            "lastResyncAge": None,
            "oldestKeyAge": 0.0,
            "queueDepth": 0,
        }
        leader.led = asyncio.get_running_loop().time()
        answer = await client.get("/readyz")
        assert answer.status == 503
        assert (await answer.json())["status"] == "reading the cluster"
        leader.filled = True
        leader.last_event = leader.resync.last = asyncio.get_running_loop().time()
        answer = await client.get("/healthz")
        assert answer.status == 503
        body = await answer.json()
        assert body["status"] == "nobody watches"
        assert body["lastEventAge"] >= 0
        answer = await client.get("/metrics")
        assert b"kubegym_build_info" in await answer.read()
