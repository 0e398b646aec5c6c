"""Throughput of 1 to 8 worker pods of one run, over the simulated engine with log-normal durations (sigma 1).

The workers are processes with their files as in a pod, a real S3 server and a served model. They warm up at a pace of
one rollout each; when all are there the pace is raised, as in a running job; what they settle in a minute is counted.

usage: python -m benchmarks.workers SECONDS WORKERS...
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request
import uuid
from pathlib import Path

from benchmarks.figures import Figure, report, scratch
from benchmarks.rollouts import mcqa_rows
from testbed.pods import Cluster, eventually, pods_end, serve_process, url_of, worker_entry
from testbed.s3 import S3Server, s3_server

IN_FLIGHT = 32
MEAN_SECONDS = 2.0
ROWS = 40_000
TARGET = 0.9


async def progress_of(url: str) -> dict[str, int]:
    """How many rollouts a worker has in flight, and has settled."""

    def ask() -> bytes:
        with urllib.request.urlopen(f"{url}/progress?scope=worker", timeout=30) as reply:
            return bytes(reply.read())

    told = json.loads(await asyncio.to_thread(ask))
    return {"inFlight": told["inFlight"], "settled": told.get("rollouts", {}).get("scored", 0)}


async def all_in_flight(urls: list[str], count: int) -> bool:
    return all([(await progress_of(url))["inFlight"] == count for url in urls])


async def measure(cluster: Cluster, model: str, workers: int, seconds: float) -> float:
    """Rollouts a second of so many workers."""
    cluster.workers = workers
    dataset = {"configMapRef": {"name": "rows", "key": "rows.jsonl"}}
    cluster.freeze(uuid.uuid4().hex, {"choice": {**worker_entry(model, "mcqa"), "dataset": dataset}})
    cluster.pace(1)
    pods = [await cluster.worker(f"worker-{workers}-{index}", index) for index in range(workers)]
    async with pods_end(pods):
        urls = [await url_of(pod) for pod in pods]
        await eventually(lambda: all_in_flight(urls, 1))
        cluster.pace(IN_FLIGHT)
        await eventually(lambda: all_in_flight(urls, IN_FLIGHT))
        await asyncio.sleep(3 * MEAN_SECONDS)  # all began at once: until they have drifted apart
        loop = asyncio.get_running_loop()
        began, before = loop.time(), await asyncio.gather(*map(progress_of, urls))
        await asyncio.sleep(seconds)
        ended, after = loop.time(), await asyncio.gather(*map(progress_of, urls))
    settled = sum(late["settled"] - early["settled"] for early, late in zip(before, after, strict=True))
    return settled / (ended - began)


async def compare(s3: S3Server, model: str, counts: list[int], seconds: float) -> list[Figure]:
    cluster = Cluster(scratch() / "mounted", s3, "runs")
    rows = cluster.folder / "etc/kubegym/dataset/choice/rows.jsonl"
    rows.parent.mkdir(parents=True)
    mcqa_rows(Path(rows), ROWS)
    figures: list[Figure] = []
    alone = 0.0
    for workers in counts:
        # Fewer workers settle fewer rollouts: as many minutes more make their count as certain.
        rate = await measure(cluster, model, workers, seconds * (3 if workers == 1 else 1))
        alone = alone or rate / workers
        figures.append(Figure(f"{workers} workers of {IN_FLIGHT} in flight: rollouts", rate, "/s"))
        if workers > 1:
            share = rate / workers / alone
            target = TARGET if workers == counts[-1] else None
            figures.append(Figure(f"{workers} workers: share of linear", share, "", target, "more"))
    return figures


def main() -> None:
    seconds, counts = float(sys.argv[1]), [int(argument) for argument in sys.argv[2:]]
    latency = f"{MEAN_SECONDS}:1"
    with s3_server(["runs"]) as s3, serve_process("model", "--engine", "simulated", "--latency", latency) as model:
        report(asyncio.run(compare(s3, model, counts, seconds)))


if __name__ == "__main__":
    main()
