"""Suspects of a crash in real child processes: the poisoned one fails alone, the innocent settle, nothing hangs."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kubegym.core.errors import RunFailed
from kubegym.core.protocols import Assignment, Attempt
from kubegym.rollout import BatchRun, ChildSpec, open_plan, read_run
from kubegym.rollout.isolate import ChildDied, IsolatedChild
from kubegym.storage import LocalStore, MemoryStore, ObjectStore
from kubegym.storage.faults import Fault, FaultyStore, Injected, SimulatedCrash
from testbed.episodes import Rows, ScriptedEpisodes, draft
from testbed.poison import assignment_of
from testbed.runs import QUICK, access, assert_exactly_once, until

pytestmark = pytest.mark.contract

WAIT = 240.0
FACTORY = "testbed.poison:poisoned"
ASKED = draft(8, 1)


def spec(poison: dict[str, str], pids: Path | None = None, memory: int | None = None) -> ChildSpec:
    return ChildSpec(FACTORY, {"poison": poison, "pids": str(pids) if pids else None}, memory_bytes=memory)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_child_answers_many_calls_at_once() -> None:
    async with asyncio.timeout(WAIT), IsolatedChild(spec({})) as child:
        attempts = await asyncio.gather(*(child.run(assignment_of(task)) for task in range(20)))
    assert [attempt.response["id"] for attempt in attempts if attempt.response] == [f"resp-{n}-0" for n in range(20)]


@pytest.mark.parametrize("how", ["exit", "segfault", "raise", "unpicklable"])
async def test_a_child_that_dies_says_so_to_everyone_who_waits(how: str) -> None:
    async with asyncio.timeout(WAIT), IsolatedChild(spec({"0": how, "1": "sleep"})) as child:
        waiting = asyncio.create_task(child.run(assignment_of(1)))
        await asyncio.sleep(0)
        with pytest.raises(ChildDied):
            await child.run(assignment_of(0))
        with pytest.raises(ChildDied):
            await waiting
        assert not child.alive
        with pytest.raises(ChildDied):
            await child.run(assignment_of(2))


async def test_more_memory_than_allowed_ends_the_child_not_the_machine() -> None:
    async with asyncio.timeout(WAIT), IsolatedChild(spec({"0": "memory"}, memory=1 << 30)) as child:
        with pytest.raises(ChildDied):
            await child.run(assignment_of(0))


async def test_a_child_that_hangs_is_killed_when_it_is_left(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    async with asyncio.timeout(WAIT):
        async with IsolatedChild(spec({"0": "hang"}, pids)) as child:
            task = asyncio.create_task(child.run(assignment_of(0)))
            await until(lambda: pids.exists() and "\n" in pids.read_text())
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert not alive(int(pids.read_text().split()[0]))


@pytest.mark.parametrize(
    ("factory", "problem"),
    [
        ("testbed.poison:broken", "ValueError: no such environment"),
        ("testbed.poison:dying", "it died"),
        ("testbed.poison:absent", "AttributeError"),
        ("testbed.absent:poisoned", "ModuleNotFoundError"),
    ],
)
async def test_a_child_that_cannot_start_blames_no_rollout(factory: str, problem: str) -> None:
    async with asyncio.timeout(WAIT):
        with pytest.raises(RunFailed, match=problem) as caught:
            async with IsolatedChild(ChildSpec(factory)):
                pass
    assert caught.value.reason == "NoIsolation"


class Death:
    """A schedule of faults: from the moment it is told, nothing gets through to the store any more."""

    def __init__(self) -> None:
        self.came = False

    def next(self, operation: str, key: str) -> Injected | None:
        return Injected(Fault.CRASH_BEFORE) if self.came else None


class Fatal(ScriptedEpisodes):
    """The rollouts of some tasks take their worker down."""

    def __init__(self, fatal: dict[str, str], death: Death) -> None:
        super().__init__()
        self._fatal = fatal
        self._death = death

    async def run(self, assignment: Assignment) -> Attempt:
        if str(assignment.task_index) in self._fatal:
            self._death.came = True
            raise SimulatedCrash
        return await super().run(assignment)


async def crashed_worker(store: ObjectStore, poison: dict[str, str]) -> None:
    """A worker that dies of its poison and cannot release what it holds; its lease is over at once."""
    death = Death()
    faulty = FaultyStore(store, death)
    mine = replace(access(faulty, worker="victim"), lease_seconds=0.0)
    opened = await open_plan(faulty, ASKED, mine.clock)
    with pytest.raises(SimulatedCrash):
        await BatchRun(mine, opened, Fatal(poison, death), Rows(), QUICK).run()
    assert death.came


async def next_worker(store: ObjectStore, child: ChildSpec, episodes: ScriptedEpisodes, worker: str) -> BatchRun:
    mine = access(store, worker=worker)
    return BatchRun(mine, await open_plan(store, ASKED, mine.clock), episodes, Rows(), QUICK, child=child)


@pytest.mark.parametrize("how", ["exit", "segfault"])
@pytest.mark.parametrize("kind", ["memory", "local"])
async def test_after_a_crash_the_poisoned_rollout_fails_alone(how: str, kind: str, tmp_path: Path) -> None:
    store: ObjectStore = MemoryStore() if kind == "memory" else LocalStore(tmp_path / "run")
    pids = tmp_path / "pids"
    poison = {"5": how}
    async with asyncio.timeout(WAIT):
        await crashed_worker(store, poison)
        episodes = ScriptedEpisodes()
        manifest = await (await next_worker(store, spec(poison, pids), episodes, "next")).run()
    rows = await assert_exactly_once(store)
    failed = [row["kubegym"] for row in rows if row["kubegym"]["outcome"] == "failed"]
    assert [ours["task_index"] for ours in failed] == [5]
    assert failed[0]["failure"] == {
        "stage": "worker",
        "reason": "WorkerCrashed",
        "message": "the process that ran this rollout alone died 2 times",
        "retryable": False,
        "attempt": 0,
    }
    assert manifest.totals.scored == 7
    runs = [line.split() for line in pids.read_text().splitlines()]
    poisoned = [pid for pid, rollout in runs if rollout.endswith("-5-0")]
    assert len(set(poisoned)) == 3, "once with all others, then twice alone"
    assert not any(rollout.endswith("-5-0") for rollout in episodes.started), "a suspect ran in the worker"
    assert not any(alive(int(pid)) for pid, _ in runs)
    await store.close()


async def test_a_worker_killed_from_outside_counts_against_nobody() -> None:
    store = MemoryStore()
    async with asyncio.timeout(WAIT):
        for _ in range(3):
            await crashed_worker(store, {"0": "exit", "5": "exit"})
        manifest = await (await next_worker(store, spec({}), ScriptedEpisodes(), "next")).run()
    await assert_exactly_once(store)
    assert manifest.totals.scored == 8


async def test_a_stop_ends_suspects_that_hang_and_leaves_them_to_the_next(tmp_path: Path) -> None:
    store = MemoryStore()
    pids = tmp_path / "pids"
    async with asyncio.timeout(WAIT):
        await crashed_worker(store, {"5": "exit"})
        run = await next_worker(store, spec({"5": "hang"}, pids), ScriptedEpisodes(), "next")
        task = asyncio.create_task(run.run())
        await until(lambda: pids.exists() and "-5-0\n" in pids.read_text())
        run.stop()
        manifest = await task
        assert not manifest.complete
        hung = int(pids.read_text().split()[0])
        assert not alive(hung)
        manifest = await (await next_worker(store, spec({}), ScriptedEpisodes(), "last")).run()
    await assert_exactly_once(store)
    assert manifest.totals.scored == 8


async def test_without_isolation_the_run_ends_and_its_suspects_are_left_to_the_next() -> None:
    store = MemoryStore()
    async with asyncio.timeout(WAIT):
        await crashed_worker(store, {"5": "exit"})
        run = await next_worker(store, ChildSpec("testbed.poison:broken"), ScriptedEpisodes(), "next")
        with pytest.raises(RunFailed, match="no such environment"):
            await run.run()
        stored = await read_run(store)
        assert not stored.manifest.complete
        assert stored.manifest.totals.failed == 0
        assert "manifest.incomplete.json" in store.objects
        await (await next_worker(store, spec({}), ScriptedEpisodes(), "last")).run()
    await assert_exactly_once(store)


async def test_an_orphaned_child_does_not_outlive_its_worker(tmp_path: Path) -> None:
    """The worker is killed for good while its child hangs in code that gives no way to anything."""
    pids = tmp_path / "pids"
    script = f"""
import asyncio
from testbed.poison import assignment_of
from kubegym.rollout.isolate import ChildSpec, IsolatedChild
async def main():
    async with IsolatedChild(ChildSpec({FACTORY!r}, {{"poison": {{"0": "hang"}}, "pids": {str(pids)!r}}})) as child:
        await child.run(assignment_of(0))
asyncio.run(main())
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    worker = await asyncio.create_subprocess_exec(sys.executable, "-c", script, env=environment)
    async with asyncio.timeout(WAIT):
        await until(lambda: worker.returncode is not None or (pids.exists() and "\n" in pids.read_text()))
        worker.kill()
        await worker.wait()
        orphan = int(pids.read_text().split()[0])
        await until(lambda: not alive(orphan))
