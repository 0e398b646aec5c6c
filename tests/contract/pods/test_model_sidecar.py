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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest

from testbed.models import chat, told
from testbed.pods import ROOT, eventually, serve_process, url_of
from testbed.raw_server import Peer, raw_server

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
    """Calls at the engine keep it from ending; when they are answered and nobody asks any more, it does so early."""
    asked, release = 0, asyncio.Event()

    async def engine(peer: Peer) -> None:
        nonlocal asked
        while True:
            head, _ = await peer.request()
            if head.startswith(b"POST /v1/chat/completions "):
                asked += 1
                await release.wait()
                peer.ok(json.dumps(chat()).encode())
            elif head.startswith(b"GET /v1/models "):
                peer.ok(b'{"data": [{"id": "policy"}]}')
            else:
                peer.say(told(404, b"{}"))

    async with asyncio.timeout(WAIT), raw_server(engine) as upstream:
        arguments = ("--upstream", f"{upstream}/v1", "--model", "policy", "--drain-seconds", "3600")
        async with model_server(*arguments) as (url, process):

            def ask(body: bytes) -> asyncio.Task[int]:
                return asyncio.create_task(status(f"{url}/v1/responses", body))

            async def answers() -> bool:
                return await status(f"{url}/readyz") == 200

            async def stopping() -> bool:
                return await status(f"{url}/readyz") == 503

            async def held(calls: int) -> bool:
                return asked == calls

            early = ask(b'{"input": "before"}')
            await eventually(partial(held, 1))
            await eventually(answers)
            process.send_signal(signal.SIGTERM)
            await eventually(stopping)
            late = ask(b'{"input": "after"}')
            await eventually(partial(held, 2))
            release.set()
            assert (await early, await late) == (200, 200)
            assert await process.wait() == 0


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
