"""The tail of one ``/verify`` under a fixed rate of requests, against that of an empty route of the same server.

Both are asked at the same rate by the same client in alternating windows of one run, so that what the machine does
beside it hits both.

usage: python -m benchmarks.latency [REQUESTS_PER_SECOND] [SECONDS]
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from statistics import quantiles
from time import perf_counter

import orjson
import uvloop

from benchmarks.figures import ROOT, Figure, report
from kubegym.http import HttpClient, Url

HEADERS = b"content-type: application/json\r\n"


async def window(client: HttpClient, url: Url, body: bytes, rate: int, seconds: float) -> list[float]:
    """Latencies in seconds of requests that are sent at a fixed rate, whatever the replies do."""
    latencies: list[float] = []  # uvloop's own clock counts milliseconds

    async def one() -> None:
        sent = perf_counter()
        response = await client.request(b"POST" if body else b"GET", url, HEADERS, body, 30.0)
        assert response.status == 200, response.body[:200]
        latencies.append(perf_counter() - sent)

    began = perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            due = began + number / rate
            if (wait := due - perf_counter()) > 0.002:
                await asyncio.sleep(wait)
            group.create_task(one())
    return latencies


async def measure(base: str, rate: int, seconds: float) -> list[Figure]:
    row = orjson.loads((ROOT / "environments/mcqa/data/example.jsonl").read_bytes().splitlines()[0])
    text = {"type": "output_text", "text": "\\boxed{A}", "annotations": []}
    message = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    verify = orjson.dumps({**row, "response": {"id": "r", "object": "response", "output": [message]}})
    client = HttpClient()
    empty, asked = Url(f"{base}/healthz"), Url(f"{base}/verify")
    figures: dict[str, list[float]] = {"empty": [], "verify": []}
    for round_number in range(6):
        nothing = await window(client, empty, b"", rate, seconds / 5)
        something = await window(client, asked, verify, rate, seconds / 5)
        if round_number:  # the first warms up
            figures["empty"] += nothing
            figures["verify"] += something
    await client.close()
    p99 = {name: quantiles(values, n=100)[98] for name, values in figures.items()}
    return [
        Figure(
            f"p99 of /verify at {rate:,} requests/s ÷ p99 of an empty route", p99["verify"] / p99["empty"], "x", 3.0
        ),
        Figure("  (p99 of /verify)", p99["verify"] * 1000, "ms"),
        Figure("  (p99 of the empty route)", p99["empty"] * 1000, "ms"),
    ]


def main() -> None:
    """Start a resources server and ask it."""
    rate = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    command = [sys.executable, "-m", "kubegym.cli.main", "serve", "resources", str(ROOT / "environments/mcqa")]
    server = subprocess.Popen([*command, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found is not None
        report(uvloop.run(measure(found[0], rate, seconds)))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
