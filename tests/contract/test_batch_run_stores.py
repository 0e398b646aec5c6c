"""Whole runs over real stores: a folder and an S3 server; workers that share, stop, and are killed for good."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kubegym.core.errors import OutputInUse
from kubegym.core.protocols import Assignment, Attempt
from kubegym.rollout import BatchRun, open_plan, read_run
from kubegym.storage import LocalStore, ObjectStore, StoreOptions, open_store, probe_conditional_writes
from testbed.build import CannotBuild
from testbed.episodes import Rows, ScriptedEpisodes, draft, lognormal, mixed
from testbed.required import unavailable
from testbed.runs import QUICK, access, assert_exactly_once, collect, until
from testbed.s3 import S3Server, s3_server

pytestmark = pytest.mark.contract

WAIT = 300.0
KILLS = 4
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


class Together(ScriptedEpisodes):
    """Its rollouts wait until every worker has one: none can do all the work before the others come."""

    def __init__(self, begun: dict[Together, None], workers: int) -> None:
        super().__init__(mixed, pause=lognormal(1.0, 0.02))
        self._begun = begun
        self._workers = workers

    async def run(self, assignment: Assignment) -> Attempt:
        self._begun[self] = None
        await until(lambda: len(self._begun) == self._workers)
        return await super().run(assignment)


async def test_two_workers_share_a_run(store: ObjectStore) -> None:
    begun: dict[Together, None] = {}
    workers = [Together(begun, 2), Together(begun, 2)]
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


@asynccontextmanager
async def worker(folder: Path, seed: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that works on the run, and is there until it is killed or its input ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "testbed.killed", str(folder), str(seed)),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"working\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.parametrize("seed", range(10))
async def test_killed_for_good_at_any_moment(seed: int, tmp_path: Path) -> None:
    """Real processes, real SIGKILL, a real folder; every other seed runs suspects in isolation."""
    rng = random.Random(seed)
    folder = tmp_path / "run"
    async with asyncio.timeout(WAIT):
        for _ in range(KILLS):
            async with worker(folder, seed) as process:
                await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=rng.uniform(0.0, 0.25))
            assert process.returncode == -9
        async with worker(folder, seed) as process:
            await process.communicate(b"")
        assert process.returncode == 0
        store = LocalStore(folder)
        rows = await assert_exactly_once(store)
        heads = (await read_run(store)).manifest.shards
        await store.close()
    assert len(rows) == 120
    assert not any(row["kubegym"]["failure"] and row["kubegym"]["failure"]["stage"] == "worker" for row in rows)
    assert len(heads) == 8
