"""Programs that make random system calls: ``python -m testbed.escapes.fuzz PROGRAMS SEED``.

Each makes some hundreds, with arguments that are small numbers, descriptors, process ids, addresses of memory that it
may write, or nonsense; calls that end or stop the caller itself are left out, since nothing would follow them. Beside
each an honest program has to be right. Seeds make a run repeatable.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile

from kubegym.sandbox.local import LocalSandbox, SandboxSettings
from testbed.escapes.program import TREE, Escape
from testbed.escapes.run import tried
from testbed.escapes.world import standing

PROGRAM = """
import random
draw = random.Random({seed})
libc.syscall.argtypes = None
memory = ctypes.create_string_buffer(1 << 16)
at = ctypes.addressof(memory)
# Of x86-64: exit, exit_group, pause, rt_sigsuspend, rt_sigreturn, execve, execveat, select and waits for ever.
left_out = {{0, 7, 15, 19, 22, 23, 34, 35, 45, 59, 60, 61, 128, 130, 202, 230}}
left_out |= {{231, 232, 247, 270, 271, 281, 295, 322, 449}}
def argument():
    kind = draw.randrange(8)
    if kind == 0: return draw.randrange(0, 16)
    if kind == 1: return at + draw.randrange(0, 60_000)
    if kind == 2: return draw.choice([os.getpid(), os.getppid(), WORLD["caller"], WORLD["victim"], 1, -1, 0])
    if kind == 3: return 1 << draw.randrange(64)
    if kind == 4: return draw.getrandbits(64) - (1 << 63)
    if kind == 5: return draw.choice([-100, -1, 0, 1, 2, 3, 511, 512, 513])
    if kind == 6:
        paths = [WORLD["answers"], "/etc/shadow", "/proc/self/mem", ".", "..", "/tmp/escaped-fuzz", "x"]
        text = draw.choice(paths).encode()
        start = draw.randrange(0, 60_000)
        ctypes.memmove(at + start, text + b"\\0", len(text) + 1)
        return at + start
    return draw.choice([0, 4096, 1 << 20, 0o777, 0x10000, 0x7E020080])
for _ in range({calls}):
    number = draw.choice([draw.randrange(0, 335), draw.randrange(424, 470)])
    if number in left_out: continue
    libc.syscall(ctypes.c_long(number), *(ctypes.c_long(argument() if argument() is not None else 0) for _ in range(6)))
"""
CALLS = 400


async def main(programs: int, seed: int) -> None:
    """Run so many programs; one JSON line at the end."""
    damage: list[str] = []
    with tempfile.TemporaryDirectory(prefix="kubegym-scratch-") as folder, standing() as world:
        os.chmod(folder, 0o711)
        sandbox = LocalSandbox(SandboxSettings(places=2, folder=folder))
        try:
            for number in range(programs):
                code = PROGRAM.format(seed=seed * 100_000 + number, calls=CALLS)
                escape = Escape(f"fuzz-{number}", "make random system calls", code, lambda done: True, limits=TREE)
                verdict = await tried(sandbox, escape, world, folder)
                damage += [f"seed {seed}, program {number}: {each}" for each in verdict["damage"]]  # type: ignore[attr-defined]
        finally:
            await sandbox.close()
        left = os.listdir(folder)
    print(json.dumps({"name": "fuzz", "contained": not left, "detail": f"left: {left}", "damage": damage}))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
