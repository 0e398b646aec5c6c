"""Replicas of a model are ended, killed, or stop without a word, during a run: no rollout is lost or scored wrongly."""

from __future__ import annotations

import asyncio
import itertools
import math
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kubegym.agent.model_server import ModelServerClient
from kubegym.core.protocols import CallContext, ModelReply
from kubegym.core.retry import Backoff
from kubegym.local.resolve import RunFlags, resolve
from kubegym.local.results import read_results
from testbed.comparable import rows_of
from testbed.pods import ROOT, url_of
from testbed.ports import kept_port

pytestmark = pytest.mark.chaos

ARITHMETIC = str(ROOT / "environments" / "arithmetic")
# The simulated engine says the same to the same conversation, at any time and beside any other.
FLAGS = RunFlags(engine="simulated", temperature=0.0, rollouts_per_task=8, concurrency=12)
PATIENT = Backoff(attempts=20, base=0.05, maximum=1.0)
KILLS = 4
CALLS = 20


class HeldClient(ModelServerClient):
    """Lets so many calls go and holds what follows, so that no machine is too fast or too slow for the test."""

    def __init__(self, urls: list[str], **options: Any) -> None:
        super().__init__(urls, "simulated", faults=PATIENT, **options)
        self._changed = asyncio.Condition()
        self._made = 0
        self._let = 0.0

    async def respond(self, request: dict[str, Any], context: CallContext) -> ModelReply:
        async with self._changed:
            self._made += 1
            turn = self._made
            self._changed.notify_all()
            await self._changed.wait_for(lambda: turn <= self._let)
        return await super().respond(request, context)

    async def let(self, more: float) -> None:
        """Let so many more go; wait until others are held."""
        async with self._changed:
            self._let += more
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._let == math.inf or self._made > self._let)


class Replica:
    """A model server process that comes back at its address when it is killed."""

    def __init__(self, *arguments: str, url: str = "") -> None:
        self.arguments = arguments
        self.url = url
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        listen = self.url.removeprefix("http://") or "127.0.0.1:0"
        command = (sys.executable, "-m", "kubegym.cli.main", "serve", "model", *self.arguments, "--listen", listen)
        self.process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE)
        self.url = await url_of(self.process)

    async def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        if self.process.returncode is not None:
            return
        self.process.send_signal(number)
        if number is not signal.SIGSTOP:
            await self.process.communicate()


@asynccontextmanager
async def replicas(count: int) -> AsyncIterator[list[Replica]]:
    """Simulated engines, each in a process of its own."""
    arguments = ("--engine", "simulated", "--latency", "0.3:0.3")
    with ExitStack() as stack:
        ports = [stack.enter_context(kept_port()) for _ in range(count)]
        all_of_them = [Replica(*arguments, url=f"http://127.0.0.1:{port}") for port in ports]
        try:
            await asyncio.gather(*(one.start() for one in all_of_them))
            yield all_of_them
        finally:
            await asyncio.gather(*(one.signal(signal.SIGKILL) for one in all_of_them if one.process is not None))


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


async def collect(client: ModelServerClient, folder: Path) -> list[Any]:
    return await rows_of(resolve([ARITHMETIC], FLAGS), folder, clients={"policy": client})


@asynccontextmanager
async def asking(engines: Sequence[Replica], routed: str, silence_seconds: float = 30.0) -> AsyncIterator[HeldClient]:
    """A client of the engines, or of one model server before them."""
    async with AsyncExitStack() as stack:
        urls = [engine.url for engine in engines]
        if routed == "by a model server":
            server = one_behind_all(engines, "--silence-seconds", str(silence_seconds))
            urls = [(await stack.enter_async_context(server)).url]
        client = HeldClient(urls, silence_seconds=silence_seconds)
        stack.push_async_callback(client.close)
        yield client


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
    async with asyncio.timeout(300), replicas(3) as engines, asking(engines, routed) as client:

        async def again(engine: Replica) -> None:
            await engine.signal(how)
            assert engine.process is not None
            ended.append(engine.process.returncode)
            await engine.start()

        async def end() -> None:
            for engine in itertools.islice(itertools.cycle(engines), KILLS):
                await client.let(CALLS)
                await asyncio.gather(again(engine), client.let(CALLS))  # it ends with calls open, and others come
            await client.let(math.inf)

        rows, _ = await asyncio.gather(collect(client, tmp_path / "run"), end())
    assert ended == KILLS * [0 if how is signal.SIGTERM else -signal.SIGKILL]
    assert rows == undisturbed
    manifest = (await read_results(tmp_path / "run")).manifest
    assert (manifest.totals.scored, manifest.totals.attempts) == (192, 192), "no rollout was even made again"


@pytest.mark.parametrize("routed", ["by the worker", "by a model server"])
async def test_stopped_without_a_word(undisturbed: list[Any], tmp_path: Path, routed: str) -> None:
    """Its connections stand and nothing comes any more: calls are moved, and nobody is sent there again."""
    async with asyncio.timeout(300), replicas(3) as engines, asking(engines, routed, 2.0) as client:

        async def stop() -> None:
            await client.let(CALLS)
            await engines[0].signal(signal.SIGSTOP)
            await client.let(math.inf)

        rows, _ = await asyncio.gather(collect(client, tmp_path / "run"), stop())
    assert rows == undisturbed
