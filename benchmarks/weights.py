"""Weights exchanged under load on replicas of a real vLLM: calls that failed, and replies told another version.

Every replica goes from one checkpoint to the next while callers ask without a pause, replica by replica, in both
manners of ``onUpdate``. Which weights made an answer is known from another engine.

usage: python -m benchmarks.weights [REPLICAS] [CALLERS]
"""

from __future__ import annotations

import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from benchmarks.figures import Figure, report
from testbed.build import CannotBuild
from testbed.updated_replicas import Load, Orders, answers_of, controlled
from testbed.vllm_server import vllm_servers

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINTS = [ROOT / "tests/models/ckpt-1", ROOT / "tests/models/ckpt-3", ROOT / "services/kubegym/model/tiny"]


async def exchanges(replicas: int, callers: int) -> list[Figure]:
    """Two exchanges of every replica under load."""
    answers = dict(enumerate(await answers_of(CHECKPOINTS), start=1))
    async with AsyncExitStack() as stack:
        try:
            routes = {"VLLM_SERVER_DEV_MODE": "1"}
            starting = vllm_servers(CHECKPOINTS[0], replicas, variables=routes, beside=CHECKPOINTS)
            engines = stack.enter_context(starting)
        except CannotBuild as error:
            print(f"not measured: {error}", file=sys.stderr)
            return []
        urls, controls = await stack.enter_async_context(controlled(engines, CHECKPOINTS[0]))
        orders = Orders()
        stack.push_async_callback(orders.close)
        for control in controls:
            await orders.ready(control)
        took: list[float] = []
        async with Load(urls, answers, callers) as load:
            await load.until(1, 4 * callers)
            for version, on_update in ((2, "Finish"), (3, "Abort")):
                for control in controls:
                    began = time.monotonic()
                    state = await orders.exchange(control, CHECKPOINTS[version - 1], version, onUpdate=on_update)
                    assert state["policyVersion"] == version, state
                    took.append(time.monotonic() - began)
                await load.until(version, 4 * callers)
        seen = load.seen
    name = f"{replicas} vLLM replicas, {callers} callers, {len(took)} exchanges"
    return [
        Figure(f"{name}: requests failed", sum(seen.failed.values()), "", 0.0),
        Figure(f"{name}: served by a version other than told", len(seen.wrong), "", 0.0),
        Figure("  (requests answered)", sum(seen.answered.values()), ""),
        Figure("  (longest exchange of a replica, from order to proof)", max(took), "s"),
    ]


async def main() -> None:
    """Measure."""
    given = [int(word) for word in sys.argv[1:]]
    replicas, callers = given[0] if given else 4, given[1] if len(given) > 1 else 32
    report(await exchanges(replicas, callers))


if __name__ == "__main__":
    uvloop.run(main())
