"""Announced weights from a real store, in the processes of a pod, ordered and asked for as the operator does."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kubegym.model.simulated import SimulatedConfig, serve_simulated
from kubegym_operator.plan.actions import Order
from kubegym_operator.plan.snapshot import Question, Told
from kubegym_operator.reconcile.probe import HttpControl, HttpProber
from testbed.checkpoints import checkpoint
from testbed.pods import ROOT, Cluster, eventually, terminate

pytestmark = pytest.mark.contract

TOKEN = "s3cret"
WAIT = 600.0
_URL = re.compile(rb"http://127\.0\.0\.1:(\d+)")


class Replica:
    """A model server's process, as the operator knows it."""

    def __init__(self, session: aiohttp.ClientSession, ports: list[int]) -> None:
        self._prober, self._control = HttpProber(session), HttpControl(session)
        self.session = session
        self.port, self.control_port = ports

    async def told(self) -> Told | None:
        question = Question("model", ("127.0.0.1", "127.0.0.2"), self.port, "/readyz")
        return (await self._prober.tell(question)).get("127.0.0.1")

    async def order(self, uri: str, version: int, token: str = TOKEN) -> None:
        body = {"uri": uri, "version": version, "kind": "Full", "onUpdate": "Finish"}
        await self._control.give(Order("127.0.0.1", self.control_port, "/weights", body, token))

    async def until(self, **fields: Any) -> Told:
        seen: list[Told] = []

        async def so() -> bool:
            if (told := await self.told()) is None:
                return False
            seen.append(told)
            return all(getattr(told, name) == value for name, value in fields.items())

        await eventually(so)
        return seen[-1]

    async def ready(self) -> bool:
        async with self.session.get(f"http://127.0.0.1:{self.port}/readyz") as reply:
            return reply.status == 200


@asynccontextmanager
async def replica(cluster: Cluster, folder: Path, announced: dict[str, Any] | None) -> AsyncIterator[Replica]:
    """An engine, and the model server beside it in a process of its own."""
    first = checkpoint(folder / "first")
    (folder / "control").write_text(f"sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    if announced is not None:
        (folder / "announced.json").write_text(json.dumps({"wanted": announced}))
    engine = await serve_simulated(SimulatedConfig(model="policy", weights=str(first)))
    secret = cluster.folder / "var/run/secrets/kubegym/output"
    (secret / "AWS_ENDPOINT_URL").write_text(cluster.s3.endpoint)
    options = {
        "upstream": engine.url,
        "model": "policy",
        "listen": "127.0.0.1:0",
        "control-listen": "127.0.0.1:0",
        "control-token-file": str(folder / "control"),
        "announced": str(folder / "announced.json"),
        "weights-folder": str(folder / "fetched"),
        "weights-credentials": str(secret),
        "first-weights": str(first),
        "policy-version": "1",
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kubegym.cli.main", "serve", "model", *words), cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        lines = dict([(await process.stdout.readline()).split(b" at ") for _ in range(2)])
        ports = [int(_URL.match(lines[name])[1]) for name in (b"model server", b"control")]  # type: ignore[index]
        async with aiohttp.ClientSession() as session:
            yield Replica(session, ports)
    finally:
        terminate(process)
        await process.communicate()
        await engine.close()


async def published(cluster: Cluster, folder: Path) -> str:
    """A checkpoint in the store; its URI."""
    prefix = f"{uuid.uuid4().hex}/{folder.name}"
    store = cluster.store(prefix)
    for path in sorted(checkpoint(folder).iterdir()):
        await store.put(path.name, path.read_bytes())
    await store.close()
    return f"s3://{cluster.bucket}/{prefix}/"


async def test_a_pod_takes_what_is_announced_before_it_is_ready_and_then_what_it_is_told(
    cluster: Cluster, tmp_path: Path
) -> None:
    second, third = [await published(cluster, tmp_path / "published" / name) for name in ("second", "third")]
    announced = {"uri": second, "version": 2, "kind": "Full", "onUpdate": "Finish"}
    async with asyncio.timeout(WAIT), replica(cluster, tmp_path, announced) as pod:
        assert await pod.until(version=2, phase=None) == Told(2)
        await eventually(pod.ready)
        await pod.order(third, 3, token="guessed")
        await pod.order(third, 3)
        assert await pod.until(version=3, phase=None) == Told(3)
        assert len(list((tmp_path / "fetched").iterdir())) == 1, "what is not served is not kept"
        await pod.order(f"{third}absent/", 4)
        told = await pod.until(failed=4)
        assert (told.version, told.reason, told.retryable) == (3, "WeightsNotFound", False)
        await eventually(pod.ready)


async def test_without_anything_announced_it_serves_what_the_engine_has(cluster: Cluster, tmp_path: Path) -> None:
    async with asyncio.timeout(WAIT), replica(cluster, tmp_path, None) as pod:
        assert await pod.until(version=1, phase=None) == Told(1)
        await pod.order("ftp://nowhere", 2)
        assert await pod.until(version=1, phase=None) == Told(1)
