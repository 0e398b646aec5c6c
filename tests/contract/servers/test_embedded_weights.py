"""Weights of the embedded engine, exchanged while it serves: real ones, proven by log-probs that numpy computed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kubegym.core.spec.model import Weights
from kubegym.http import HttpClient
from kubegym.model.embedded import SHIPPED_MODEL, EmbeddedEngine
from kubegym.model.engine_client import EngineClient
from kubegym.model.server import ModelServer
from kubegym.model.weights import CANARY_FILE, Exchange, Places, Start
from testbed.checkpoints import gguf
from testbed.models import Caller
from testbed.pods import eventually
from testbed.served import serving

pytestmark = pytest.mark.contract

CHECKPOINTS = Path(__file__).parents[2] / "models"
QUESTION = {"messages": [{"role": "user", "content": "What is 7+18? Answer with a number."}], "temperature": 0}


@asynccontextmanager
async def embedded(announced: Path | None = None) -> AsyncIterator[tuple[Caller, Exchange]]:
    client = EngineClient(EmbeddedEngine(slots=4))
    start = Start(1, SHIPPED_MODEL.parent, announced)
    server = ModelServer([client], weights=(Places(), start))
    assert server.exchange is not None
    http = HttpClient()
    try:
        async with serving(server) as url:
            yield Caller(http, url), server.exchange
    finally:
        await http.close()


async def until(exchange: Exchange, so: Callable[[dict[str, Any]], bool]) -> None:
    async def told() -> bool:
        return so(exchange.told())

    async with asyncio.timeout(120):
        await eventually(told)


async def said(model: Caller) -> tuple[str, bytes | None]:
    reply = await model.post("/v1/chat/completions", QUESTION)
    assert reply.status == 200, reply.body
    return json.loads(reply.body)["choices"][0]["message"]["content"], reply.header(b"x-kubegym-policy-version")


async def test_the_model_answers_with_what_was_announced(tmp_path: Path) -> None:
    first, worse = gguf(tmp_path / "ckpt-1", CHECKPOINTS / "ckpt-1"), gguf(tmp_path / "worse", CHECKPOINTS / "ckpt-2")
    (worse / CANARY_FILE).write_bytes((CHECKPOINTS / "ckpt-3" / CANARY_FILE).read_bytes())
    async with embedded() as (model, exchange):
        assert await said(model) == ("25", b"1")
        exchange.order(Weights(uri=f"file://{first}", version=2))
        await until(exchange, lambda told: told["policyVersion"] == 2)
        text, version = await said(model)
        assert (text != "25", version) == (True, b"2")
        exchange.order(Weights(uri=f"file://{worse}", version=3))
        await until(exchange, lambda told: told["weights"]["failure"] is not None and told["weights"]["phase"] is None)
        assert exchange.told()["weights"]["failure"]["reason"] == "WeightsCorrupt"
        assert await said(model) == (text, b"2")
        assert await exchange.prove() < 0.02


async def test_a_new_one_is_ready_when_it_has_what_was_announced(tmp_path: Path) -> None:
    first = gguf(tmp_path / "ckpt-1", CHECKPOINTS / "ckpt-1")
    announced = tmp_path / "announced.json"
    announced.write_text(json.dumps({"wanted": {"uri": f"file://{first}", "version": 2}}))
    async with embedded(announced) as (model, _):
        text, version = await said(model)
        assert (text != "25", version) == (True, b"2")
