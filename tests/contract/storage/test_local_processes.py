"""A folder shared by processes: compare-and-swap holds between them, and a killed one stands in nobody's way."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from kubegym.storage import LocalStore

pytestmark = pytest.mark.contract

PROCESSES = 4
KEYS = 20
INCREMENTS = 25

RACE = f"""
import asyncio, sys
from pathlib import Path
from kubegym.storage import Conflict, LocalStore

async def main():
    store = LocalStore(Path(sys.argv[1]))
    won = 0
    for index in range({KEYS}):
        try:
            await store.create(f"race/{{index}}", sys.argv[2].encode())
            won += 1
        except Conflict:
            pass
    for _ in range({INCREMENTS}):
        while True:
            stored = await store.get("counter")
            try:
                await store.swap("counter", str(int(stored.data) + 1).encode(), stored.etag)
                break
            except Conflict:
                pass
    await store.close()
    print(won)

print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main())
"""

DIE_IN_A_WRITE = """
import asyncio, os, signal, sys
from pathlib import Path
from kubegym.storage import LocalStore

os.rename = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(LocalStore(Path(sys.argv[1])).put("shards/0/head.json", b"new"))
"""


def test_creates_and_swaps_of_processes_never_both_win(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    counter = tmp_path / "root" / "counter"
    counter.write_bytes(b"0")
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(tmp_path / "root"), str(index)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(PROCESSES)
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        won = [int(racer.communicate(timeout=300)[0]) for racer in racers]
        assert [racer.returncode for racer in racers] == [0] * PROCESSES
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    assert sum(won) == KEYS
    assert int(counter.read_bytes()) == PROCESSES * INCREMENTS, "an increment was lost"


async def replace(root: Path) -> None:
    store = LocalStore(root)
    assert [key async for key in store.list()] == ["shards/0/head.json"]
    stored = await store.get("shards/0/head.json")
    assert stored is not None
    assert stored.data == b"old"
    await store.swap("shards/0/head.json", b"next", stored.etag)  # the dead process holds no lock
    await store.close()


def test_a_process_killed_in_a_write_leaves_nothing_that_counts(tmp_path: Path) -> None:
    folder = tmp_path / "shards" / "0"
    folder.mkdir(parents=True)
    (folder / "head.json").write_bytes(b"old")
    died = subprocess.run([sys.executable, "-c", DIE_IN_A_WRITE, str(tmp_path)], timeout=300, check=False)
    assert died.returncode == -9
    assert len(list(folder.iterdir())) == 2, "the unfinished file should be there for this test"
    asyncio.run(replace(tmp_path))
    assert (folder / "head.json").read_bytes() == b"next"
