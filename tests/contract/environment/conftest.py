"""How the contract suite opens sessions: in this process, and over a resources server.

A server's sessions go over real sockets, except where a test's time is virtual.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, cast

import pytest

from kubegym.agent.resources_client import ResourcesClient
from kubegym.core.ids import rollout_id, task_id
from kubegym.core.protocols import Assignment, ModelClient, Session
from kubegym.http import HttpClient, Response, Url
from kubegym.http.server import App
from kubegym.resources import Environment, EnvironmentRuntime, SessionLimits
from kubegym.resources.server import ResourcesServer
from testbed.resources_server import call, server_of, started
from testbed.served import serving

Open = Callable[..., Awaitable[Session]]


class LocalSessions:
    """Sessions in this process; one runtime for each class and configuration."""

    def __init__(self, stack: AsyncExitStack, *, virtual_time: bool) -> None:
        self._stack = stack
        self._runtimes: dict[Any, EnvironmentRuntime] = {}

    async def __call__(
        self,
        cls: type[Environment],
        row: Mapping[str, Any] | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        limits: SessionLimits | None = None,
        models: Mapping[str, ModelClient] | None = None,
        rollout_index: int = 0,
    ) -> Session:
        key = (cls, repr(config), limits)
        runtime = self._runtimes.get(key)
        if runtime is None:
            runtime = self._runtimes[key] = EnvironmentRuntime(cls, config, limits=limits)
            await runtime.start()
            self._stack.push_async_callback(runtime.close)
        return runtime.session(_assignment(row, rollout_index), models)


class WithoutSockets:
    """Stands for ``HttpClient``: each request is a call of the application, in virtual time, too."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def request(
        self, method: bytes, url: Url, headers: bytes, body: bytes, timeout: float, *, repeatable: bool = True
    ) -> Response:
        lines = [line.partition(b":") for line in headers.split(b"\r\n") if line]
        pairs = [(name.lower(), value.strip()) for name, _, value in lines]
        return await call(self._app, method.decode(), url.target.decode(), pairs, body)


class ServedSessions:
    """Sessions of resources servers; one server for each class, configuration and set of models."""

    def __init__(self, stack: AsyncExitStack, *, virtual_time: bool) -> None:
        self._stack = stack
        self._virtual_time = virtual_time
        self._clients: dict[Any, ResourcesClient] = {}

    async def __call__(
        self,
        cls: type[Environment],
        row: Mapping[str, Any] | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        limits: SessionLimits | None = None,
        models: Mapping[str, ModelClient] | None = None,
        rollout_index: int = 0,
    ) -> Session:
        key = (cls, repr(config), limits, id(models))
        if key not in self._clients:
            self._clients[key] = await self._client(server_of(cls, config, session_limits=limits, models=models))
        return self._clients[key].session(_assignment(row, rollout_index))

    async def _client(self, server: ResourcesServer) -> ResourcesClient:
        if self._virtual_time:
            await self._stack.enter_async_context(started(server))
            return ResourcesClient(["http://in.memory"], http=cast(HttpClient, WithoutSockets(server.app())))
        client = ResourcesClient([await self._stack.enter_async_context(serving(server.app()))])
        self._stack.push_async_callback(client.close)
        return client


def _assignment(row: Mapping[str, Any] | None, rollout_index: int) -> Assignment:
    row = {"responses_create_params": {"input": "?"}, **(row or {})}
    return Assignment("e", row, task_id("e", row), 0, rollout_index, rollout_id("c0ffee00", 0, rollout_index))


@pytest.fixture(params=["local", "http"])
async def open_session(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """``await open_session(cls, row, config=, limits=, models=, rollout_index=)`` gives a session to be seeded."""
    virtual_time = request.node.get_closest_marker("looptime") is not None
    async with AsyncExitStack() as stack:
        yield {"local": LocalSessions, "http": ServedSessions}[request.param](stack, virtual_time=virtual_time)
