"""The control port: who may use it, and what it does to the data port."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kubegym.http import HttpClient, Response, Url
from kubegym.model.queue import FairQueue
from kubegym.model.server import ControlPort, ModelServer
from kubegym.model.simulated import SimulatedConfig, SimulatedServer, serve_simulated
from testbed.models import QUESTION, WAIT, Caller
from testbed.pods import eventually
from testbed.served import serving

pytestmark = pytest.mark.contract

TOKEN = "s3cret"


class Controlled(Caller):
    """A model server before one engine, and its control port."""

    control = ""
    engine: SimulatedServer
    token = TOKEN

    async def order(self, path: str, body: Any = None, method: bytes = b"POST") -> Response:
        headers = f"authorization: Bearer {self.token}\r\n".encode() if self.token else b""
        data = json.dumps(body).encode() if body is not None else b""
        return await self.http.request(method, Url(self.control + path), headers, data, WAIT)

    async def until(self, so: Callable[[dict[str, Any]], bool]) -> None:
        async def told() -> bool:
            return so(json.loads((await self.order("/state", method=b"GET")).body))

        async with asyncio.timeout(WAIT):
            await eventually(told)


@asynccontextmanager
async def controlled(folder: Path, **options: Any) -> AsyncIterator[Controlled]:
    engine = await serve_simulated(SimulatedConfig(model="policy"))
    file = folder / "token"
    file.write_text(TOKEN + "\n")
    heard: list[str] = []
    port = ControlPort("127.0.0.1", 0, file, heard.append)
    http = HttpClient()
    server = ModelServer([engine.url], model="policy", probe=False, control=port, **options)
    async with serving(server) as url:
        caller = Controlled(http, url)
        caller.control, caller.engine = heard[0], engine
        try:
            yield caller
        finally:
            await http.close()
            await engine.close()


@pytest.mark.parametrize("path", ["/state", "/drain", "/pause", "/resume"])
@pytest.mark.parametrize("token", ["", "wrong", "s3cret2"])
async def test_nobody_without_the_token(tmp_path: Path, path: str, token: str) -> None:
    async with controlled(tmp_path) as model:
        model.token = token
        reply = await model.order(path, method=b"GET" if path == "/state" else b"POST")
        assert reply.status == 401
        assert (await model.get("/readyz")).status == 200


async def test_a_token_counts_as_soon_as_its_file_has_it(tmp_path: Path) -> None:
    async with controlled(tmp_path) as model:
        (tmp_path / "token").write_text("another")
        assert (await model.order("/state", method=b"GET")).status == 401
        model.token = "another"
        assert (await model.order("/state", method=b"GET")).status == 200
        for empty in ("", " \n"):
            (tmp_path / "token").write_text(empty)
            model.token = empty.strip()
            assert (await model.order("/state", method=b"GET")).status == 401
        (tmp_path / "token").unlink()
        assert (await model.order("/state", method=b"GET")).status == 401


async def test_the_data_port_controls_nothing(tmp_path: Path) -> None:
    async with controlled(tmp_path) as model:
        for path in ("/drain", "/pause", "/resume", "/state"):
            assert (await model.post(path, {}, f"authorization: Bearer {TOKEN}\r\n")).status == 404


async def test_drained_it_is_not_ready_answers_all_the_same_and_says_so(tmp_path: Path) -> None:
    async with controlled(tmp_path) as model:
        state = json.loads((await model.order("/drain")).body)
        assert (state["ready"], state["reason"]) == (False, "draining")
        ready = await model.get("/readyz")
        assert (ready.status, json.loads(ready.body)["status"]) == (503, "draining")
        reply = await model.post("/v1/chat/completions", QUESTION)
        assert (reply.status, reply.header(b"x-kubegym-draining")) == (200, b"1")
        assert json.loads((await model.order("/resume")).body)["ready"] is True
        assert (await model.get("/readyz")).status == 200
        assert (await model.post("/v1/chat/completions", QUESTION)).header(b"x-kubegym-draining") is None


async def test_a_drain_waits_for_what_is_at_work(tmp_path: Path) -> None:
    async with controlled(tmp_path) as model:
        model.engine.slots.hold(True)
        call = asyncio.ensure_future(model.post("/v1/chat/completions", QUESTION))
        await model.until(lambda state: state["at_work"] == 1)
        drain = asyncio.ensure_future(model.order("/drain", {"wait_seconds": WAIT}))
        await model.until(lambda state: state["reason"] == "draining")
        assert not drain.done()
        model.engine.slots.hold(False)
        assert json.loads((await drain).body)["at_work"] == 0
        assert (await call).status == 200


async def test_paused_calls_are_held_and_go_on(tmp_path: Path) -> None:
    async with controlled(tmp_path) as model:
        state = json.loads((await model.order("/pause", {"wait_seconds": WAIT})).body)
        assert (state["reason"], state["at_work"]) == ("paused", 0)
        assert (await model.get("/readyz")).status == 503
        call = asyncio.ensure_future(model.post("/v1/chat/completions", QUESTION))
        await model.until(lambda state: state["waiting"] == 1)
        assert not call.done()
        await model.order("/resume")
        reply = await call
        assert reply.status == 200
        assert float(reply.header(b"x-kubegym-queued") or 0) > 0


async def test_a_full_queue_is_429_with_retry_after(tmp_path: Path) -> None:
    async with controlled(tmp_path, queue=FairQueue(1, 0)) as model:
        await model.order("/pause")
        for path, body in (("/v1/chat/completions", QUESTION), ("/v1/responses", {"input": "q"}), ("/tokenize", {})):
            reply = await model.post(path, body)
            assert reply.status == 429
            assert int(reply.header(b"retry-after") or 0) >= 1
        assert "kubegym_model_server_refused_total 3.0" in await model.metrics()


@pytest.mark.parametrize("seconds", [-1, "soon", True, 1e9])
async def test_how_long_to_wait_has_bounds(tmp_path: Path, seconds: Any) -> None:
    async with controlled(tmp_path) as model:
        assert (await model.order("/drain", {"wait_seconds": seconds})).status == 422
