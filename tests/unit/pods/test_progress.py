"""What the operator is told of a run."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from kubegym.core.clock import LoopClock
from kubegym.core.errors import StoreError
from kubegym.http.server import Problem, Request
from kubegym.pods.progress import ANSWER_SECONDS, Progress, RunProgress, decimal, figures, most_frequent, timestamp
from kubegym.rollout import open_plan
from kubegym.rollout.head import Totals
from kubegym.storage import MemoryStore, ObjectStore, Stored
from testbed.episodes import ScriptedEpisodes, draft, mixed
from testbed.runs import collect

pytestmark = [pytest.mark.unit, pytest.mark.looptime]


class CountingStore(MemoryStore):
    """Counts reads; may be slow, or away."""

    reads = 0
    seconds = 0.0
    away = False

    async def get(self, key: str) -> Stored | None:
        self.reads += 1
        await asyncio.sleep(self.seconds)
        if self.away:
            raise StoreError("away")
        return await super().get(key)


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


async def begun(store: ObjectStore) -> RunProgress:
    """Of a run that has a plan and nothing else."""
    clock = LoopClock()
    opened = await open_plan(store, draft(10, 3, tasks_per_shard=2), clock)
    return RunProgress(store, opened.plan, clock)


async def finish(store: ObjectStore) -> None:
    await collect(store, draft(10, 3, tasks_per_shard=2), ScriptedEpisodes(mixed))


async def test_from_nothing_to_all(store: CountingStore) -> None:
    progress = await begun(store)
    before = await progress.answer()
    assert before["shards"] == {"total": 5, "committed": 0, "active": 0}
    assert before["rollouts"] == {"expected": 30, "scored": 0, "unscored": 0, "failed": 0}
    assert before["rewardMean"] is None
    await finish(store)
    await asyncio.sleep(10)
    after = await progress.answer()
    assert after["shards"] == {"total": 5, "committed": 5, "active": 0}
    counts = dict(after["rollouts"])
    assert counts.pop("expected") == sum(counts.values()) == 30
    assert sum(after["failures"].values()) == counts["failed"] > 0
    assert 0 <= float(after["rewardMean"]) <= 1
    assert after["lastProgressTime"] > before["lastProgressTime"]


async def test_heads_of_committed_shards_are_read_once(store: CountingStore) -> None:
    progress = await begun(store)
    await finish(store)
    await progress.answer()
    store.reads = 0
    await asyncio.sleep(100)
    answer = await progress.answer()
    assert store.reads == 0
    assert answer["shards"]["committed"] == 5


async def test_one_answer_serves_all_who_ask_within_two_seconds(store: CountingStore) -> None:
    progress = await begun(store)
    store.reads = 0
    await asyncio.gather(*(progress.answer() for _ in range(20)))
    await progress.answer()
    assert store.reads == 5


async def test_a_slow_store_costs_the_age_of_the_answer_and_no_wait(store: CountingStore) -> None:
    progress = await begun(store)
    first = await progress.answer()
    await finish(store)
    store.seconds = 60.0
    await asyncio.sleep(5)
    started = asyncio.get_running_loop().time()
    assert await progress.answer() == first
    assert asyncio.get_running_loop().time() - started <= ANSWER_SECONDS
    await progress.close()
    store.seconds = 0.0
    assert (await progress.answer())["shards"]["committed"] == 5


async def test_a_store_that_is_away(store: CountingStore) -> None:
    progress = await begun(store)
    store.away = True
    with pytest.raises(StoreError):
        await progress.answer()
    store.away = False
    first = await progress.answer()
    store.away = True
    await asyncio.sleep(10)
    assert await progress.answer() == first


async def test_the_route(store: CountingStore) -> None:
    progress = await begun(store)

    def asked(query: bytes) -> Request:
        return Request("GET", "/progress", {}, b"", query=query)

    route = Progress("pod-0")
    with pytest.raises(Problem) as caught:
        await route.handle(asked(b"scope=run"))
    assert caught.value.status == 503
    assert orjson.loads((await route.handle(asked(b"scope=worker"))).body)["inFlight"] == 0
    route.began(progress)
    for query in (b"", b"scope=run"):
        assert orjson.loads((await route.handle(asked(query))).body)["shards"]["total"] == 5
    with pytest.raises(Problem) as caught:
        await route.handle(asked(b"scope=cluster"))
    assert caught.value.status == 422


async def test_an_answer_is_bounded_whatever_failed() -> None:
    failures = {f"Reason{number}" + "x" * 500: number for number in range(1, 500)}
    told = orjson.dumps(figures(Totals(scored=1, failed=sum(failures.values()), failures=failures), 10**9))
    assert len(told) < 8192
    assert sum(most_frequent(failures).values()) == sum(failures.values())


@pytest.mark.parametrize(
    ("value", "text"), [(0.93, "0.93"), (12.5, "12.5"), (1.0, "1"), (0.0, "0"), (-0.00001, "0"), (1 / 3, "0.3333")]
)
async def test_fractions_are_strings(value: float, text: str) -> None:
    assert decimal(value) == text


async def test_time_stamps() -> None:
    assert timestamp(0.0) == "1970-01-01T00:00:00Z"
