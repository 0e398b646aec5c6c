"""Worker pods as processes, over one frozen run, a real S3 server and a served model."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.error
import urllib.request
from contextlib import ExitStack
from typing import Any

import orjson
import pytest

from kubegym.http import Url
from kubegym.rollout import read_run
from testbed.pods import ROOT, Cluster, ended, eventually, pods_end, rows_of, serve_process, url_of, worker_entry
from testbed.tcp_relay import Relay

pytestmark = pytest.mark.contract

WAIT = 600.0
SHARDS = {"tasksPerShard": 3}


async def test_placements_and_their_mixture_give_the_same_rows(cluster: Cluster, model: str, prefix: str) -> None:
    async def collected(place: str, **endpoints: Any) -> list[Any]:
        here = f"{prefix}/{place}"
        cluster.freeze(
            here, {"math": worker_entry(model, **endpoints)}, rolloutsPerTask=2, sampling={"temperature": "0"}
        )
        process = await cluster.worker(place, 0)
        assert await ended(process) == 0, cluster.log(place)
        assert await cluster.finalise() == 0
        kept = []
        for row in await rows_of(cluster, here):
            ours = row["kubegym"]
            output = row["response"]["output"]
            names = ("task_id", "outcome", "stop_reason", "failure", "environment", "verifier", "policy")
            talk = [
                (item["type"], item.get("arguments"), item.get("output"), str(item.get("content"))) for item in output
            ]
            kept.append((row["reward"], row["agent_ref"], talk, {name: ours[name] for name in names}))
        return kept

    with ExitStack() as servers:
        environment = str(ROOT / "environments" / "arithmetic")
        resources = servers.enter_context(serve_process("resources", environment))
        served = ("--resources-url", resources, "--model-server", model)
        agent = servers.enter_context(serve_process("agent", environment, *served))
        async with asyncio.timeout(WAIT):
            together = await collected("worker")
            assert {kind for _, _, talk, _ in together for kind, *_ in talk} >= {"function_call", "message"}
            assert await collected("sessions-served", resources=[resources]) == together
            assert await collected("served", agent=[agent], resources=[resources]) == together


async def test_several_environments_are_routed_and_share_a_job(cluster: Cluster, model: str, prefix: str) -> None:
    entries = {"math": worker_entry(model), "choice": {**worker_entry(model, "mcqa"), "rolloutsPerTask": 1}}
    cluster.freeze(prefix, entries, rolloutsPerTask=2, output={"merge": True})
    cluster.workers = 2
    async with asyncio.timeout(WAIT):
        workers = [await cluster.worker(f"worker-{index}", index) for index in range(2)]
        assert await asyncio.gather(*map(ended, workers)) == [0, 0]
        assert await cluster.finalise() == 0, cluster.log("finaliser")
        rows = await rows_of(cluster, prefix)
        store = cluster.store(prefix)
        merged = [await store.get(name) for name in ("rollouts.jsonl", "rollouts_failures.jsonl")]
        metrics = await store.get("rollouts_aggregate_metrics.json")
        await store.close()
    assert {row["kubegym"]["environment"]["name"] for row in rows} == {"arithmetic", "mcqa"}
    assert sum(len(file.data.splitlines()) for file in merged if file is not None) == len(rows)
    assert metrics is not None
    assert len(orjson.loads(metrics.data)) == 2


async def test_sigterm_saves_what_is_finished_and_another_goes_on(cluster: Cluster, model: str, prefix: str) -> None:
    """The model answers no more before all is done, and again when the second one works."""
    address = Url(model).origin
    relay = Relay(address.host, address.port)
    relay.gate.let(150)
    try:
        entry = worker_entry(f"http://127.0.0.1:{relay.port}")
        cluster.freeze(prefix, {"math": entry}, rolloutsPerTask=8, sharding=SHARDS)
        async with asyncio.timeout(WAIT):
            process = await cluster.worker("first", 0)
            async with pods_end([process]):
                url = await url_of(process)
                await until_settled(url, 20)
                process.send_signal(signal.SIGTERM)
                assert await ended(process) == 143
            assert cluster.words("first")["reason"] == "Terminated"
            store = cluster.store(prefix)
            run = await read_run(store)
            await store.close()
            assert 20 <= run.manifest.totals.settled < 192
            assert await cluster.finalise("too-early") == 11
            assert cluster.words("too-early")["reason"] == "IncompleteRun"
            relay.gate.let(None)
            assert await ended(await cluster.worker("second", 0)) == 0, cluster.log("second")
            assert await cluster.finalise() == 0
            assert len(await rows_of(cluster, prefix)) == 192
    finally:
        await asyncio.to_thread(relay.close)


async def test_parts_that_are_not_compressed(cluster: Cluster, model: str, prefix: str) -> None:
    cluster.freeze(prefix, {"math": worker_entry(model)}, output={"compression": "none", "merge": True})
    async with asyncio.timeout(WAIT):
        assert await ended(await cluster.worker("worker", 0)) == 0, cluster.log("worker")
        assert await cluster.finalise() == 0, cluster.log("finaliser")
        store = cluster.store(prefix)
        parts = [key async for key in store.list("shards") if not key.endswith("/head.json")]
        first = await store.get(parts[0])
        merged = await store.get("rollouts.jsonl")
        rows = await rows_of(cluster, prefix)
        await store.close()
    assert {key.partition(".")[2] for key in parts} == {"jsonl"}
    assert first is not None
    assert merged is not None
    assert orjson.loads(first.data.splitlines()[0])["kubegym"]["rollout_id"]
    assert len(merged.data.splitlines()) == len([row for row in rows if row["reward"] is not None])


async def test_a_finished_run_completes_at_once_and_asks_no_model(cluster: Cluster, model: str, prefix: str) -> None:
    cluster.freeze(prefix, {"math": worker_entry(model)}, output={"merge": True})
    async with asyncio.timeout(WAIT):
        assert await ended(await cluster.worker("worker", 0)) == 0
        assert await cluster.finalise() == 0
        first = cluster.words("finaliser")
        store = cluster.store(prefix)
        manifest = await store.get("manifest.json")
        assert manifest is not None
        cluster.freeze(prefix, {"math": worker_entry("http://127.0.0.1:9")}, uid="uid-2", output={"merge": True})
        assert await ended(await cluster.worker("again", 0)) == 0, cluster.log("again")
        assert await cluster.finalise("finaliser-again") == 0, cluster.log("finaliser-again")
        assert cluster.words("finaliser-again") == first
        kept = await store.get("manifest.json")
        await store.close()
    assert kept == manifest
    assert first["manifestUri"] == f"s3://runs/{prefix}/manifest.json"
    assert first["complete"] is True
    assert first["planDigest"] == json.loads(manifest.data)["plan_digest"]


async def test_a_finished_run_may_grow(cluster: Cluster, model: str, prefix: str) -> None:
    async with asyncio.timeout(WAIT):
        for generation, rollouts in ((1, 1), (2, 3)):
            uid = f"uid-{generation}"
            cluster.freeze(prefix, {"math": worker_entry(model)}, uid=uid, rolloutsPerTask=rollouts)
            if generation == 2:
                assert await cluster.finalise("too-early") == 11, "more is asked for"
            assert await ended(await cluster.worker(f"worker-{generation}", 0)) == 0
            assert await cluster.finalise(f"finaliser-{generation}") == 0
        assert len(await rows_of(cluster, prefix)) == 72
    assert cluster.words("finaliser-2")["manifestUri"].endswith("/manifest-2.json")


async def test_the_pace_changes_while_it_works(cluster: Cluster, prefix: str) -> None:
    with serve_process("model", "--engine", "simulated", "--latency", "0.3") as slow:
        cluster.freeze(prefix, {"math": worker_entry(slow)}, rolloutsPerTask=1000)
        cluster.pace(2)
        async with asyncio.timeout(WAIT):
            process = await cluster.worker("worker", 0)
            async with pods_end([process]):
                url = await url_of(process)
                await until_in_flight(url, 2)
                cluster.pace(17)
                await until_in_flight(url, 17)
                cluster.pace(3)
                await until_in_flight(url, 3)


async def test_probes_metrics_and_progress(cluster: Cluster, model: str, prefix: str) -> None:
    cluster.freeze(prefix, {"math": worker_entry(model)}, rolloutsPerTask=1000, sharding=SHARDS)
    async with asyncio.timeout(WAIT):
        process = await cluster.worker("worker", 0)
        async with pods_end([process]):
            url = await url_of(process)
            assert (await get(f"{url}/healthz"))[0] == 200
            await until_settled(url, 30)
            assert (await get(f"{url}/readyz"))[0] == 200

            async def durable() -> bool:
                return bool(json.loads((await get(f"{url}/progress"))[1])["rollouts"]["scored"])

            await eventually(durable)
            status, body = await get(f"{url}/progress?scope=run")
            _, metrics = await get(f"{url}/metrics")
    told = json.loads(body)
    assert status == 200
    assert len(body) <= 16 << 10
    assert told["rollouts"]["expected"] == 24000
    assert told["rollouts"]["scored"] > 0
    assert told["shards"]["total"] == 8
    assert told["shards"]["active"] >= 1
    assert float(told["throughput"]) >= 0
    assert told["lastProgressTime"].endswith("Z")
    assert set(told) == {
        *("planDigest", "shards", "rollouts", "failures", "rewardMean", "tokens", "throughput", "lastProgressTime")
    }
    assert b"kubegym_rollouts_total" in metrics


async def get(url: str) -> tuple[int, bytes]:
    def ask() -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(url, timeout=WAIT) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    return await asyncio.to_thread(ask)


async def until_settled(url: str, count: int) -> None:
    """Wait until a worker has so many results."""

    async def enough() -> bool:
        rollouts = (await worker_progress(url)).get("rollouts")
        return rollouts is not None and bool(rollouts["scored"] >= count)

    await eventually(enough)


async def until_in_flight(url: str, count: int) -> None:
    """Wait until a worker has exactly so many rollouts in flight."""

    async def exactly() -> bool:
        return bool((await worker_progress(url))["inFlight"] == count)

    await eventually(exactly)


async def worker_progress(url: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((await get(f"{url}/progress?scope=worker"))[1])
    return told
