"""How long the event loop waits while rollouts of ``math_with_judge`` are verified by math-verify, 1,024 in flight.

The environment, the agent loop and the processes are real; the policy's answers are scripted: right ones in another
form, wrong ones, and a few that would compute for ever. A coroutine asks for its turn every millisecond; what it waits
beyond that is a stall. Other load on the machine makes stalls, too: the same watch with nothing to do stands beside.

usage: python -m benchmarks.symbolic [ROLLOUTS [IN_FLIGHT]]
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import runpy
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.figures import ROOT, Figure, report
from kubegym.agent import AgentSettings, run_attempt
from kubegym.core import cycles
from kubegym.core.protocols import Assignment
from kubegym.resources import EnvironmentRuntime, load_environment
from kubegym.testing import ScriptedModel

STALL_SECONDS = 0.05
_TURN_SECONDS = 0.001
_FOLDER = ROOT / "environments/math_with_judge"


@contextlib.asynccontextmanager
async def watched() -> AsyncIterator[list[float]]:
    """Every wait of the loop beyond the turn, in seconds, while the block runs."""
    waits: list[float] = []

    async def watch() -> None:
        while True:
            asked = time.perf_counter()
            await asyncio.sleep(_TURN_SECONDS)
            waits.append(time.perf_counter() - asked - _TURN_SECONDS)

    watching = asyncio.ensure_future(watch())
    try:
        yield waits
    finally:
        watching.cancel()


def answer(number: int, expected: str) -> str:
    """Right, wrong, and one in 512 without an end."""
    if number % 512 == 511:
        return "\\boxed{9^{9^{9^9}}}"
    return f"So it is $\\boxed{{{expected}}}$." if number % 2 else f"It is \\boxed{{{number}x^2+\\frac{{1}}{{3}}}}."


async def verify_all(rollouts: int, in_flight: int) -> tuple[list[float], float, float]:
    """The loop's waits, seconds taken, and the mean reward."""
    config = {"should_use_judge": False, "library_verifier_timeout_seconds": 5.0}
    runtime = EnvironmentRuntime(load_environment(_FOLDER).cls, config)
    await runtime.start()
    rows: list[dict[str, Any]] = list(runpy.run_path(str(_FOLDER / "data/generate.py"))["rows"](100, 7))
    pauses = random.Random(0)
    places = asyncio.Semaphore(in_flight)

    async def one(number: int) -> float | None:
        row = rows[number % len(rows)]
        async with places:
            assignment = Assignment("math", row, str(number), number, 0, f"0-{number}-0")
            await asyncio.sleep(pauses.uniform(0, 4))  # a model answers at its own pace, not 1,024 times at once
            model = ScriptedModel([answer(number, row["expected_answer"])])
            attempt = await run_attempt(assignment, runtime.session(assignment), model, AgentSettings())
        return attempt.reward  # None where a busy machine gave the process no processor

    await asyncio.gather(*(one(number) for number in range(8)))  # the processes have started, and imported SymPy
    cycles.settle()  # as a worker does
    began = time.perf_counter()
    async with watched() as waits:
        rewards = await asyncio.gather(*map(one, range(rollouts)))
    seconds = time.perf_counter() - began
    await runtime.close()
    scored = [reward for reward in rewards if reward is not None]
    return waits, seconds, sum(scored) / len(scored)


async def idle(seconds: float) -> list[float]:
    """The loop's waits while nothing else runs in it."""
    async with watched() as waits:
        await asyncio.sleep(seconds)
    return waits


def main() -> None:
    """Print the figures."""
    rollouts = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
    in_flight = int(sys.argv[2]) if len(sys.argv) > 2 else 1024
    waits, seconds, mean = asyncio.run(verify_all(rollouts, in_flight))
    nothing = asyncio.run(idle(min(seconds, 10.0)))
    what = f"math-verify, {in_flight:,} in flight"
    report(
        [
            Figure(f"{what}: stalls over 50 ms", sum(wait > STALL_SECONDS for wait in waits), "", 0),
            Figure(f"{what}: longest stall", 1000 * max(waits), "ms"),
            Figure("the same watch with nothing to do: longest stall", 1000 * max(nothing), "ms"),
            Figure(f"{what}: verified a second", rollouts / seconds, "/s", None, "more"),
            Figure(f"{what}: mean reward", mean, ""),
        ]
    )


if __name__ == "__main__":
    main()
