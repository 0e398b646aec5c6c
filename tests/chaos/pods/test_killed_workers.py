"""Worker pods, killed at any moment, over a real S3 server: every rollout has exactly one result."""

from __future__ import annotations

import asyncio
import random

import pytest

from testbed.pods import Cluster, ended, kill, pods_end, rows_of, url_of, worker_entry

pytestmark = pytest.mark.chaos

WAIT = 600.0
SHARDS = {"tasksPerShard": 3}


@pytest.mark.parametrize(("workers", "seed"), [(1, 1), (2, 2), (3, 3), (4, 4)])
async def test_killed_at_any_moment_each_rollout_has_one_result(
    workers: int, seed: int, cluster: Cluster, model: str, prefix: str
) -> None:
    """A killed pod is replaced by another of its index, as an Indexed Job does it."""
    rng = random.Random(seed)
    cluster.workers = workers
    cluster.freeze(prefix, {"math": worker_entry(model)}, rolloutsPerTask=4, sharding=SHARDS)
    pods: list[asyncio.subprocess.Process] = []
    kills = 0

    async def live(index: int) -> None:
        nonlocal kills
        life = 0
        while True:
            life += 1
            process = await cluster.worker(f"worker-{index}-{life}", index)
            pods.append(process)
            await url_of(process)
            if life <= 2:
                await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=rng.uniform(0.2, 2.5))
                if process.returncode is None:
                    kill(process)
                    kills += 1
            code = await ended(process)
            if code == 0:
                return
            assert code in (-9, 12), cluster.log(f"worker-{index}-{life}")

    async with asyncio.timeout(WAIT), pods_end(pods):
        await asyncio.gather(*(live(index) for index in range(workers)))
        assert await cluster.finalise() == 0, cluster.log("finaliser")
        rows = await rows_of(cluster, prefix)
    assert kills
    assert len(rows) == 96
    assert {row["kubegym"]["outcome"] for row in rows} == {"scored"}
    said = cluster.words("finaliser")
    assert said["rollouts"] == {"expected": 96, "scored": 96, "unscored": 0, "failed": 0}
