"""The model server in a pod: ready when the engine answers, and while it drains it still answers."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import pytest

from testbed.pods import ROOT, eventually, serve_process, url_of

pytestmark = pytest.mark.contract

WAIT = 600.0


@asynccontextmanager
async def model_server(*arguments: str) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kubegym.cli.main", "serve", "model", *arguments, "--listen", "127.0.0.1:0"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    try:
        yield await url_of(process), process
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def status(url: str, body: bytes | None = None) -> int:
    def ask() -> int:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body), timeout=WAIT) as reply:
                reply.read()
                return int(reply.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    return await asyncio.to_thread(ask)


async def test_ready_when_the_engine_answers_and_no_longer_when_it_is_gone() -> None:
    port = free_port()
    async with (
        asyncio.timeout(WAIT),
        model_server("--upstream", f"http://127.0.0.1:{port}/v1", "--model", "policy") as (url, _),
    ):
        assert await status(f"{url}/healthz") == 200
        assert await status(f"{url}/readyz") == 503

        async def ready(wanted: int) -> None:
            async def so() -> bool:
                return await status(f"{url}/readyz") == wanted

            await eventually(so)

        engine = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "kubegym.cli.main", "serve", "model", "--engine", "simulated"),
            *("--model", "policy", "--listen", f"127.0.0.1:{port}"),
            stdout=subprocess.PIPE,
        )
        try:
            await ready(200)
            assert await status(f"{url}/v1/responses", b'{"input": "q"}') == 200
        finally:
            engine.kill()
            await engine.communicate()
        await ready(503)


async def test_an_engine_that_serves_another_model_is_not_ready() -> None:
    with serve_process("model", "--engine", "simulated", "--model", "other") as engine:
        async with asyncio.timeout(WAIT), model_server("--upstream", f"{engine}/v1", "--model", "policy") as (url, _):

            async def told() -> bool:
                return "other" in await asyncio.to_thread(reason, url)

            await eventually(told)


def reason(url: str) -> str:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=WAIT) as reply:
            return str(json.loads(reply.read())["status"])
    except urllib.error.HTTPError as error:
        with error:
            return str(json.loads(error.read())["status"])


async def test_while_it_drains_it_is_not_ready_and_still_answers() -> None:
    """A call that is still being sent keeps it from ending; when that is answered and nobody asks, it does so early."""
    with serve_process("model", "--engine", "simulated", "--model", "policy") as engine:
        arguments = ("--upstream", f"{engine}/v1", "--model", "policy", "--drain-seconds", "3600")
        async with asyncio.timeout(WAIT), model_server(*arguments) as (url, process):

            async def answers() -> bool:
                return await status(f"{url}/readyz") == 200

            async def stopping() -> bool:
                return await status(f"{url}/readyz") == 503

            await eventually(answers)
            async with begun(url, b'{"input": "before"}') as rest:
                process.send_signal(signal.SIGTERM)
                await eventually(stopping)
                assert await status(f"{url}/v1/responses", b'{"input": "after"}') == 200
                assert await rest() == b"HTTP/1.1 200 OK\r\n"
            assert await process.wait() == 0


@asynccontextmanager
async def begun(url: str, body: bytes) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    """A call of which the server has the head; what is given sends the rest, and says how the reply begins."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)

    async def rest() -> bytes:
        writer.write(body)
        return await reader.readline()

    try:
        head = f"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nexpect: 100-continue\r\n\r\n"
        writer.write(head.encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        yield rest
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_simulated_engine_answers_responses_and_drains() -> None:
    arguments = ("--engine", "simulated", "--drain-seconds", "3600")
    async with asyncio.timeout(WAIT), model_server(*arguments) as (url, process):
        assert await status(f"{url}/healthz") == 200
        assert await status(f"{url}/readyz") == 200
        assert await status(f"{url}/v1/responses", b'{"input": "q"}') == 200
        assert await status(f"{url}/ng-rollout/r1-0-0/v1/responses", b'{"input": "q"}') == 200
        assert await status(f"{url}/v1/responses", b'{"input": 3}') == 422
        assert await status(f"{url}/v1/nothing", b"{}") == 404
        process.send_signal(signal.SIGTERM)

        async def stopping() -> bool:
            return await status(f"{url}/readyz") == 503

        await eventually(stopping)
        process.send_signal(signal.SIGTERM)  # a second one ends it at once
        assert await process.wait() == 0
