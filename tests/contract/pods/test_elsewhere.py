"""Environments whose code is in an image of their own, and outputs that others hold."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubegym.core.clock import SystemClock
from kubegym.pods.settings import PodSettings
from kubegym.pods.worker import PodWorker, WorkerOptions
from kubegym.rollout import StoreAccess, job_holder
from kubegym.rollout.reader import newest_plan
from kubegym.rollout.shard import claim_shard
from testbed.pods import Cluster, ended, eventually, pods_end, rows_of, serve_process, url_of, worker_entry

pytestmark = pytest.mark.contract

WAIT = 600.0
ECHO = """
from kubegym import Environment, Row, Verdict, tool

class Echo(Environment):
    version = "7.0"

    class Task(Row):
        n: int

    @tool
    def shout(self, text: str) -> str:
        return text.upper()

    def verify(self, rollout):
        return Verdict(float(self.task.n), fields={"said": len(rollout.final_text)})
"""


def manifest(agent: str, **resources: Any) -> dict[str, Any]:
    return {
        "apiVersion": "kubegym.dev/v1alpha1",
        "kind": "GymEnvironment",
        "metadata": {"name": "far-away", "labels": {"app.kubernetes.io/version": "7.0"}},
        "spec": {
            "models": {"policy": {"endpoint": {"baseUrl": "http://unused/v1", "model": "simulated"}}},
            "resources": {"placement": "Service", **resources},
            "agent": {"placement": agent, "maxSteps": 4},
        },
    }


@pytest.mark.parametrize("agent", ["Service", "Worker"])
async def test_an_environment_that_only_its_own_image_has(
    agent: str, cluster: Cluster, model: str, prefix: str, tmp_path: Path
) -> None:
    code = tmp_path / "image" / "far_away"
    code.mkdir(parents=True)
    (code / "app.py").write_text(ECHO)
    file = tmp_path / "environment.yaml"
    file.write_text(yaml.safe_dump(manifest(agent)))
    dataset = cluster.add_rows("far", [{"responses_create_params": {"input": f"q {n}"}, "n": n} for n in range(6)])
    with serve_process("resources", str(code)) as resources:
        served = ("--resources-url", resources, "--model-server", model)
        with serve_process("agent", str(file), *served) as agents:
            entry = worker_entry(model)
            entry["manifest"] = manifest(agent, image="registry/far-away@sha256:1")
            entry["endpoints"] |= {"resources": [resources], "agent": [agents] if agent == "Service" else []}
            cluster.freeze(prefix, {"far": {**entry, "dataset": dataset}}, rolloutsPerTask=2, output={"merge": True})
            async with asyncio.timeout(WAIT):
                assert await ended(await cluster.worker("worker", 0)) == 0, cluster.log("worker")
                assert await cluster.finalise() == 0, cluster.log("finaliser")
                rows = await rows_of(cluster, prefix)
    assert [row["reward"] for row in rows] == [float(n) for n in range(6) for _ in range(2)]
    assert {row["kubegym"]["environment"]["version"] for row in rows} == {"7.0"}
    assert {row["agent_ref"]["name"] for row in rows} == {"far_away_simple_agent"}
    assert all("said" in row for row in rows)


async def test_images_of_an_environment_that_only_its_own_image_has(
    cluster: Cluster, prefix: str, tmp_path: Path
) -> None:
    """Its manifest says that it has some: its rows have none, so that its tools may show them."""
    code = tmp_path / "image" / "far_away"
    code.mkdir(parents=True)
    (code / "app.py").write_text(ECHO)
    dataset = cluster.add_rows("far", [{"responses_create_params": {"input": "q"}, "n": 1}])
    with serve_process("resources", str(code)) as resources, serve_process("model", "--engine", "embedded") as blind:
        entry = worker_entry(blind)
        entry["manifest"] = manifest("Worker", image="registry/far-away@sha256:1")
        entry["manifest"]["metadata"]["annotations"] = {"kubegym.dev/rollout-structure": "multi-step, multi-modal"}
        entry["endpoints"]["resources"] = [resources]
        cluster.freeze(prefix, {"far": {**entry, "dataset": dataset}})
        async with asyncio.timeout(WAIT):
            assert await ended(await cluster.worker("worker", 0)) == 11, cluster.log("worker")
    assert cluster.words("worker")["reason"] == "ModelUnsuitable"
    assert "what its tools answer" in cluster.words("worker")["message"]


@pytest.mark.parametrize(
    ("lease", "patience", "code", "reason"), [(3600.0, 4.0, 11, "OutputInUse"), (1.5, 300.0, 0, "Completed")]
)
async def test_an_output_that_another_job_holds(
    lease: float, patience: float, code: int, reason: str, cluster: Cluster, model: str, prefix: str
) -> None:
    """Waited for as long as leases last: a job that has ended renews none."""
    async with asyncio.timeout(WAIT):
        with serve_process("model", "--engine", "simulated", "--latency", "1000") as stuck:
            cluster.freeze(prefix, {"math": worker_entry(stuck)}, uid="uid-other")
            process = await cluster.worker("other", 0)
            async with pods_end([process]):
                await until_in_flight(await url_of(process))
                process.terminate()
                assert await ended(process) == 143
        store = cluster.store(prefix)
        plan = await newest_plan(store)
        assert plan is not None
        other = StoreAccess(store, job_holder("uid-other", "0/other"), SystemClock(), lease_seconds=lease)
        await claim_shard(other, plan.shard(0), run_id=plan.run_id, generation=1, ceiling=1)
        await store.close()
        cluster.freeze(prefix, {"math": worker_entry(model)}, uid="uid-mine")
        variables = cluster.environment("mine", 0)
        worker = PodWorker(
            WorkerOptions(cluster.run_file, None, "127.0.0.1", 0),
            PodSettings.model_validate({name: variables[name] for name in variables if name.isupper()}),
            in_use_seconds=patience,
        )
        assert await worker.run() == code
    assert cluster.words("mine")["reason"] == reason


async def until_in_flight(url: str) -> None:
    def ask() -> bytes:
        with urllib.request.urlopen(f"{url}/progress?scope=worker", timeout=WAIT) as reply:
            return bytes(reply.read())

    async def some() -> bool:
        return bool(json.loads(await asyncio.to_thread(ask))["inFlight"])

    await eventually(some)
