"""What ends a job, what costs nothing, and what is said about it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from kubegym.core.clock import SystemClock
from kubegym.http import HttpClient, Url
from kubegym.rollout import StoreAccess, job_holder
from kubegym.rollout.reader import newest_plan
from kubegym.rollout.shard import claim_shard
from kubegym.storage import MountedCredentials, ObjectStore, StoreDenied, StoreOptions, open_store
from testbed.pods import (
    ROOT,
    Cluster,
    environment_manifest,
    eventually,
    pods_end,
    serve_process,
    terminate,
    url_of,
    worker_entry,
)

pytestmark = pytest.mark.contract

WAIT = 600.0


def entry(model: str, **more: Any) -> dict[str, Any]:
    policy = {"baseUrl": f"{model}/v1", "model": "simulated", "kind": "server"}
    return {
        "manifest": environment_manifest("arithmetic"),
        "endpoints": {"agent": [], "resources": [], "models": {"policy": policy}},
        **more,
    }


async def outcome(cluster: Cluster, pod: str) -> tuple[int, str]:
    """Exit code and reason of a worker."""
    async with asyncio.timeout(WAIT):
        process = await cluster.worker(pod, 0)
        async with pods_end([process]):
            await process.communicate()
    assert process.returncode is not None
    return process.returncode, cluster.words(pod)["reason"]


def rows(cluster: Cluster, name: str, *lines: dict[str, Any]) -> None:
    folder = cluster.folder / "etc/kubegym/dataset" / "math"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


async def test_rows_of_a_config_map(cluster: Cluster, model: str, prefix: str) -> None:
    example = (ROOT / "environments/arithmetic/data/example.jsonl").read_text().splitlines()[0]
    rows(cluster, "train", json.loads(example))
    cluster.freeze(prefix, {"math": entry(model, dataset={"configMapRef": {"name": "rows"}})})
    assert await outcome(cluster, "worker") == (0, "Completed"), cluster.log("worker")


async def test_bad_rows_end_the_job(cluster: Cluster, model: str, prefix: str) -> None:
    rows(cluster, "train.jsonl", {"no": "row"})
    cluster.freeze(prefix, {"math": entry(model, dataset={"configMapRef": {"name": "rows", "key": "train.jsonl"}})})
    assert await outcome(cluster, "worker") == (11, "InvalidRows")
    assert "train.jsonl:1" in cluster.words("worker")["message"]


UNSUITABLE = [("visual", "sees no images"), ("haystack", "the model simulated has 512")]


@pytest.fixture(scope="module")
def small() -> Iterator[str]:
    """A text model with a context of 512 tokens."""
    with serve_process("model", "--engine", "embedded", "--model", "simulated") as url:
        yield url


@pytest.mark.parametrize(("name", "words"), UNSUITABLE)
@pytest.mark.parametrize("agent", ["Worker", "Service"])
@pytest.mark.parametrize("kind", ["server", "endpoint"])
async def test_a_model_that_cannot_do_what_rows_need_ends_the_job(
    kind: str, agent: str, name: str, words: str, cluster: Cluster, small: str, prefix: str
) -> None:
    with ExitStack() as stack:
        served = {}
        if agent == "Service":
            agents = serve_process("agent", str(ROOT / "environments" / name), "--model-server", small)
            served = {"agent": [stack.enter_context(agents)]}
        frozen = worker_entry(small, name, **served)
        frozen["endpoints"]["models"]["policy"]["kind"] = kind
        cluster.freeze(prefix, {"rows": frozen})
        assert await outcome(cluster, "worker") == (11, "ModelUnsuitable"), cluster.log("worker")
    assert words in cluster.words("worker")["message"]


async def test_nothing_is_planned_before_the_model_was_asked(cluster: Cluster, prefix: str) -> None:
    """Its engine is still being loaded: the worker waits, and says for what."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with serve_process("model", "--upstream", f"http://127.0.0.1:{port}", "--model", "tiny") as server:
        cluster.freeze(prefix, {"rows": worker_entry(server, "haystack")})
        async with asyncio.timeout(WAIT):
            process = await cluster.worker("worker", 0)
            async with pods_end([process]):
                url = await url_of(process)
                await eventually(partial(says, f"{url}/readyz", b"is to be asked what it can do"))
                with serve_process("model", "--engine", "embedded", "--listen", f"127.0.0.1:{port}"):
                    await process.communicate()
    assert (process.returncode, cluster.words("worker")["reason"]) == (11, "ModelUnsuitable"), cluster.log("worker")


