"""Whole runs over real stores: a folder and an S3 server; workers that share, stop, and are killed for good."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kubegym.core.errors import OutputInUse
from kubegym.rollout import BatchRun, open_plan, read_run
from kubegym.storage import LocalStore, ObjectStore, StoreOptions, open_store, probe_conditional_writes
from testbed.build import CannotBuild
from testbed.episodes import Rows, ScriptedEpisodes, draft, lognormal, mixed
from testbed.required import unavailable
from testbed.runs import QUICK, access, assert_exactly_once, collect, until
from testbed.s3 import S3Server, s3_server

pytestmark = pytest.mark.contract

WAIT = 300.0
ASKED = draft(30, 3, tasks_per_shard=4)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    try:
        with s3_server(["runs"]) as server:
            yield server
    except CannotBuild as error:
        unavailable(str(error))


@pytest.fixture(params=["local", "s3"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    opened: ObjectStore
    if request.param == "local":
        opened = LocalStore(tmp_path / "run")
    else:
        server: S3Server = request.getfixturevalue("s3")
        options = StoreOptions(endpoint=server.endpoint, region="us-east-1", credentials=server.credentials)
        opened = open_store(f"s3://runs/{uuid.uuid4().hex}", options=options)
    await probe_conditional_writes(opened)
    yield opened
    await opened.close()


def busy() -> ScriptedEpisodes:
    return ScriptedEpisodes(mixed, pause=lognormal(1.0, 0.02))


async def test_two_workers_share_a_run(store: ObjectStore) -> None:
    workers = [busy(), busy()]
    async with asyncio.timeout(WAIT):
        await asyncio.gather(
            *(collect(store, ASKED, one, worker=f"pod-{n}", start=n / 2) for n, one in enumerate(workers))
        )
        if not (await read_run(store)).manifest.complete:  # each ended when the other's last shards were held
            await collect(store, ASKED, busy(), worker="pod-2")
        rows = await assert_exactly_once(store)
    assert len(rows) == 90
    assert all(one.started for one in workers)
    started = [rollout for one in workers for rollout in one.started]
    assert len(set(started)) == len(started), "both ran the same attempt, though nobody died"


async def test_stopped_again_and_again_a_run_still_ends(store: ObjectStore) -> None:
    async with asyncio.timeout(WAIT):
        for life in range(50):
            mine = access(store, worker=f"pod-{life}")
            run = BatchRun(mine, await open_plan(store, ASKED, mine.clock), busy(), Rows(), QUICK)
            task = asyncio.create_task(run.run())
            goal = (life + 1) * 13
            await until(lambda run=run, task=task, goal=goal: task.done() or run.progress.totals.settled >= goal)
            run.stop()
            manifest = await task
            assert manifest.totals.settled == run.progress.totals.settled, "a finished rollout was not saved"
            if manifest.complete:
                break
        await assert_exactly_once(store)
    assert 2 <= life < 10


async def test_growth_and_a_rival(store: ObjectStore) -> None:
    async with asyncio.timeout(WAIT):
        await collect(store, draft(5, 2), busy())
        slow = ScriptedEpisodes(pause=lambda _: 1e6)
        mine = access(store, uid="first")
        run = BatchRun(mine, await open_plan(store, draft(9, 3), mine.clock), slow, Rows(), QUICK)
        task = asyncio.create_task(run.run())
        await until(lambda: slow.in_flight == QUICK.concurrency)
        with pytest.raises(OutputInUse, match="first"):
            await collect(store, draft(9, 3), busy(), uid="second")
        run.stop()
        await task
        manifest = await collect(store, draft(9, 3), busy(), uid="second")
        assert manifest.generation == 2
        assert len(await assert_exactly_once(store)) == 27


@pytest.mark.parametrize("seed", range(10))
async def test_killed_for_good_at_any_moment(seed: int, tmp_path: Path) -> None:
    """Real processes, real SIGKILL, a real folder; every other seed runs suspects in isolation."""
    rng = random.Random(seed)
    folder = tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    kills = 0
    async with asyncio.timeout(WAIT):
        while True:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "testbed.killed",
                str(folder),
                str(seed),
                env=environment,
                stdout=asyncio.subprocess.PIPE,
            )
            assert process.stdout is not None
            await process.stdout.readline()  # it works, or has ended
            if kills < 4:
                await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=rng.uniform(0.0, 0.25))
            if kills < 4 and process.returncode is None:
                process.kill()
                kills += 1
            await process.communicate()
            if process.returncode == 0:
                break
            assert process.returncode == -9
        store = LocalStore(folder)
        rows = await assert_exactly_once(store)
        heads = (await read_run(store)).manifest.shards
        await store.close()
    assert len(rows) == 120
    assert kills > 0
    assert not any(row["kubegym"]["failure"] and row["kubegym"]["failure"]["stage"] == "worker" for row in rows)
    assert len(heads) == 8
