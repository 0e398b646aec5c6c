"""Worker pods, killed at any moment, over a real S3 server: every rollout has exactly one result."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from testbed.pods import ROOT, Cluster, ended, eventually, kill, pods_end, rows_of, url_of, worker_entry
from testbed.ports import kept_port
from testbed.tcp_relay import Gate, Relay

pytestmark = pytest.mark.chaos

WAIT = 600.0
SHARDS = {"tasksPerShard": 3}


@pytest.fixture
def relay(model: str) -> Iterator[Relay]:
    """The way to the model: while its gate holds, no run can end."""
    address = urlsplit(model)
    assert address.hostname is not None
    assert address.port is not None
    relay = Relay(address.hostname, address.port)
    try:
        yield relay
    finally:
        relay.close()


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server that comes back at its address."""
    with kept_port() as port:
        yield port


def url(relay: Relay) -> str:
    return f"http://127.0.0.1:{relay.port}"


async def held(gate: Gate) -> None:
    async def holds() -> bool:
        return gate.holds()

    await eventually(holds)


@pytest.mark.parametrize(("workers", "seed"), [(1, 1), (2, 2), (3, 3), (4, 4)])
async def test_killed_at_any_moment_each_rollout_has_one_result(
    workers: int, seed: int, cluster: Cluster, relay: Relay, prefix: str
) -> None:
    """A killed pod is replaced by another of its index, as an Indexed Job does it."""
    rng = random.Random(seed)
    cluster.workers = workers
    cluster.freeze(prefix, {"math": worker_entry(url(relay))}, rolloutsPerTask=4, sharding=SHARDS)
    pods: list[asyncio.subprocess.Process] = []
    ready: dict[int, asyncio.subprocess.Process] = {}

    async def live(index: int) -> None:
        for life in itertools.count(1):
            process = await cluster.worker(f"worker-{index}-{life}", index)
            pods.append(process)
            await url_of(process)
            ready[index] = process
            code = await ended(process)
            if code == 0:
                del ready[index]
                return
            assert code in (-9, 12), cluster.log(f"worker-{index}-{life}")

    def working() -> list[asyncio.subprocess.Process]:
        return [process for process in ready.values() if process.returncode is None]

    async def somebody_works() -> bool:
        return bool(working())

    async def reap() -> None:
        for _ in range(2 * workers):
            relay.gate.let(rng.randint(2, 10))
            await held(relay.gate)
            await asyncio.sleep(rng.uniform(0, 1.5))  # what came before the gate held is written meanwhile, or not
            await eventually(somebody_works)
            kill(rng.choice(working()))
        relay.gate.let(None)

    async with asyncio.timeout(WAIT), pods_end(pods):
        await asyncio.gather(reap(), *(live(index) for index in range(workers)))
        assert await cluster.finalise() == 0, cluster.log("finaliser")
        rows = await rows_of(cluster, prefix)
    assert len(pods) > workers
    assert len(rows) == 96
    assert {row["kubegym"]["outcome"] for row in rows} == {"scored"}
    said = cluster.words("finaliser")
    assert said["rollouts"] == {"expected": 96, "scored": 96, "unscored": 0, "failed": 0}


POISON = """
import os, signal
from kubegym import Environment, Row, Verdict

class Poison(Environment):
    class Task(Row):
        n: int

    def verify(self, rollout):
        if self.task.n == 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        return Verdict(1.0)
"""


async def test_a_rollout_that_kills_its_worker_fails_alone(cluster: Cluster, model: str, prefix: str) -> None:
    """The pod stays: its worker is started again in it, and what was in flight runs in isolation."""
    cluster.add_environment("poison", POISON)
    dataset = cluster.add_rows("bad", [{"responses_create_params": {"input": f"q {n}"}, "n": n} for n in range(12)])
    entry = {**worker_entry(model), "dataset": dataset}
    entry["manifest"] = {
        "apiVersion": "kubegym.dev/v1alpha1",
        "kind": "GymEnvironment",
        "metadata": {"name": "poison"},
        "spec": {"resources": {"placement": "Worker"}, "agent": {"placement": "Worker"}},
    }
    failures = {"maxFailedRolloutFraction": "1"}
    cluster.freeze(prefix, {"bad": entry}, sharding=SHARDS, failurePolicy=failures)
    async with asyncio.timeout(WAIT):
        assert await ended(await cluster.worker("worker", 0)) == 0, cluster.log("worker")
        assert await cluster.finalise() == 0
        rows = await rows_of(cluster, prefix)
    failed = {row["n"]: row["kubegym"]["failure"]["reason"] for row in rows if row["kubegym"]["failure"]}
    assert failed == {3: "WorkerCrashed"}
    assert cluster.words("finaliser")["failures"] == {"WorkerCrashed": 1}


async def test_no_rollout_fails_because_its_agent_is_away(
    cluster: Cluster, relay: Relay, prefix: str, port: int
) -> None:
    """Its pod is replaced, which takes longer than the tries of a rollout: they wait for it."""
    environment = str(ROOT / "environments" / "arithmetic")
    pods: list[asyncio.subprocess.Process] = []

    async def agent(listen: str) -> str:
        served = ("agent", environment, "--model-server", url(relay), "--listen", listen)
        pods.append(await cluster.start(f"agent-{len(pods)}", "serve", *served))
        return await url_of(pods[-1])

    async with asyncio.timeout(WAIT), pods_end(pods):
        address = await agent(f"127.0.0.1:{port}")
        entry = worker_entry(url(relay), agent=[address])
        cluster.freeze(prefix, {"math": entry}, rolloutsPerTask=8, sharding=SHARDS)
        relay.gate.let(20)
        worker = await cluster.worker("worker", 0)
        await url_of(worker)
        done = asyncio.ensure_future(worker.wait())
        for _ in range(2):
            await held(relay.gate)
            kill(pods[-1])
            relay.gate.let(20)
            await asyncio.wait([done], timeout=6)
            assert not done.done()
            await agent(f"127.0.0.1:{port}")
        relay.gate.let(None)
        pods.append(worker)
        assert await ended(worker) == 0, cluster.log("worker")
        assert await cluster.finalise() == 0
        rows = await rows_of(cluster, prefix)
    assert {row["kubegym"]["outcome"] for row in rows} == {"scored"}
