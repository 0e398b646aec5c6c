"""Driving batch runs over a store in tests, and checking what they leave."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson

from kubegym.core.clock import Clock, LoopClock
from kubegym.core.protocols import Episodes
from kubegym.core.retry import Backoff
from kubegym.rollout import (
    BatchRun,
    Draft,
    Manifest,
    Plan,
    StoreAccess,
    StoredRun,
    WorkerSettings,
    job_holder,
    open_plan,
    read_run,
)
from kubegym.storage.protocol import ObjectStore
from testbed.episodes import Rows

QUICK = WorkerSettings(concurrency=8, flush_seconds=1.0, retry_delay=Backoff(base=0.1), max_failed_fraction=1.0)


def access(store: ObjectStore, *, worker: str = "pod-0", uid: str = "job", clock: Clock | None = None) -> StoreAccess:
    """A worker's access with short patience; time follows the loop unless a clock is given."""
    return StoreAccess(
        store,
        job_holder(uid, worker),
        clock or LoopClock(),
        lease_seconds=30.0,
        backoff=Backoff(attempts=5, base=0.1),
        rng=random.Random(worker),
    )


async def collect(
    store: ObjectStore,
    asked: Draft,
    episodes: Episodes,
    *,
    settings: WorkerSettings = QUICK,
    worker: str = "pod-0",
    start: float = 0.0,
    uid: str = "job",
) -> Manifest:
    """One worker's part in a batch run."""
    mine = access(store, worker=worker, uid=uid)
    opened = await open_plan(store, asked, mine.clock)
    return await BatchRun(mine, opened, episodes, Rows(), settings, start=start).run()


async def rows_of(store: ObjectStore) -> list[dict[str, Any]]:
    """The final rows of a run, in order."""
    run = await read_run(store)
    return [orjson.loads(line) async for lines in run.tasks() for line in lines]


def planned_ids(plan: Plan) -> set[tuple[int, int]]:
    """Task and rollout index of everything a run plans, all generations."""
    return {
        (task, rollout)
        for segment in plan.segments
        for task in range(segment.first_task, segment.first_task + segment.tasks)
        for rollout in range(segment.rollouts[1])
    }


async def assert_exactly_once(store: ObjectStore) -> list[dict[str, Any]]:
    """Every planned rollout has exactly one result, and the manifest's figures are those of its rows."""
    run = await read_run(store)
    assert run.manifest.complete
    rows = await rows_of(store)
    found = Counter((row["kubegym"]["task_index"], row["_ng_rollout_index"]) for row in rows)
    assert set(found) == planned_ids(run.plan)
    assert set(found.values()) <= {1}
    outcomes = Counter(row["kubegym"]["outcome"] for row in rows)
    totals = run.manifest.totals
    assert (totals.scored, totals.unscored, totals.failed) == tuple(
        outcomes[o] for o in ("scored", "unscored", "failed")
    )
    assert totals.stale == sum(row["kubegym"]["stale"] for row in rows)
    assert totals.reward == sum(row["reward"] or 0.0 for row in rows)
    attempts = [orjson.loads(line) async for line in run.attempts()]
    assert totals.attempts == len(attempts)
    settling = Counter(
        (row["kubegym"]["task_index"], row["_ng_rollout_index"], row["kubegym"]["attempt"]) for row in attempts
    )
    assert set(settling.values()) <= {1}, "an attempt was committed twice"
    await _assert_samples_of(run, rows)
    return rows


async def _assert_samples_of(run: StoredRun, rows: list[dict[str, Any]]) -> None:
    """Token data is there of the rows that say so, each once, and of no attempt that was made again."""
    kept = {row["kubegym"]["rollout_id"]: row["kubegym"]["stale"] for row in rows if row["kubegym"]["samples_ref"]}
    found = [one async for table in run.samples() for one in table.select(["rollout_id", "stale"]).to_pylist()]
    assert sorted((one["rollout_id"], one["stale"]) for one in found) == sorted(kept.items())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that tells nobody when it happens."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def settle(*tasks: asyncio.Task[Any]) -> list[Any]:
    """Results or exceptions of tasks."""
    return await asyncio.gather(*tasks, return_exceptions=True)
