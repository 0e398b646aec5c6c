"""What three servers cost: agent, resources and model server between the worker and the model.

CPU seconds of all our processes (worker, agent server, resources server, model server) per 1,000 rollouts, their
memory, and what it takes to start them. The model is the simulated engine in a process of its own, measured apart.

usage: python -m benchmarks.split ENVIRONMENT ROLLOUTS IN_FLIGHT...
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from dataclasses import replace

import uvloop

from benchmarks.figures import ROOT, Figure, cpu_of, report, rss, scratch, stub
from benchmarks.rollouts import ROWS
from benchmarks.start import children
from kubegym.local.localrun import LocalRun
from kubegym.local.resolve import RunFlags, resolve
from kubegym.local.runspec import RunSpec
from kubegym.local.split import split_servers

TARGETS = {"mcqa": 1.2, "example_session_state": 2.4}


async def measure(spec: RunSpec, rollouts: int, servers: list[int]) -> tuple[float, float]:
    """CPU seconds per 1,000 rollouts, and peak memory in MB, of the servers and of this process."""
    peak = 0.0

    async def sample() -> None:
        nonlocal peak
        while True:
            peak = max(peak, rss() + sum(rss(pid) for pid in servers))
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(sample())
    before = time.process_time() + sum(map(cpu_of, servers))
    result = await LocalRun(spec).run()
    spent = time.process_time() + sum(map(cpu_of, servers)) - before
    watching.cancel()
    assert result.manifest.totals.scored == rollouts, result.manifest.totals
    return spent / rollouts * 1000, peak


async def main() -> None:
    """Start the servers once, warm them up, then measure each number in flight."""
    environment, rollouts = sys.argv[1], int(sys.argv[2])
    rows = ROWS[environment](scratch() / "rows.jsonl", rollouts)
    with stub() as (url, stub_pid):
        flags = RunFlags(dataset=str(rows), base_url=url, model="stub", output=str(scratch() / "out"))
        base = resolve([str(ROOT / "environments" / environment)], flags)
        figures = []
        began = time.monotonic()
        async with split_servers(base) as spec:
            wall = time.monotonic() - began
            servers = [pid for pid in children(os.getpid()) if pid != stub_pid]
            start = sum(map(cpu_of, servers))
            warm = replace(spec, entries=tuple(replace(e, dataset=replace(e.dataset, limit=200)) for e in spec.entries))
            await LocalRun(replace(warm, output=str(scratch() / "warm"))).run()
            for in_flight in map(int, sys.argv[3:]):
                output = scratch() / f"out-{in_flight}"
                run = replace(spec, concurrency=in_flight, output=str(output))
                cpu, memory = await measure(run, rollouts, servers)
                shutil.rmtree(output)
                name = f"{environment} over three servers, {in_flight:,} in flight"
                figures.append(Figure(f"{name}: CPU per 1,000 rollouts", cpu, "s", TARGETS[environment]))
                if in_flight == 1024:
                    figures.append(Figure(f"{name}: RSS of all our processes", memory, "MB", 400.0))
            figures.append(Figure(f"start of three servers ({environment}): CPU", start, "s", 2.5))
            figures.append(Figure(f"start of three servers ({environment}): wall", wall, "s", 2.0))
    report(figures)


if __name__ == "__main__":
    uvloop.run(main())
