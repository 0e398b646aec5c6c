"""From process start to the first model request; validation of rows; many rollouts queued at once.

usage: python -m benchmarks.start
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.figures import ROOT, Figure, cpu_of, report, scratch
from benchmarks.rollouts import mcqa_rows
from kubegym.core.protocols import CallContext, ModelReply
from kubegym.data.dataset import DatasetSpec, open_dataset
from kubegym.data.validate import validate
from kubegym.local.localrun import LocalRun
from kubegym.local.resolve import RunFlags, resolve
from kubegym.resources import EnvironmentRuntime, load_environment


async def first_request() -> float:
    """CPU seconds that ``kubegym run`` has used, all its processes, when its first generation request arrives."""
    arrived: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    started: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.CancelledError):
            return  # the process was killed with a connection open, which is how this ends
        if head.startswith(b"GET"):
            body = json.dumps({"data": [{"id": "stub"}]}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body)
            await writer.drain()
        elif not arrived.done():
            arrived.set_result(sum(cpu_of(pid) for pid in [*started, *children(started[0])]))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    rows = mcqa_rows(scratch() / "few.jsonl", 64)
    command = [
        *(str(Path(sys.executable).with_name("kubegym")), "run", str(ROOT / "environments/mcqa")),
        *("--dataset", str(rows), "--base-url", f"http://127.0.0.1:{port}/v1", "--model", "stub"),
        *("--output", str(scratch() / "start")),
    ]
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet)
    started.append(process.pid)
    try:
        return await asyncio.wait_for(arrived, 60)
    finally:
        process.kill()
        await process.wait()
        server.close()


def children(pid: int) -> list[int]:
    """Process ids of all descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, left = [], [pid]
    while left:
        below = parents.get(left.pop(), [])
        found += below
        left += below
    return found


async def rows_per_second(count: int) -> float:
    """Rows validated in a CPU second: parsed, checked by the contract and by the environment."""
    rows = mcqa_rows(scratch() / "rows.jsonl", count)
    runtime = EnvironmentRuntime(load_environment(ROOT / "environments/mcqa").cls)
    dataset = await open_dataset(DatasetSpec(str(rows)), scratch=scratch())
    before = time.process_time()
    await validate([("mcqa", dataset)], {}, lambda _, row: runtime.validate_row(row))
    spent = time.process_time() - before
    await dataset.close()
    runtime.watchdog.close()
    return count / spent


class FirstCall:
    """A model that notes when it is first asked, and answers at once."""

    model = "stub"

    def __init__(self) -> None:
        self.first: float | None = None

    def leave(self, rollout_id: str) -> None:
        pass

    async def respond(self, request: dict[str, Any], context: CallContext) -> ModelReply:
        if self.first is None:
            self.first = time.process_time()
        text = {"type": "output_text", "text": "\\boxed{A}", "annotations": []}
        message = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
        return ModelReply({"id": "r", "object": "response", "output": [message], "usage": None})

    async def close(self) -> None:
        return None


async def queued(count: int) -> float:
    """CPU seconds from the start of a run with ``count`` rollouts and as many slots to its first model request."""
    rows = mcqa_rows(scratch() / "queued.jsonl", count)
    flags = RunFlags(
        dataset=str(rows),
        base_url="http://127.0.0.1:9/v1",
        model="stub",
        concurrency=count,
        output=str(scratch() / "q"),
    )
    model = FirstCall()
    spec = resolve([str(ROOT / "environments/mcqa")], flags)
    before = time.process_time()
    await LocalRun(spec, clients={"policy": model}).run()
    assert model.first is not None
    return model.first - before


def main() -> None:
    """Print the figures."""
    os.environ.pop("KUBEGYM_API_KEY", None)
    starts = sorted(asyncio.run(first_request()) for _ in range(5))
    report(
        [
            Figure("process start to first model request, CPU", starts[2], "s", 1.0),
            Figure("validation of rows", asyncio.run(rows_per_second(100_000)), "rows/s", 20_000, "more"),
            Figure(
                "16,000 rollouts queued at once: CPU to the first model request", uvloop.run(queued(16_000)), "s", 1.0
            ),
        ]
    )


if __name__ == "__main__":
    main()
