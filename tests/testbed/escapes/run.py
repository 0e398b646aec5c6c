"""Runs the escape suite here: as root's child, as nobody, or in a pod. One JSON line an escape.

usage: python -m testbed.escapes.run [NAME...]

Beside every escape an honest program runs in another place, again and again, and has to be right each time.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Sequence

from kubegym.sandbox.local import LocalSandbox, SandboxSettings
from kubegym.sandbox.protocol import Execution, Limits, Sandbox
from testbed.escapes import ESCAPES
from testbed.escapes.program import PRELUDE, Escape
from testbed.escapes.world import World, standing

HONEST = "import numpy as np\nn = int(input())\nprint(int(np.arange(n).sum()))"


async def main(names: Sequence[str]) -> None:
    """Run the escapes with these names, all by default."""
    chosen = [escape for escape in ESCAPES if not names or escape.name in names]
    with tempfile.TemporaryDirectory(prefix="kubegym-scratch-") as folder, standing() as world:
        os.chmod(folder, 0o711)
        sandbox = LocalSandbox(SandboxSettings(places=2, folder=folder))
        try:
            for escape in chosen:
                print(json.dumps(await tried(sandbox, escape, world, folder)), flush=True)
        finally:
            await sandbox.close()
        left = os.listdir(folder)
        print(json.dumps({"name": "afterwards", "contained": not left, "detail": f"left: {left}", "damage": []}))


async def tried(sandbox: Sandbox, escape: Escape, world: World, folder: str | None) -> dict[str, object]:
    """One escape, with an honest neighbour beside it."""
    done, rights = await asyncio.gather(attacked(sandbox, escape, world), neighbour(sandbox))
    damage = world.damage() + ([] if rights else ["the neighbour's verdict was wrong"])
    if folder is not None:
        damage += [f"{path} was left in the working folder" for path, _, files in os.walk(folder) for _ in files]
    contained = escape.contained(done)
    detail = "" if contained else repr(dataclasses.asdict(done))[:2000]
    return {"name": escape.name, "contained": contained, "detail": detail, "damage": damage}


async def attacked(sandbox: Sandbox, escape: Escape, world: World) -> Execution:
    """What came of the escape's program."""
    if escape.before is not None:
        await sandbox.run(escape.before, limits=escape.limits)
    return await sandbox.run(
        None if escape.argv else PRELUDE + escape.code,
        argv=escape.argv,
        files={"world.json": json.dumps(world.facts), **escape.files},
        stdin=escape.stdin,
        limits=escape.limits,
        value=escape.value,
        collect=escape.collect,
    )


async def neighbour(sandbox: Sandbox) -> bool:
    """An honest program's verdicts while others misbehave: all right, or not."""
    for n in (10, 1000, 54321):
        done = await sandbox.run(HONEST, stdin=str(n), limits=Limits(wall_seconds=60))
        if done.stdout != f"{n * (n - 1) // 2}\n" or not done.ok:
            print(f"neighbour: {done}", file=sys.stderr)
            return False
    return True


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
