from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest

from kubegym_operator.kube.errors import Unavailable
from kubegym_operator.kube.kinds import KindInfo
from kubegym_operator.kube.memory import MemoryKube
from kubegym_operator.kube.protocol import Kind
from kubegym_operator.reconcile.arrivals import Arrivals
from testbed.operator_world import LEADER_WORKER_SET, OWN_KINDS

pytestmark = pytest.mark.looptime


async def test_a_kind_that_is_installed_later_is_told_once() -> None:
    api = MemoryKube(OWN_KINDS)
    told: list[Collection[Kind]] = []
    task = asyncio.create_task(Arrivals(api, told.append, period=30.0).run())
    await asyncio.sleep(100)
    assert told == []
    api.fail(Unavailable("away"), verb="serves", times=2)
    await asyncio.sleep(30)
    api.install(KindInfo(LEADER_WORKER_SET))
    await asyncio.sleep(100)
    assert told == [{LEADER_WORKER_SET}]
    api.uninstall(LEADER_WORKER_SET)
    await asyncio.sleep(30)
    api.install(KindInfo(LEADER_WORKER_SET))
    await asyncio.sleep(30)
    assert told == [{LEADER_WORKER_SET}] * 2
    task.cancel()
