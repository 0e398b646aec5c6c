"""Asking pods over real sockets: what counts as an answer, and what is not believed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from kubegym_operator.plan.snapshot import Answer, Question
from kubegym_operator.reconcile.probe import MOST_BYTES, HttpProber, HttpProgressReader

TOLD = {"rollouts": {"expected": 4, "scored": 2}, "rewardMean": "0.5"}


async def _pod(request: web.Request) -> web.Response:
    match request.path:
        case "/readyz":
            return web.json_response({"policyVersion": 7, "lastRequestTime": 12.5})
        case "/plain":
            return web.Response(text="ok")
        case "/busy":
            return web.Response(status=503, text="the model is loading")
        case "/endless":
            return web.Response(text="x" * (MOST_BYTES + 1))
        case "/elsewhere":
            raise web.HTTPFound("/readyz")
        case _:
            return web.Response(status=404)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


async def _serve(handler: object) -> tuple[web.AppRunner, int]:
    application = web.Application()
    application.router.add_get("/{path:.*}", handler)  # type: ignore[arg-type]
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, runner.addresses[0][1]


@pytest.fixture
async def port() -> AsyncIterator[int]:
    runner, number = await _serve(_pod)
    yield number
    await runner.cleanup()


@pytest.mark.parametrize(
    ("path", "ok", "words"),
    [
        ("/readyz", True, ""),
        ("/plain", True, ""),
        ("/busy", False, "the model is loading"),
        ("/elsewhere", False, "302"),
        ("/endless", False, "more than"),
    ],
)
async def test_answers(session: aiohttp.ClientSession, port: int, path: str, ok: bool, words: str) -> None:
    answer = await HttpProber(session).ask(Question("model", ("127.0.0.1",), port, path))
    assert answer.ok is ok
    assert words in answer.message


async def test_a_model_server_tells_its_version_and_last_request(session: aiohttp.ClientSession, port: int) -> None:
    answer = await HttpProber(session).ask(Question("model", ("127.0.0.1",), port, "/readyz"))
    assert answer == Answer(True, policy_version=7, last_request=12.5)


async def test_one_good_address_is_enough(session: aiohttp.ClientSession, port: int) -> None:
    assert (await HttpProber(session).ask(Question("agent", ("127.0.0.2", "127.0.0.1"), port, "/readyz"))).ok
    refused = await HttpProber(session).ask(Question("agent", ("127.0.0.2",), port, "/readyz"))
    assert not refused.ok
    assert "127.0.0.2" in refused.message
    assert not (await HttpProber(session).ask(Question("agent", (), port, "/readyz"))).ok


@pytest.mark.parametrize(
    ("body", "status", "believed"),
    [
        pytest.param(json.dumps(TOLD), 200, True, id="progress"),
        pytest.param(json.dumps(TOLD) + " " * MOST_BYTES, 200, False, id="too long"),
        pytest.param("[]", 200, False, id="no object"),
        pytest.param("nonsense", 200, False, id="no JSON"),
        pytest.param(json.dumps(TOLD), 500, False, id="an error"),
    ],
)
async def test_progress(session: aiohttp.ClientSession, body: str, status: int, believed: bool) -> None:
    async def worker(request: web.Request) -> web.Response:
        assert request.path_qs == "/progress?scope=run"
        return web.Response(text=body, status=status)

    runner, port = await _serve(worker)
    try:
        progress = await HttpProgressReader(session, port).read(["127.0.0.1"])
    finally:
        await runner.cleanup()
    assert (progress is not None) is believed
    if progress is not None:
        assert progress.rollouts == TOLD["rollouts"]
