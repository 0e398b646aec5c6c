from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kubegym_operator.kube.discovery import ABSENT_SECONDS, Discovery, Resource
from kubegym_operator.kube.errors import KindNotServed, NotFound
from kubegym_operator.kube.protocol import Kind

SERVED: dict[str, Any] = {
    "/api/v1": {
        "resources": [
            {"name": "pods", "kind": "Pod", "namespaced": True},
            {"name": "pods/status", "kind": "Pod", "namespaced": True},
            {"name": "nodes", "kind": "Node", "namespaced": False},
        ]
    }
}


class Server:
    def __init__(self) -> None:
        self.served = dict(SERVED)
        self.asked: list[str] = []

    async def __call__(self, path: str) -> Any:
        self.asked.append(path)
        await asyncio.sleep(0.01)
        if path not in self.served:
            raise NotFound(path)
        return self.served[path]


@pytest.mark.looptime
async def test_the_server_is_asked_once() -> None:
    server = Server()
    discovery = Discovery(server)
    pods = await asyncio.gather(*(discovery.resource(("v1", "Pod")) for _ in range(10)))
    assert {resource.plural for resource in pods} == {"pods"}
    assert (await discovery.resource(("v1", "Node"))).namespaced is False
    assert server.asked == ["/api/v1"]


@pytest.mark.looptime
async def test_a_kind_that_is_installed_later_is_found_a_little_later() -> None:
    server = Server()
    discovery = Discovery(server)
    group = {"resources": [{"name": "widgets", "kind": "Widget", "namespaced": True}]}
    for _ in range(5):
        with pytest.raises(KindNotServed):
            await discovery.resource(("w.dev/v1", "Widget"))
    server.served["/apis/w.dev/v1"] = group
    with pytest.raises(KindNotServed):
        await discovery.resource(("w.dev/v1", "Widget"))
    assert server.asked == ["/apis/w.dev/v1"]
    await asyncio.sleep(ABSENT_SECONDS + 1)
    assert (await discovery.resource(("w.dev/v1", "Widget"))).plural == "widgets"


@pytest.mark.looptime
async def test_a_kind_that_the_server_forgot_is_asked_for_again() -> None:
    server = Server()
    discovery = Discovery(server)
    await discovery.resource(("v1", "Pod"))
    discovery.forget(("v1", "Pod"))
    await asyncio.sleep(ABSENT_SECONDS + 1)
    await discovery.resource(("v1", "Pod"))
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("resource", "arguments", "path"),
    [
        (Resource(Kind("v1", "Pod"), "pods", True), ("space", "one"), "/api/v1/namespaces/space/pods/one"),
        (Resource(Kind("v1", "Pod"), "pods", True), (None,), "/api/v1/pods"),
        (Resource(Kind("v1", "Node"), "nodes", False), ("space", "n1"), "/api/v1/nodes/n1"),
        (
            Resource(Kind("apps/v1", "Deployment"), "deployments", True),
            ("space", "one", "scale"),
            "/apis/apps/v1/namespaces/space/deployments/one/scale",
        ),
    ],
)
def test_paths(resource: Resource, arguments: tuple[Any, ...], path: str) -> None:
    assert resource.path(*arguments) == path
