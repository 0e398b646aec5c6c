"""How well 16 workers use their slots when durations have a long tail, against one global queue (a simulation).

The real scheduler, worker, shard protocol and in-memory store run on a virtual clock; a rollout is a pause drawn from
a log-normal distribution whose 99th percentile is 6 times its mean. The ratio is that of the slots used: the same
pauses through one queue with as many slots take ``ideal`` seconds, the workers take ``taken``.

usage: python -m benchmarks.slots [TASKS]
"""

from __future__ import annotations

import asyncio
import heapq
import math
import sys

import looptime

from benchmarks.figures import Figure, report
from kubegym.core.protocols import Assignment
from kubegym.rollout import BatchRun, WorkerSettings, open_plan
from kubegym.storage import MemoryStore
from testbed.episodes import Rows, ScriptedEpisodes, draft, lognormal
from testbed.runs import access

WORKERS, SLOTS, MEAN = 16, 32, 20.0
SIGMA = 2.3263 - math.sqrt(2.3263**2 - 2 * math.log(6))  # p99 / mean = exp(2.3263 s - s^2 / 2) = 6


async def simulate(tasks: int, rollouts: int) -> tuple[float, float]:
    """Virtual seconds taken by the workers, and by one global queue."""
    store = MemoryStore()
    pause = lognormal(SIGMA, MEAN)
    pauses: list[float] = []

    def recorded(assignment: Assignment) -> float:
        pauses.append(pause(assignment))
        return pauses[-1]

    asked = draft(tasks, rollouts, tasks_per_shard=32)
    loop = asyncio.get_running_loop()
    await open_plan(store, asked, access(store).clock)
    started = loop.time()

    async def worker(number: int) -> None:
        mine = access(store, worker=f"pod-{number}")
        opened = await open_plan(store, asked, mine.clock)
        settings = WorkerSettings(concurrency=SLOTS, tick_seconds=5.0)
        await BatchRun(mine, opened, ScriptedEpisodes(pause=recorded), Rows(), settings, start=number / WORKERS).run()

    await asyncio.gather(*(worker(number) for number in range(WORKERS)))
    taken = loop.time() - started
    slots = [0.0] * (WORKERS * SLOTS)
    for seconds in pauses:
        heapq.heapreplace(slots, slots[0] + seconds)
    return taken, max(slots)


def main() -> None:
    """Print the figure."""
    tasks = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    loop = looptime.new_event_loop()
    try:
        taken, ideal = loop.run_until_complete(simulate(tasks, 8))
    finally:
        loop.close()
    name = f"slots used, log-normal durations, {WORKERS} workers x {SLOTS}, {tasks * 8:,} rollouts, ÷ one global queue"
    report([Figure(name, ideal / taken, "", 0.95, "more")])


if __name__ == "__main__":
    main()
