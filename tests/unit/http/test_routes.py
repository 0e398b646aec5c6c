"""Where conversations go, in virtual time: the fewest first, then always the same, elsewhere only for a reason."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from kubegym.http.open_users import FORGET_SECONDS, OpenUsers
from kubegym.http.replicas import Replica, Replicas
from kubegym.http.routes import Routes

pytestmark = [pytest.mark.unit, pytest.mark.looptime]

POD = "http://policy-pods.ns.svc:8000"


def replicas(count: int, **options: float) -> Replicas:
    urls = [f"http://127.0.0.1:{port}" for port in range(1, count + 1)]
    return Replicas(urls, rng=random.Random(0), **options)  # type: ignore[arg-type]


class Pods:
    """A resolver of pods that come and go."""

    def __init__(self, *addresses: str) -> None:
        self.known = list(addresses)

    async def addresses(self, host: str, port: int) -> list[str]:
        return self.known


async def test_a_conversation_stays_and_all_are_spread() -> None:
    routes = Routes(replicas(16))
    homes = {number: routes.choose(f"c{number}") for number in range(400)}
    assert set(Counter(homes.values()).values()) == {25}
    assert all(routes.choose(f"c{number}") is homes[number] for number in range(400))
    assert routes.decisions == {"new": 400, "stay": 400, "moved": 0, "single": 0}


async def test_one_that_is_over_makes_room() -> None:
    routes = Routes(replicas(2))
    first = routes.choose("a")
    routes.choose("b")
    routes.leave("a")
    routes.leave("a")
    assert routes.choose("c") is first


async def test_one_that_does_not_call_is_forgotten() -> None:
    group = replicas(2)
    routes = Routes(group, idle_seconds=60.0)
    routes.choose("a")
    await asyncio.sleep(61)
    routes.choose("b")
    assert sum(replica.users for replica in group.all) == 1


async def test_a_conversation_moves_when_its_replica_is_out_and_does_not_come_back() -> None:
    group = replicas(2)
    routes = Routes(group)
    home = routes.choose("a")
    for _ in range(3):
        group.failed(home)
    away = routes.choose("a")
    assert away is not home
    await asyncio.sleep(10)
    assert routes.choose("a") is away
    assert (home.users, away.users) == (0, 1)


async def test_of_those_that_stayed_one_tries_a_replica_again() -> None:
    group = replicas(2)
    routes = Routes(group)
    there = [name for name in map(str, range(8)) if routes.choose(name) is group.all[0]]
    home = group.all[0]
    for _ in range(3):
        group.failed(home)
    await asyncio.sleep(7)
    assert [routes.choose(name) is home for name in there] == [True, False, False, False]


async def test_slow_start() -> None:
    """A pod that comes later gets a tenth of a share at first, and a whole one after the time for it."""
    pods = Pods("10.0.0.1", "10.0.0.2")
    group = Replicas([POD], rng=random.Random(0), resolver=pods, slow_start=30.0)
    await group.settle()
    routes = Routes(group)
    for number in range(40):
        routes.choose(f"old{number}")
    pods.known.append("10.0.0.3")
    await asyncio.sleep(11)
    _ = group.all
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    late = next(replica for replica in group.all if "10.0.0.3" in replica.url.shown)
    for number in range(10):
        routes.choose(f"new{number}")
    assert late.users == 2, "as if it had ten times more"
    await asyncio.sleep(31)
    for number in range(40):
        routes.choose(f"last{number}")
    assert {replica.users for replica in group.all} == {30}


async def test_a_pod_that_is_gone_is_left_at_once() -> None:
    pods = Pods("10.0.0.1", "10.0.0.2")
    group = Replicas([POD], resolver=pods)
    await group.settle()
    routes = Routes(group)
    homes = {name: routes.choose(name) for name in "ab"}
    pods.known = [host for host in pods.known if host not in homes["a"].url.shown] + ["10.0.0.9"]
    await asyncio.sleep(11)
    _ = group.all
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert homes["a"].gone
    assert routes.choose("a") is not homes["a"]
    assert routes.choose("b") is homes["b"]


class TestOpenUsers:
    """Clients know of each other's conversations without talking to each other."""

    def test_the_sum_over_clients(self) -> None:
        there = OpenUsers()
        assert there.told(b"a/3", 1.0) == b"3"
        assert there.told(b"b/4", 1.0) == b"7"
        assert there.told(b"a/1", 2.0) == b"5"

    def test_a_client_that_is_silent_is_forgotten(self) -> None:
        there = OpenUsers()
        there.told(b"a/3", 1.0)
        assert there.told(b"b/4", 2.0 + FORGET_SECONDS) == b"4"

    @pytest.mark.parametrize("word", [b"", b"a", b"a/", b"a/-1", b"a/x", b"a/99999999999", b"n" * 65 + b"/1"])
    def test_what_is_no_number_changes_nothing(self, word: bytes) -> None:
        there = OpenUsers()
        there.told(b"a/3", 1.0)
        assert there.told(word, 1.0) == b"3"

    async def test_eight_clients_spread_their_conversations_evenly(self) -> None:
        """Each sees an eighth of 400 conversations, and the load is even all the same."""
        servers: dict[str, OpenUsers] = {}
        urls = [f"http://127.0.0.1:{port}" for port in range(1, 17)]
        clients = [Replicas(urls, rng=random.Random(number)) for number in range(8)]
        homes: Counter[str] = Counter()
        order = [number % 8 for number in range(400)]
        random.Random(3).shuffle(order)
        routes = [Routes(client) for client in clients]
        for number, who in enumerate(order):
            replica: Replica = routes[who].choose(f"c{number}")
            homes[replica.url.shown] += 1
            server = servers.setdefault(replica.url.shown, OpenUsers())
            total = int(server.told(b"%d/%d" % (who, replica.users), 0.0))
            replica.others = total - replica.users
        assert max(homes.values()) / 25 <= 1.10