async def says(url: str, words: bytes) -> bool:
    """Whether a page has the words, whatever its status."""
    http = HttpClient()
    try:
        return words in (await http.request(b"GET", Url(url), b"", b"", WAIT)).body
    finally:
        await http.close()


async def test_what_is_not_mounted_ends_the_job(cluster: Cluster, model: str, prefix: str) -> None:
    cluster.freeze(prefix, {"math": entry(model, dataset={"configMapRef": {"name": "rows", "key": "absent.jsonl"}})})
    assert await outcome(cluster, "worker") == (11, "DatasetNotFound")


async def test_refused_credentials_end_the_job(cluster: Cluster, model: str, prefix: str) -> None:
    (cluster.folder / "var/run/secrets/kubegym/output/AWS_SECRET_ACCESS_KEY").write_text("wrong")
    cluster.freeze(prefix, {"math": entry(model)})
    assert await outcome(cluster, "worker") == (11, "ObjectStoreDenied")
    assert await cluster.finalise() == 11


async def test_sigterm_before_anything_began(cluster: Cluster, prefix: str) -> None:
    """Here the rows are still being read, from a server that takes its time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        dataset = {"uri": "s3://rows/rows.jsonl", "endpoint": endpoint}
        cluster.freeze(prefix, {"math": entry("http://127.0.0.1:9", dataset=dataset)})
        async with asyncio.timeout(WAIT):
            process = await cluster.worker("worker", 0)
            async with pods_end([process]):
                await url_of(process)
                terminate(process)
                await process.communicate()
    assert process.returncode == 143, cluster.log("worker")
    assert cluster.words("worker")["reason"] == "Terminated"


async def test_another_plan_in_the_output_ends_the_job(cluster: Cluster, model: str, prefix: str) -> None:
    cluster.freeze(prefix, {"math": entry(model)}, sampling={"seed": 1})
    assert await outcome(cluster, "first") == (0, "Completed"), cluster.log("first")
    cluster.freeze(prefix, {"math": entry(model)}, uid="uid-2", sampling={"seed": 2})
    assert await outcome(cluster, "second") == (11, "PlanConflict")
    assert "seed" in cluster.words("second")["message"]
    assert await cluster.finalise() == 11
    assert cluster.words("finaliser")["reason"] == "PlanConflict"


async def test_a_damaged_run_file_ends_the_job(cluster: Cluster) -> None:
    cluster.run_file.write_text('{"schema": 2}')
    assert await outcome(cluster, "worker") == (11, "InvalidSpec")


async def holds(store: ObjectStore, key: str) -> bool:
    return await store.get(key) is not None


async def test_a_worker_whose_shard_is_taken_is_fenced(cluster: Cluster, prefix: str) -> None:
    """By another worker of the job, which believed it dead: its lease had ended."""
    with serve_process("model", "--engine", "simulated", "--latency", "1000") as stuck:
        cluster.freeze(prefix, {"math": entry(stuck)})
        async with asyncio.timeout(WAIT):
            process = await cluster.worker("worker", 0)
            async with pods_end([process]):
                await url_of(process)
                store = cluster.store(prefix)
                await eventually(partial(holds, store, "shards/0/head.json"))
                plan = await newest_plan(store)
                assert plan is not None
                thief = StoreAccess(store, job_holder("uid-1", "1/thief"), SystemClock(), gone=lambda _: True)
                await claim_shard(thief, plan.shard(0), run_id=plan.run_id, generation=1, ceiling=1)
                await store.close()
                terminate(process)
                await process.communicate()
    assert process.returncode == 12, cluster.log("worker")
    assert cluster.words("worker")["reason"] == "Fenced"


async def test_credentials_are_read_again(cluster: Cluster, prefix: str) -> None:
    class Eager(MountedCredentials):
        CHECK_SECONDS = 0.0

    folder = cluster.folder / "var/run/secrets/kubegym/output"
    good = (folder / "AWS_SECRET_ACCESS_KEY").read_text()
    options = StoreOptions(endpoint=cluster.s3.endpoint, region="us-east-1", credentials=Eager(folder))
    store = open_store(f"s3://runs/{prefix}", options=options)
    try:
        await store.put("one", b"1")
        (folder / "AWS_SECRET_ACCESS_KEY").write_text("replaced")
        with pytest.raises(StoreDenied):
            await store.get("one")
        (folder / "AWS_SECRET_ACCESS_KEY").write_text(good)
        found = await store.get("one")
    finally:
        await store.close()
    assert found is not None
    assert found.data == b"1"
