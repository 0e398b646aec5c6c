"""A worker to be killed: ``python -m testbed.killed FOLDER SEED``. Says when it works.

It ends with 0 when all is done and its input has come to an end: until then it can be killed.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from kubegym.core.clock import SystemClock
from kubegym.rollout import BatchRun, ChildSpec, Holder, StoreAccess, local_holder, open_plan
from kubegym.storage import LocalStore
from testbed.episodes import Rows, ScriptedEpisodes, draft, lognormal, mixed
from testbed.runs import QUICK

ASKED = draft(40, 3, tasks_per_shard=5)
SETTINGS = replace(QUICK, flush_seconds=0.02, tick_seconds=0.01)


async def episodes(argument: object) -> ScriptedEpisodes:
    """Also the factory of isolated children."""
    return ScriptedEpisodes(mixed, pause=lognormal(1.0, 0.03))


async def main(folder: Path, isolate: bool, holder: Holder) -> None:
    """One life of a worker. ``isolate``: suspects of the life before run in a child."""
    store = LocalStore(folder)
    access = StoreAccess(store, holder, SystemClock())
    opened = await open_plan(store, ASKED, access.clock)
    child = ChildSpec("testbed.killed:episodes") if isolate else None
    run = BatchRun(access, opened, await episodes(None), Rows(), SETTINGS, child=child)
    print("working", flush=True)
    manifest = await run.run()
    assert manifest.complete, "everything was there for this worker to do"
    await store.close()
    sys.stdin.read()


if __name__ == "__main__":
    with local_holder() as mine:
        asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]) % 2 == 0, mine))
