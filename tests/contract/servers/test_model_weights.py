"""Weights exchanged under load: what is served, what is told of it, and what becomes of weights that are broken."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kubegym.http import HttpClient, Response, Url
from kubegym.model.server import ControlPort, ModelServer
from kubegym.model.simulated import Distribution, SimulatedConfig, SimulatedServer, serve_simulated
from kubegym.model.weights import CANARY_FILE, Exchange, Places, Start
from testbed.checkpoints import checkpoint
from testbed.models import QUESTION, WAIT, Caller, events
from testbed.pods import eventually
from testbed.served import serving
from testbed.tcp_relay import Relay

pytestmark = pytest.mark.contract

TOKEN = "s3cret"


class Updated(Caller):
    """A model server before one engine, its control port, and folders of weights."""

    control: str
    engine: SimulatedServer
    folder: Path
    server: ModelServer

    async def order(self, path: str, body: Any = None, method: bytes = b"POST") -> Response:
        headers = f"authorization: Bearer {TOKEN}\r\n".encode()
        data = json.dumps(body).encode() if body is not None else b""
        return await self.http.request(method, Url(self.control + path), headers, data, WAIT)

    async def announce(self, folder: Path, version: int, **fields: Any) -> None:
        reply = await self.order("/weights", {"uri": f"file://{folder}", "version": version, **fields})
        assert reply.status == 200, reply.body

    async def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((await self.order("/state", method=b"GET")).body)
        return state

    async def until(self, so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        seen: list[dict[str, Any]] = []

        async def told() -> bool:
            seen.append(await self.state())
            return so(seen[-1])

        async with asyncio.timeout(WAIT):
            await eventually(told)
        return seen[-1]

    async def settled(self) -> dict[str, Any]:
        return await self.until(lambda state: state["weights"]["phase"] is None)

    def hold(self, held: bool) -> None:
        """The engine answers nobody who comes from now on, or all who came."""
        self.engine.slots.hold(held)

    async def served(self) -> tuple[str, str | None]:
        """The weights that answered, and the version that was told."""
        return made_by(await self.post("/v1/chat/completions", QUESTION))

    async def proven(self) -> bool:
        return bool(json.loads((await self.order("/canary")).body)["proven"])


def serves(version: int) -> Callable[[dict[str, Any]], bool]:
    return lambda state: state["policyVersion"] == version


def made_by(reply: Response) -> tuple[str, str | None]:
    assert reply.status == 200, reply.body
    told = reply.header(b"x-kubegym-policy-version")
    return json.loads(reply.body)["system_fingerprint"].partition(":")[2], told.decode() if told else None


@asynccontextmanager
async def updated(
    folder: Path, *, latency: float = 0.0, fault: Any = None, start: Start | None = None, **options: Any
) -> AsyncIterator[Updated]:
    first = folder / "first" if (folder / "first").exists() else checkpoint(folder / "first")
    config = SimulatedConfig(
        model="policy", weights=str(first), weights_fault=fault, latency=Distribution.constant(latency)
    )
    engine = await serve_simulated(config)
    token = folder / "token"
    token.write_text(TOKEN)
    heard: list[str] = []
    control = ControlPort("127.0.0.1", 0, token, heard.append)
    http = HttpClient()
    server = ModelServer(
        [engine.url],
        model="policy",
        probe=False,
        control=control,
        weights=(Places(), start or Start(1, first)),
        **options,
    )
    async with serving(server) as url:
        caller = Updated(http, url)
        caller.control, caller.engine, caller.folder, caller.server = heard[0], engine, folder, server
        try:
            yield caller
        finally:
            await http.close()
            await engine.close()


async def test_nobody_is_served_before_what_the_engine_began_with_has_proven(tmp_path: Path) -> None:
    engine = await serve_simulated(SimulatedConfig(model="policy", weights=str(checkpoint(tmp_path / "first"))))
    address = Url(engine.url).origin
    relay = Relay(address.host, address.port)
    relay.gate.let(0)
    options: dict[str, Any] = {"model": "policy", "probe": False, "weights": (Places(), Start(1, tmp_path / "first"))}
    http = HttpClient()
    try:
        async with serving(ModelServer([f"http://127.0.0.1:{relay.port}/v1"], **options)) as url:
            model = Updated(http, url)
            asked = asyncio.ensure_future(model.served())
            reply = await model.get("/readyz")
            assert (reply.status, json.loads(reply.body)["status"]) == (503, "the weights have not been proven yet")
            assert not asked.done()
            relay.gate.let(None)
            async with asyncio.timeout(WAIT):
                assert await asked == ("first", "1")
            assert (await model.get("/readyz")).status == 200
            await http.close()
    finally:
        await http.close()
        await asyncio.to_thread(relay.close)
        await engine.close()


async def test_what_is_announced_is_served_and_told(tmp_path: Path) -> None:
    async with updated(tmp_path) as model:
        assert await model.served() == ("first", "1")
        await model.announce(checkpoint(tmp_path / "second"), 2)
        state = await model.until(lambda state: state["policyVersion"] == 2)
        assert (await model.settled())["ready"] is True
        assert state["weights"]["failure"] is None
        assert await model.served() == ("second", "2")
        ready = json.loads((await model.get("/readyz")).body)
        assert (ready["status"], ready["policyVersion"], ready["weights"]["target"]) == ("ready", 2, 2)
        assert await model.proven()


@pytest.mark.parametrize("on_update", ["Finish", "Abort"])
async def test_under_load_no_call_is_told_another_version_than_made_it(tmp_path: Path, on_update: str) -> None:
    """Calls that are given up are asked again, as a client does; none is lost, none is told wrongly."""
    second, third = checkpoint(tmp_path / "second"), checkpoint(tmp_path / "third")
    right = {("first", "1"), ("second", "2"), ("third", "3")}
    async with updated(tmp_path, latency=0.02) as model:
        seen: Counter[tuple[str, str | None]] = Counter()
        over = False

        async def ask() -> None:
            while not over:
                reply = await model.post("/v1/chat/completions", QUESTION)
                if reply.status == 502:
                    assert b"ModelAborted" in reply.body
                    continue
                seen[made_by(reply)] += 1

        async def answered(by: str, version: int) -> None:
            async def so() -> bool:
                return bool(seen[by, str(version)])

            async with asyncio.timeout(WAIT):
                await eventually(so)

        async with asyncio.TaskGroup() as callers:
            for _ in range(16):
                callers.create_task(ask())
            await answered("first", 1)
            for version, folder in ((2, second), (3, third)):
                await model.until(lambda state: state["at_work"] > 0)
                await model.announce(folder, version, onUpdate=on_update)
                await answered(folder.name, version)
            over = True
        assert set(seen) == right, seen


async def test_it_is_not_ready_while_weights_are_exchanged_and_calls_wait(tmp_path: Path) -> None:
    async with updated(tmp_path) as model:
        model.hold(True)
        at_work = asyncio.ensure_future(model.post("/v1/chat/completions", QUESTION))
        await model.until(lambda state: state["at_work"] == 1)
        await model.announce(checkpoint(tmp_path / "second"), 2)
        state = await model.until(lambda state: state["weights"]["phase"] == "draining")
        assert "version 2" in state["reason"]
        assert (await model.get("/readyz")).status == 503
        waits = asyncio.ensure_future(model.post("/v1/chat/completions", QUESTION))
        await model.until(lambda state: state["waiting"] == 1)
        model.hold(False)
        assert made_by(await at_work) == ("first", "1")
        assert made_by(await waits) == ("second", "2")


async def test_a_stream_ends_with_the_weights_that_began_it(tmp_path: Path) -> None:
    async with updated(tmp_path, latency=0.3) as model:
        model.hold(True)
        stream = asyncio.ensure_future(model.post("/v1/chat/completions", {**QUESTION, "stream": True}))
        await model.until(lambda state: state["at_work"] == 1)
        await model.announce(checkpoint(tmp_path / "second"), 2)
        await model.until(lambda state: state["weights"]["phase"] == "draining")
        model.hold(False)
        reply = await stream
        assert {event["system_fingerprint"] for event in events(reply.body)} == {"kubegym-simulated:first"}
        assert reply.header(b"x-kubegym-policy-version") == b"1"
        await model.until(lambda state: state["policyVersion"] == 2)


@pytest.mark.parametrize("fault", ["stale", "head"])
async def test_weights_that_did_not_arrive_serve_nobody(tmp_path: Path, fault: str) -> None:
    """The engine says 200 to everything. A part that keeps old weights is the tied head of vLLM on CPUs."""
    async with updated(tmp_path, fault=fault) as model:
        await model.announce(checkpoint(tmp_path / "second"), 2)
        state = await model.until(lambda state: state["weights"]["failure"] is not None)
        assert state["weights"]["failure"]["reason"] == "WeightsCorrupt"
        state = await model.settled()
        assert (state["ready"], state["policyVersion"], state["weights"]["restart"]) == (True, 1, False)
        assert await model.served() == ("first", "1")
        assert await model.proven()


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-20])


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def unproven(folder: Path) -> None:
    (folder / CANARY_FILE).unlink()


def another(folder: Path) -> None:
    canary = json.loads((folder / CANARY_FILE).read_text())
    canary["probes"][0]["log_probs"][0] -= 1.0
    (folder / CANARY_FILE).write_text(json.dumps(canary))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "WeightsCorrupt"),
        (emptied, "WeightsNotFound"),
        (shutil.rmtree, "WeightsNotFound"),
        (unproven, "CanaryMissing"),
        (another, "WeightsCorrupt"),
    ],
)
async def test_what_is_broken_is_not_served_and_the_old_goes_on(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    second = checkpoint(tmp_path / "second")
    damage(second)
    async with updated(tmp_path) as model:
        await model.announce(second, 2)
        state = await model.until(lambda state: state["weights"]["failure"] is not None)
        assert (state["weights"]["failure"]["version"], state["weights"]["failure"]["reason"]) == (2, reason)
        await model.settled()
        assert await model.served() == ("first", "1")
        await model.announce(checkpoint(tmp_path / "third"), 3)
        await model.until(lambda state: state["policyVersion"] == 3)
        assert (await model.settled())["weights"]["failure"] is None
        assert await model.served() == ("third", "3")


class Careless:
    """Looks at no folder before the engine is asked to load it."""

    def __init__(self, exchange: Exchange) -> None:
        self._engine = exchange._engine
        exchange._engine = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def check(self, folder: Path, kind: str) -> None:
        pass


async def test_an_engine_that_lost_its_weights_gets_the_last_good_ones_before_anybody_asks(tmp_path: Path) -> None:
    """The next request would end it: as vLLM after a reload that failed."""
    second, third = checkpoint(tmp_path / "second"), checkpoint(tmp_path / "third")
    (third / "model.safetensors").unlink()
    async with updated(tmp_path, latency=0.01) as model:
        await model.announce(second, 2)
        await model.until(lambda state: state["policyVersion"] == 2)
        assert model.server.exchange is not None
        Careless(model.server.exchange)
        calls = [asyncio.ensure_future(model.post("/v1/chat/completions", QUESTION)) for _ in range(20)]
        await model.announce(third, 3)
        state = await model.until(lambda state: state["weights"]["failure"] is not None)
        assert "500" in state["weights"]["failure"]["message"]
        await model.settled()
        assert {made_by(await call) for call in calls} <= {("second", "2")}
        assert await model.served() == ("second", "2")


async def test_where_nothing_proves_it_stays_out_and_asks_for_a_restart(tmp_path: Path) -> None:
    async with updated(tmp_path) as model:
        second = checkpoint(tmp_path / "second")
        await model.announce(second, 2)
        await model.until(lambda state: state["policyVersion"] == 2)
        third = checkpoint(tmp_path / "third")
        another(third)
        shutil.rmtree(second)  # nothing to go back to
        await model.announce(third, 3)
        state = await model.until(lambda state: state["weights"]["restart"])
        assert (state["ready"], state["weights"]["failure"]["version"]) == (False, 3)
        assert (await model.get("/readyz")).status == 503
        await model.announce(checkpoint(tmp_path / "fourth"), 4)
        await model.until(lambda state: state["ready"])
        assert await model.served() == ("fourth", "4")


async def test_an_engine_that_starts_anew_serves_nobody_before_it_has_its_weights_again(tmp_path: Path) -> None:
    async with updated(tmp_path) as model:
        await model.announce(checkpoint(tmp_path / "second"), 2)
        await model.until(lambda state: state["policyVersion"] == 2)
        port, config = model.engine.port, model.engine.config
        await model.engine.close()
        state = await model.until(lambda state: not state["ready"])
        assert state["reason"] == "the engine does not answer"
        call = asyncio.ensure_future(model.post("/v1/chat/completions", QUESTION))
        again = await serve_simulated(config, port=port)
        try:
            assert made_by(await call) == ("second", "2")
            assert (await model.settled())["ready"] is True
        finally:
            await again.close()


async def test_an_engine_that_is_away_when_it_is_told_serves_when_it_is_back(tmp_path: Path) -> None:
    second = checkpoint(tmp_path / "second")
    async with updated(tmp_path) as model:
        await model.until(lambda state: state["weights"]["canary"] is not None)
        port, config = model.engine.port, model.engine.config
        await model.engine.close()
        await model.announce(second, 2)
        state = await model.until(lambda state: state["weights"]["failure"] is not None)
        assert state["weights"]["failure"]["reason"] == "EngineUnavailable"
        again = await serve_simulated(config, port=port)
        try:
            state = await model.until(lambda state: state["ready"])
            assert (state["policyVersion"], state["weights"]["restart"]) == (1, False)
            assert await model.served() == ("first", "1")
            await model.announce(second, 2)
            await model.until(serves(2))
            assert await model.served() == ("second", "2")
        finally:
            await again.close()


async def test_an_adapter_is_loaded_under_a_new_name_and_serves_the_models_calls(tmp_path: Path) -> None:
    async with updated(tmp_path) as model:
        names = set()
        for version in (2, 3):
            await model.announce(checkpoint(tmp_path / f"lora-{version}", adapter=True), version, kind="Adapter")
            await model.until(serves(version))
            assert await model.served() == (f"lora-{version}", str(version))
            assert await model.proven()
            await model.settled()
            listed = await model.http.request(b"GET", Url(model.engine.url + "/models"), b"", b"", WAIT)
            [name] = {one["id"] for one in json.loads(listed.body)["data"]} - {"policy"}
            names.add(name)
        assert len(names) == 2
        await model.announce(checkpoint(tmp_path / "fourth"), 4)
        await model.until(lambda state: state["policyVersion"] == 4)
        assert await model.served() == ("fourth", "4")


async def test_a_stale_adapter_serves_nobody(tmp_path: Path) -> None:
    async with updated(tmp_path, fault="stale") as model:
        await model.announce(checkpoint(tmp_path / "lora", adapter=True), 2, kind="Adapter")
        state = await model.until(lambda state: state["weights"]["failure"] is not None)
        assert state["weights"]["failure"]["reason"] == "WeightsCorrupt"
        await model.settled()
        assert await model.served() == ("first", "1")


async def test_a_new_replica_serves_what_was_announced_before_it_is_ready(tmp_path: Path) -> None:
    second = checkpoint(tmp_path / "second")
    announced = tmp_path / "announced.json"
    announced.write_text(json.dumps({"wanted": {"uri": f"file://{second}", "version": 2}}))
    async with updated(tmp_path, start=Start(announced=announced)) as model:
        assert made_by(await model.post("/v1/chat/completions", QUESTION)) == ("second", "2")
        assert (await model.get("/readyz")).status == 200


async def test_a_new_replica_begins_with_the_last_good_where_what_is_wanted_does_not_prove(tmp_path: Path) -> None:
    second, third = checkpoint(tmp_path / "second"), checkpoint(tmp_path / "third")
    another(third)
    announced = tmp_path / "announced.json"
    orders = {"wanted": {"uri": f"file://{third}", "version": 3}, "good": {"uri": f"file://{second}", "version": 2}}
    announced.write_text(json.dumps(orders))
    async with updated(tmp_path, start=Start(announced=announced)) as model:
        assert made_by(await model.post("/v1/chat/completions", QUESTION)) == ("second", "2")
        assert (await model.state())["weights"]["failure"]["version"] == 3
        announced.write_text(json.dumps({"wanted": orders["wanted"]}))
    async with updated(tmp_path, start=Start(announced=announced)) as model:
        state = await model.until(lambda state: state["weights"]["restart"])
        assert (state["ready"], state["policyVersion"]) == (False, None)


async def test_orders_that_cannot_be_are_refused(tmp_path: Path) -> None:
    async with updated(tmp_path) as model:
        second = checkpoint(tmp_path / "second")
        await model.announce(second, 2)
        await model.until(lambda state: state["policyVersion"] == 2)
        order = {"uri": f"file://{second}", "version": 2}
        assert (await model.order("/weights", order)).status == 200
        refused: list[tuple[dict[str, Any], int]] = [
            ({"version": 1}, 409),
            ({"version": -1}, 422),
            ({"uri": "ftp://x"}, 422),
            ({"onUpdate": "Recreate", "version": 3}, 409),
            ({"more": 1}, 422),
        ]
        for fields, status in refused:
            assert (await model.order("/weights", {**order, **fields})).status == status, fields
        assert (await model.post("/weights", {**order, "version": 3})).status == 404


async def test_over_several_engines_weights_are_not_exchanged(tmp_path: Path) -> None:
    engines = [await serve_simulated(SimulatedConfig(model="policy")) for _ in range(2)]
    server = ModelServer([one.url for one in engines], model="policy", probe=False, weights=(Places(), Start()))
    assert server.exchange is None
    await server.close()
    for one in engines:
        await one.close()
