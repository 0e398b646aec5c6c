"""Replicas of a model are ended, killed, or stop without a word, during a run: no rollout is lost or scored wrongly."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kubegym.agent.model_server import ModelServerClient
from kubegym.core.retry import Backoff
from kubegym.local.resolve import RunFlags, resolve
from kubegym.local.results import read_results
from testbed.comparable import rows_of
from testbed.pods import ROOT, url_of

pytestmark = pytest.mark.chaos

ARITHMETIC = str(ROOT / "environments" / "arithmetic")
# The simulated engine says the same to the same conversation, at any time and beside any other.
FLAGS = RunFlags(engine="simulated", temperature=0.0, rollouts_per_task=8, concurrency=12)
PATIENT = Backoff(attempts=20, base=0.05, maximum=1.0)
KILLS = 4


class Replica:
    """A model server process that comes back at its address when it is killed."""

    def __init__(self, *arguments: str) -> None:
        self.arguments = arguments
        self.url = ""
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        listen = self.url.removeprefix("http://") or "127.0.0.1:0"
        command = (sys.executable, "-m", "kubegym.cli.main", "serve", "model", *self.arguments, "--listen", listen)
        self.process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE)
        self.url = await url_of(self.process)

    async def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        if number is not signal.SIGSTOP:
            await self.process.communicate()


@asynccontextmanager
async def replicas(count: int) -> AsyncIterator[list[Replica]]:
    """Simulated engines, each in a process of its own."""
    all_of_them = [Replica("--engine", "simulated", "--latency", "0.3:0.3") for _ in range(count)]
    await asyncio.gather(*(one.start() for one in all_of_them))
    try:
        yield all_of_them
    finally:
        await asyncio.gather(*(one.signal(signal.SIGKILL) for one in all_of_them))


@asynccontextmanager
async def one_behind_all(engines: Sequence[Replica], *options: str) -> AsyncIterator[Replica]:
    """A model server over the engines."""
    upstreams = [word for engine in engines for word in ("--upstream", engine.url)]
    server = Replica(*upstreams, "--model", "simulated", *options)
    await server.start()
    try:
        yield server
    finally:
        await server.signal(signal.SIGKILL)


async def ending(engines: Sequence[Replica], how: signal.Signals, ended: list[int | None]) -> None:
    """One after the other, each as soon as the one before is back; ``ended`` gets their exit codes."""
    while True:
        for engine in engines:
            await engine.signal(how)
            assert engine.process is not None
            ended.append(engine.process.returncode)
            await engine.start()


async def collect(urls: list[str], folder: Path, **options: Any) -> list[Any]:
    client = ModelServerClient(urls, "simulated", faults=PATIENT, **options)
    try:
        return await rows_of(resolve([ARITHMETIC], FLAGS), folder, clients={"policy": client})
    finally:
        await client.close()


@pytest.fixture
async def undisturbed(tmp_path: Path) -> list[Any]:
    rows = await rows_of(resolve([ARITHMETIC], FLAGS), tmp_path / "undisturbed")
    assert len(rows) == 192
    return rows


@pytest.mark.parametrize("routed", ["by the worker", "by a model server"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_ended_one_after_the_other(
    undisturbed: list[Any], tmp_path: Path, how: signal.Signals, routed: str
) -> None:
    """By SIGTERM as a node's drain and a preemption do it: what is there is finished, what comes goes elsewhere."""
    ended: list[int | None] = []
    async with asyncio.timeout(300), replicas(3) as engines:
        killer = asyncio.create_task(ending(engines, how, ended))
        try:
            if routed == "by the worker":
                rows = await collect([engine.url for engine in engines], tmp_path / "run")
            else:
                async with one_behind_all(engines) as server:
                    rows = await collect([server.url], tmp_path / "run")
        finally:
            killer.cancel()
            await asyncio.gather(killer, return_exceptions=True)
    assert len(ended) >= (2 if how is signal.SIGTERM else KILLS)  # an orderly end takes seconds
    assert rows == undisturbed
    manifest = (await read_results(tmp_path / "run")).manifest
    assert (manifest.totals.scored, manifest.totals.attempts) == (192, 192), "no rollout was even made again"
    assert set(ended) == ({0} if how is signal.SIGTERM else {-signal.SIGKILL})


@pytest.mark.parametrize("routed", ["by the worker", "by a model server"])
async def test_stopped_without_a_word(undisturbed: list[Any], tmp_path: Path, routed: str) -> None:
    """Its connections stand and nothing comes any more: calls are moved, and nobody is sent there again."""
    async with asyncio.timeout(300), replicas(3) as engines:
        stopping = asyncio.get_running_loop().call_later(1.0, engines[0].process.send_signal, signal.SIGSTOP)  # type: ignore[union-attr]
        if routed == "by the worker":
            rows = await collect([engine.url for engine in engines], tmp_path / "run", silence_seconds=2.0)
        else:
            async with one_behind_all(engines, "--silence-seconds", "2") as server:
                rows = await collect([server.url], tmp_path / "run")
        stopping.cancel()
    assert rows == undisturbed
