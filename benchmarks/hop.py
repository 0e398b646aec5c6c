"""What the model server costs between a client and its engine, and other hops beside it in the same run.

The engine is the simulated one in a process of its own; CPU seconds and memory are those of the hop's process alone.
Debian's nginx, a plain hop, and ``vllm-router`` (from PyPI, in an environment of its own, on the PATH) are measured
too where they are installed, over the same engine.

usage: python -m benchmarks.hop [REQUESTS]
"""

from __future__ import annotations

import asyncio
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from statistics import quantiles

import orjson
import uvloop

from benchmarks.figures import Figure, cpu_of, report, rss
from benchmarks.latency import window
from kubegym.http import HttpClient, Url
from testbed.k8s.process import free_ports

HEADERS = b"content-type: application/json\r\n"
QUESTION = "Pick one of the options and box it. " * 5
CHAT = {"model": "stub", "messages": [{"role": "user", "content": QUESTION}], "temperature": 1.0, "max_tokens": 64}
PARAMS = {"model": "stub", "input": [{"role": "user", "content": QUESTION}], "temperature": 1.0}
OURS = "model server"
URLS = "a rollout's base URL"
OPEN = 10_000
CHUNKS = 200


def cpu(pid: int) -> float:
    """CPU seconds of a process of one busy thread, finer than the clock ticks of ``figures.cpu_of`` where there is."""
    try:
        spent = sum(int(each.read_text().split()[0]) for each in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    except OSError:
        spent = 0
    return spent / 1e9 if spent else cpu_of(pid)


@contextmanager
def program(*command: str) -> Iterator[tuple[str, int]]:
    """A server in a process of its own: the URL that its first line names, and its process id."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\d+[\w/.-]*", line):
                yield found[0].removesuffix("/v1"), process.pid
                return
        raise RuntimeError(f"{command} did not say where it listens")
    finally:
        process.terminate()
        process.wait()


def engine(latency: float = 0.0, per_token: float = 0.0, words: int = 0) -> tuple[str, ...]:
    """The command of a simulated engine."""
    script = (
        "import sys; from kubegym.model.simulated import *;"
        f"run_server(SimulatedConfig(model='stub', latency=Distribution.constant({latency!r}),"
        f" seconds_per_token={per_token!r}, tokens={f'Distribution.constant({words})' if words else 'None'},"
        f" answers=Answers(text={'word ' * max(1, words)!r})), '127.0.0.1', 0)"
    )
    return (sys.executable, "-c", script)


def ours(upstream: str, *options: str) -> tuple[str, ...]:
    """The command of our model server."""
    command = ("serve", "model", "--upstream", upstream, "--listen", "127.0.0.1:0", "--model", "stub", *options)
    return (sys.executable, "-m", "kubegym.cli.main", *command)


def capturing(upstream: str) -> tuple[str, ...]:
    """The command of a rollout's base URL, whose calls are captured with their token ids."""
    script = (
        "import asyncio, uvloop\n"
        "from kubegym.core import cycles\n"
        "from kubegym.core.clock import Deadline\n"
        "from kubegym.core.protocols import CallContext\n"
        "from kubegym.model.rollout_calls import seen_call\n"
        "from kubegym.model.rollout_urls import RolloutUrls\n"
        "class Last:\n"
        "    def captured(self, call): self.last = seen_call(call)\n"
        "async def main():\n"
        f"    urls = RolloutUrls([{upstream!r}], model='stub', capture=Last(), token_ids=True)\n"
        "    async with urls:\n"
        "        print(urls.open(CallContext('0123abcd-0-0', Deadline(3600.0))), flush=True)\n"
        "        cycles.settle()\n"
        "        await asyncio.sleep(3600)\n"
        "uvloop.run(main())\n"
    )
    return (sys.executable, "-c", script)


@contextmanager
def nginx(upstream: str) -> Iterator[tuple[str, int]]:
    """Debian's nginx as a plain hop with one worker process: its URL, and the worker's process id."""
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "nginx.conf"
        configuration.write_text(
            f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;"
            "worker_rlimit_nofile 65536;"
            "events { worker_connections 32768; }"
            f"http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};"
            f"fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};"
            f"upstream engine {{ server {upstream.removeprefix('http://')}; keepalive 2048; }}"
            f"server {{ listen 127.0.0.1:{port} backlog=4096; keepalive_requests 1000000;"
            "location / { proxy_pass http://engine; proxy_http_version 1.1; proxy_buffering off;"
            'proxy_set_header Connection ""; } } }'
        )
        with _listening(port, "nginx", "-p", folder, "-c", str(configuration)) as pid:
            listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            yield f"http://127.0.0.1:{port}", int(listed[0])


@contextmanager
def vllm_router(upstream: str) -> Iterator[tuple[str, int]]:
    """The router of the vLLM project: its URL, and its process id."""
    port, metrics = free_ports(2)
    command = ("vllm-router", "--worker-urls", upstream, "--policy", "round_robin", "--port", str(port))
    limits = ("--prometheus-port", str(metrics), "--max-concurrent-requests", "20000", "--log-level", "error")
    with _listening(port, *command, *limits) as pid:
        yield f"http://127.0.0.1:{port}", pid


BESIDE = {"nginx": nginx, "vllm-router": vllm_router}


@contextmanager
def _listening(port: int, *command: str) -> Iterator[int]:
    """A server that has begun to listen; its process id."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, f"{command} ended"
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


async def flood(client: HttpClient, url: Url, body: bytes, count: int, in_flight: int) -> None:
    """``count`` requests, so many at a time."""
    left = count

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            response = await client.request(b"POST", url, HEADERS, body, 120.0)
            assert response.status == 200, response.body[:300]

    await asyncio.gather(*(work() for _ in range(in_flight)))


async def cost(
    pids: dict[str, int], calls: dict[str, Callable[[int], Awaitable[None]]], count: int
) -> dict[str, float]:
    """CPU microseconds of each hop per request, measured in turns so that what runs beside hits all."""
    spent = dict.fromkeys(calls, 0.0)
    rounds = 5
    for number in range(rounds + 1):
        for name, call in calls.items():
            before = cpu(pids[name])
            await call(count // rounds)
            if number:  # the first warms up
                spent[name] += cpu(pids[name]) - before
    return {name: seconds / (count // rounds * rounds) * 1e6 for name, seconds in spent.items()}


async def requests(count: int, direct: str, hops: dict[str, tuple[str, int]]) -> list[Figure]:
    """CPU per request at 64 and 1,024 in flight, passed through, converted, and captured with token ids."""
    pids = {name: pid for name, (_, pid) in hops.items()}
    figures = []
    chat, params = orjson.dumps(CHAT), orjson.dumps(PARAMS)
    client = HttpClient()

    def asking(url: str, body: bytes, in_flight: int) -> Callable[[int], Awaitable[None]]:
        return lambda number: flood(client, Url(url), body, number, in_flight)

    for in_flight, target in ((64, 200.0), (1024, 250.0)):
        calls = {name: asking(f"{url}/v1/chat/completions", chat, in_flight) for name, (url, _) in hops.items()}
        for name, value in (await cost(pids, calls, count)).items():
            limit = target if name == OURS else None
            figures.append(Figure(f"{name}: CPU per request through, {in_flight:,} in flight", value, "us", limit))
    converted = {OURS: asking(f"{hops[OURS][0]}/v1/responses", params, 64)}
    value = (await cost(pids, converted, count))[OURS]
    figures.append(Figure(f"{OURS}: CPU per request with conversion, 64 in flight", value, "us"))
    with program(*capturing(direct)) as (url, pid):
        captured = {URLS: asking(f"{url}/v1/responses", params, 64)}
        value = (await cost({URLS: pid}, captured, count))[URLS]
    name = f"{URLS}: CPU per request with conversion and capture of token ids, 64 in flight"
    figures.append(Figure(name, value, "us", 400.0))
    await client.close()
    return figures


async def latencies(
    direct: str, hops: dict[str, tuple[str, int]], rate: int = 1000, seconds: float = 1.0
) -> list[Figure]:
    """p99 at a fixed rate, directly and through the hops, in alternating windows."""
    client = HttpClient()
    body = orjson.dumps(CHAT)
    urls = {"direct": direct, **{name: url for name, (url, _) in hops.items()}}
    values: dict[str, list[float]] = {name: [] for name in urls}
    for number in range(6):
        for name, url in urls.items():
            seen = await window(client, Url(f"{url}/v1/chat/completions"), body, rate, 1.0)
            if number:
                values[name] += seen
    await client.close()
    p99 = {name: quantiles(seen, n=100)[98] * 1000 for name, seen in values.items()}
    figures = [Figure(f"  (p99 directly at {rate:,} requests/s)", p99["direct"], "ms")]
    for name in hops:
        limit = 2.0 if name == OURS else None
        figures.append(Figure(f"{name}: added p99 at {rate:,} requests/s", p99[name] - p99["direct"], "ms", limit))
    return figures


async def chunks(hops: dict[str, tuple[str, int]], streams: int = 64, rounds: int = 4) -> list[Figure]:
    """CPU per chunk of streams of a chunk every 5 ms, in turns."""
    body = orjson.dumps({**CHAT, "stream": True})
    spent, seen = dict.fromkeys(hops, 0.0), dict.fromkeys(hops, 0)
    client = HttpClient()

    async def one(name: str, target: Url) -> None:
        async with client.stream(b"POST", target, HEADERS, body, 60.0) as reply:
            async for piece in reply:
                seen[name] += piece.count(b"data: ")

    for _ in range(rounds):
        for name, (url, pid) in hops.items():
            before = cpu(pid)
            async with asyncio.TaskGroup() as group:
                for _ in range(streams):
                    group.create_task(one(name, Url(f"{url}/v1/chat/completions")))
                    await asyncio.sleep(0.0007)
            spent[name] += cpu(pid) - before
    await client.close()
    return [
        Figure(
            f"{name}: CPU per streamed chunk, {streams} streams, one every 5 ms",
            spent[name] / seen[name] * 1e6,
            "us",
            20.0 if name == OURS else None,
        )
        for name in hops
    ]


async def held_open(hops: dict[str, tuple[str, int]]) -> list[Figure]:
    """Memory with 10,000 requests open."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    count = min(OPEN, files // 2 - 100)
    body = orjson.dumps(CHAT)
    figures = []
    for name, (url, pid) in hops.items():
        await asyncio.sleep(0)
        fresh = rss(pid)
        value = await _held(Url(f"{url}/v1/chat/completions"), body, count, pid)
        limit_mb = 400.0 if name == OURS else None
        figures.append(Figure(f"{name}: RSS with {count:,} requests open", value, "MB", limit_mb))
        figures.append(Figure(f"  ({name}: RSS fresh)", fresh, "MB"))
    return figures


async def _held(url: Url, body: bytes, count: int, pid: int) -> float:
    """Memory of a process with so many requests open, in MB."""
    client = HttpClient(limit=20_000)
    calls = []
    for _ in range(count):
        calls.append(asyncio.ensure_future(client.request(b"POST", url, HEADERS, body, 300.0)))
        if len(calls) % 100 == 0:
            await asyncio.sleep(0.02)
    await asyncio.sleep(3)
    value = rss(pid)
    answered = sum(call.done() for call in calls)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await client.close()
    assert not answered, f"{answered} were answered"
    return value


@asynccontextmanager
async def hops_before(*command: str) -> AsyncIterator[tuple[str, dict[str, tuple[str, int]]]]:
    """An engine, and the hops before it."""
    async with AsyncExitStack() as stack:
        direct, _ = stack.enter_context(program(*command))
        hops = {OURS: stack.enter_context(program(*ours(direct)))}
        for name, hop in BESIDE.items():
            if shutil.which(name):
                hops[name] = stack.enter_context(hop(direct))
            else:
                print(f"{name} is not installed: not measured", file=sys.stderr)
        yield direct, hops


async def main() -> None:
    """Measure against three engines: one that answers at once, one that streams slowly, one that is slow."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    parts = sys.argv[2].split(",") if len(sys.argv) > 2 else ["requests", "latency", "chunks", "open"]
    figures: list[Figure] = []
    if {"requests", "latency"} & set(parts):
        async with hops_before(*engine()) as (direct, hops):
            if "requests" in parts:
                figures += await requests(count, direct, hops)
            if "latency" in parts:
                figures += await latencies(direct, hops)
    if "chunks" in parts:
        async with hops_before(*engine(latency=0.05, per_token=0.005, words=CHUNKS)) as (_, hops):
            figures += await chunks(hops)
    if "open" in parts:
        async with hops_before(*engine(latency=600.0)) as (_, hops):
            figures += await held_open(hops)
    report(figures)


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(main())
