"""Which replica a rollout asks, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest

from kubegym.core.errors import InputError, InvalidSpec, ModelError
from kubegym.http import ConnectFailed, ConnectionLost
from kubegym.model.engine_client import EngineClient
from kubegym.model.errors import ModelAborted, ModelOverloaded, ModelTimeout, ModelUnavailable
from kubegym.model.simulated import SimulatedConfig, SimulatedEngine, serve_simulated
from kubegym.model.upstream import Client, Upstreams, only_model
from testbed.raw_server import Peer, raw_server

pytestmark = pytest.mark.unit


def replicas(count: int, **options: Any) -> tuple[Upstreams, list[Client]]:
    clients: list[Client] = [EngineClient(SimulatedEngine(SimulatedConfig())) for _ in range(count)]
    return Upstreams(clients, rng=random.Random(1), **options), clients


def refused() -> ModelError:
    error = ModelUnavailable("refused")
    error.__cause__ = ConnectFailed("refused")
    return error


class Calls:
    """Counts who is asked; ``errors`` are raised by the client they belong to."""

    def __init__(self, clients: list[Client]) -> None:
        self.clients = clients
        self.errors: dict[int, ModelError] = {}
        self.asked: list[int] = []

    async def __call__(self, client: Client) -> int:
        index = self.clients.index(client)
        self.asked.append(index)
        if index in self.errors:
            raise self.errors[index]
        return index


@pytest.mark.looptime
class TestRouting:
    async def test_the_replica_with_the_fewest_rollouts(self) -> None:
        upstreams, clients = replicas(3)
        calls = Calls(clients)
        where = {f"r{n}": await upstreams.ask(f"r{n}", calls) for n in range(30)}
        assert sorted(calls.asked.count(index) for index in range(3)) == [10, 10, 10]
        for rollout, index in where.items():
            assert await upstreams.ask(rollout, calls) == index

    async def test_rollouts_that_are_over_are_forgotten(self) -> None:
        upstreams, clients = replicas(2, idle_seconds=60.0)
        calls = Calls(clients)
        await upstreams.ask("kept", calls)
        for n in range(9):
            await upstreams.ask(f"r{n}", calls)
        await asyncio.sleep(50)
        await upstreams.ask("kept", calls)
        await asyncio.sleep(50)
        await upstreams.ask("another", calls)
        assert sum(users for *_, users in upstreams.states()) == 2

    async def test_at_most_so_many_are_remembered(self) -> None:
        upstreams, clients = replicas(2, most_rollouts=10)
        calls = Calls(clients)
        for n in range(100):
            await upstreams.ask(f"r{n}", calls)
        assert sum(users for *_, users in upstreams.states()) <= 10

    async def test_three_failures_put_a_replica_out_and_one_success_takes_it_back(self) -> None:
        upstreams, clients = replicas(2)
        calls = Calls(clients)
        home = await upstreams.ask("r", calls)
        calls.errors[home] = ModelUnavailable("boom", status=500)
        for _ in range(3):
            with pytest.raises(ModelUnavailable):
                await upstreams.ask("r", calls)
        assert await upstreams.ask("r", calls) == 1 - home  # moved
        assert [usable for _, usable, *_ in upstreams.states()].count(False) == 1
        del calls.errors[home]
        await asyncio.sleep(6.5)
        assert home in [await upstreams.ask(f"new{n}", calls) for n in range(4)]
        assert all(usable for _, usable, *_ in upstreams.states())

    async def test_half_open_one_rollout_decides(self) -> None:
        upstreams, clients = replicas(2)
        calls = Calls(clients)
        calls.errors[0] = ModelTimeout("late")
        for n in range(8):
            with contextlib.suppress(ModelTimeout):
                await upstreams.ask(f"r{n}", calls)
        await asyncio.sleep(6.5)
        before = calls.asked.count(0)
        for n in range(8):
            with contextlib.suppress(ModelTimeout):
                await upstreams.ask(f"s{n}", calls)
        assert calls.asked.count(0) == before + 1

    @pytest.mark.parametrize("error", [ModelOverloaded("busy", status=429), ModelAborted("paused")])
    async def test_a_busy_replica_is_not_a_broken_one(self, error: ModelError) -> None:
        upstreams, clients = replicas(2)
        calls = Calls(clients)
        calls.errors = {0: error, 1: error}
        for _ in range(10):
            with pytest.raises(type(error)):
                await upstreams.ask("r", calls)
        assert all(usable for _, usable, *_ in upstreams.states())


@pytest.mark.looptime
class TestTryingAgain:
    async def test_elsewhere_at_once_when_nobody_was_reached(self) -> None:
        upstreams, clients = replicas(3)
        calls = Calls(clients)
        calls.errors = {0: refused(), 1: refused()}
        started = asyncio.get_running_loop().time()
        for n in range(6):
            assert await upstreams.ask(f"r{n}", calls) == 2
        assert asyncio.get_running_loop().time() == started

    async def test_the_same_one_a_little_later(self) -> None:
        upstreams, clients = replicas(1)
        calls = Calls(clients)
        calls.errors = {0: refused()}
        with pytest.raises(ModelUnavailable):
            await upstreams.ask(None, calls)
        assert calls.asked == [0, 0, 0]

    async def test_never_after_a_byte_of_a_reply(self) -> None:
        upstreams, clients = replicas(2)
        calls = Calls(clients)
        for before_reply, times in ((True, 3), (False, 1)):
            error = ModelUnavailable("lost")
            error.__cause__ = ConnectionLost("lost", before_reply=before_reply)
            calls.errors, calls.asked = {0: error, 1: error}, []
            with pytest.raises(ModelUnavailable):
                await upstreams.ask("r", calls)
            assert len(calls.asked) == times

    async def test_in_flight_is_counted_and_given_back(self) -> None:
        upstreams, _ = replicas(1)

        async def call(client: Client) -> int:
            return upstreams.states()[0][2]

        assert await upstreams.ask(None, call) == 1
        assert upstreams.states()[0][2] == 0


class TestOnlyModel:
    async def test_the_name_that_is_served(self) -> None:
        server = await serve_simulated(SimulatedConfig(model="policy"))
        assert await only_model(server.url) == "policy"
        await server.close()

    def test_no_upstream(self) -> None:
        with pytest.raises(InvalidSpec):
            Upstreams([])

    async def test_an_endpoint_that_names_none(self) -> None:
        async def script(peer: Peer) -> None:
            while True:
                await peer.request()
                peer.ok(b'{"data": []}')

        async with raw_server(script) as url:
            with pytest.raises(InputError, match="--model"):
                await only_model(f"{url}/v1")
