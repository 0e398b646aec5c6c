"""The sandbox against plain processes: how long a program takes, what it costs, and whether the server stays flat.

usage: python -m benchmarks.sandbox RUNS EXECUTIONS      (programs a figure; executions for the flat figures)
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from benchmarks.figures import Figure, report, rss
from kubegym.sandbox import Execution, Limits, LocalSandbox, SandboxSettings, proc

PLAIN = "a = 2\nb = 3\nprint(a + b)"
NUMPY = "import numpy as np\na = np.arange(5)\nprint(a.sum())"
ONE_GB = "for _ in range(1024): print('x' * (1 << 20))"
TEN_GB = "x = bytearray(10 << 30)"
PROCESSES = (
    "import os, time\nfor _ in range(2000):\n    try:\n"
    "        if not os.fork(): time.sleep(1); os._exit(0)\n    except OSError: pass"
)
PLACES = 2


def tree_cpu(pid: int) -> float:
    """CPU seconds of a process, what it waited for, and those below it."""
    return sum(map(proc.cpu_seconds, [pid, *proc.descendants(pid)]))


async def single(sandbox: LocalSandbox, code: str, runs: int) -> tuple[float, float]:
    """Median wall milliseconds of a program, and mean CPU milliseconds of all that it took, the caller's too."""
    await sandbox.run(code)
    server = server_of(sandbox)
    began = tree_cpu(server) + time.process_time()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        done = await sandbox.run(code)
        times.append(time.perf_counter() - start)
        assert done.ok, done
    used = tree_cpu(server) + time.process_time() - began
    return statistics.median(times) * 1000, used / runs * 1000


async def throughput(run: Callable[[], Awaitable[object]], runs: int) -> float:
    """Programs a second, two at a time."""

    async def some() -> None:
        for _ in range(runs // PLACES):  # a task for each program would be what the caller grows by
            await run()

    start = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(PLACES)))
    return runs / (time.perf_counter() - start)


async def ratio(sandbox: LocalSandbox, code: str, runs: int) -> float:
    """How many times more programs a second than plain processes; interleaved, since machines share."""
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    loop = asyncio.get_running_loop()
    ratios = []
    with ThreadPoolExecutor(PLACES) as threads:

        async def plain() -> None:
            await loop.run_in_executor(
                threads, lambda: subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            )

        async def boxed() -> None:
            assert (await sandbox.run(code)).ok

        for _ in range(5):
            ours = await throughput(boxed, runs)
            ratios.append(ours / await throughput(plain, max(10, runs // 10)))
    return statistics.median(ratios)


def server_of(sandbox: LocalSandbox) -> int:
    """The fork server's process id."""
    assert sandbox._server is not None
    return sandbox._server._process.pid


def state_of(server: int) -> tuple[float, int, int, int]:
    """RSS in MB, descriptors, threads and zombies of the fork server and its wardens."""
    pids = [server, *proc.descendants(server)]
    zombies = sum(proc.state(pid) == "Z" for pid in pids)
    alive = [pid for pid in pids if proc.state(pid) not in ("", "Z")]
    descriptors = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in alive)
    return sum(map(rss, alive)), descriptors, sum(map(proc.threads, alive)), zombies


async def flat(sandbox: LocalSandbox, executions: int) -> list[Figure]:
    """What the fork server and its wardens have grown by."""
    await throughput(lambda: sandbox.run("x = 1"), 1000)
    before, own = state_of(server_of(sandbox)), rss()
    await throughput(lambda: sandbox.run("x = 1"), executions)
    after = state_of(server_of(sandbox))
    said = f"after {executions:,} executions"
    return [
        Figure(f"{said}: RSS added, server and wardens", after[0] - before[0], "MB", 4),
        Figure(f"{said}: RSS added, caller", rss() - own, "MB", 4),
        Figure(f"{said}: descriptors added", after[1] - before[1], "", 0),
        Figure(f"{said}: threads added", after[2] - before[2], "", 0),
        Figure(f"{said}: zombies", after[3], "", 0),
    ]


async def added(sandbox: LocalSandbox, code: str, limits: Limits) -> tuple[float, Execution]:
    """The most that the caller's RSS grew by while a program went wild."""
    await sandbox.run("x = 1")
    before = rss()
    peak = before
    program = asyncio.create_task(sandbox.run(code, limits=limits))
    while not program.done():
        peak = max(peak, rss())
        await asyncio.sleep(0.005)
    return peak - before, await program


async def session_call(sandbox: LocalSandbox, runs: int) -> float:
    """Median milliseconds of a further call."""
    times = []
    async with sandbox.session() as session:
        await session.run("import numpy as np\nx = np.arange(5)")
        for _ in range(runs):
            start = time.perf_counter()
            done = await session.run("x = x + 1", value="int(x.sum())")
            times.append(time.perf_counter() - start)
            assert done.has_value
    return statistics.median(times) * 1000


async def main(runs: int, executions: int) -> None:
    """Everything, one after the other."""
    warm, bare = (
        LocalSandbox(SandboxSettings(places=PLACES)),
        LocalSandbox(SandboxSettings(places=PLACES, libraries=())),
    )
    wall, cpu = await single(warm, NUMPY, runs)
    report([Figure("a fresh program, numpy warm: wall, p50", wall, "ms", 6), Figure("likewise: CPU", cpu, "ms", 6)])
    report([Figure("a session's further call, p50", await session_call(warm, runs), "ms", 1)])
    report([Figure("programs a second ÷ plain python, with numpy", await ratio(warm, NUMPY, runs), "x", 10, "more")])
    report([Figure("programs a second ÷ plain python, without", await ratio(bare, PLAIN, runs), "x", 1.8, "more")])
    for name, code, limits in (
        ("1 GB of output", ONE_GB, Limits(cpu_seconds=20)),
        ("10 GB of memory", TEN_GB, Limits()),
        ("2,000 processes", PROCESSES, Limits(processes=20)),
    ):
        grown, _ = await added(warm, code, limits)
        report([Figure(f"{name}: RSS added in the caller", grown, "MB", 16)])
    report(await flat(bare, executions))
    await warm.close()
    await bare.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
