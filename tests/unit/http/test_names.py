"""A name with several addresses becomes replicas, which follow it as it changes."""

from __future__ import annotations

import asyncio

import pytest

from kubegym.http.names import Names, SystemResolver, expanded, is_name
from kubegym.http.replicas import Replicas

pytestmark = [pytest.mark.unit, pytest.mark.looptime]

POD = "http://env-agent-pods.ns.svc:8001"


class Hosts:
    """A resolver that knows what it was told."""

    def __init__(self, **addresses: list[str]) -> None:
        self.known: dict[str, list[str]] = {"env-agent-pods.ns.svc": [], **addresses}
        self.asked = 0

    def tell(self, *addresses: str) -> None:
        self.known["env-agent-pods.ns.svc"] = list(addresses)

    async def addresses(self, host: str, port: int) -> list[str]:
        self.asked += 1
        if not self.known[host]:
            raise OSError("unknown host")
        return self.known[host]


def shown(replicas: Replicas) -> list[str]:
    return [replica.url.shown for replica in replicas.all]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (POD, True),
        ("http://box:8000/v1", True),
        ("http://127.0.0.1:8000", False),
        ("http://[::1]:8000", False),
        ("http://localhost:8000", False),
        ("https://api.example.com/v1", False),
    ],
)
async def test_what_may_stand_for_several(url: str, name: bool) -> None:
    assert is_name(url) is name


async def test_replicas_follow_a_headless_service() -> None:
    hosts = Hosts()
    hosts.tell("10.0.0.1", "10.0.0.2")
    replicas = Replicas([POD], resolver=hosts)
    assert shown(replicas) == [POD], "the first call goes by name"
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert shown(replicas) == ["http://10.0.0.1:8001", "http://10.0.0.2:8001"]
    first = replicas.take()
    replicas.failed(first)
    hosts.tell(first.url.origin.host, "10.0.0.3")
    assert hosts.asked == 1, "not at every call"
    await asyncio.sleep(Names.SECONDS)
    replicas.all  # noqa: B018 - asks
    await asyncio.sleep(0.1)
    assert "http://10.0.0.3:8001" in shown(replicas)
    assert first in replicas.all, "who stays keeps its users and its health"
    assert (first.users, first.failures) == (1, 1)
    replicas.give(first)


async def test_a_name_that_cannot_be_resolved_keeps_what_it_had() -> None:
    hosts = Hosts()
    replicas = Replicas([POD], resolver=hosts)
    for addresses in ((), ("10.0.0.1", "10.0.0.2"), ()):
        hosts.tell(*addresses)
        replicas.all  # noqa: B018 - asks
        await asyncio.sleep(Names.SECONDS)
    assert len(replicas) == 2


async def test_one_address_stays_a_name() -> None:
    hosts = Hosts()
    hosts.tell("10.0.0.1")
    assert await expanded(POD, hosts) == [POD], "a ClusterIP balances by itself, and may move"
    hosts.tell("fd00::1", "fd00::2")
    assert await expanded("http://user:key@env-agent-pods.ns.svc/v1", hosts) == [
        "http://user:key@[fd00::1]:80/v1",
        "http://user:key@[fd00::2]:80/v1",
    ]


async def test_without_a_resolver_and_without_names_nobody_is_asked() -> None:
    hosts = Hosts()
    assert shown(Replicas(["http://10.0.0.9:1"], resolver=hosts)) == ["http://10.0.0.9:1"]
    assert shown(Replicas([POD])) == [POD]
    await asyncio.sleep(0.1)
    assert hosts.asked == 0


@pytest.mark.looptime(False)
async def test_the_machine_s_resolver() -> None:
    assert await SystemResolver().addresses("127.0.0.1", 80) == ["127.0.0.1"]
