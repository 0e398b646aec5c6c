"""How the contract suite opens sessions. A server's sessions join as another way of the same fixture."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest

from kubegym.core.ids import rollout_id, task_id
from kubegym.core.protocols import Assignment, ModelClient, Session
from kubegym.resources import Environment, EnvironmentRuntime, SessionLimits

Open = Callable[..., Awaitable[Session]]


class LocalSessions:
    """Sessions in this process; one runtime for each class and configuration."""

    def __init__(self, stack: AsyncExitStack) -> None:
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
        row = {"responses_create_params": {"input": "?"}, **(row or {})}
        identity = rollout_id("c0ffee00", 0, rollout_index)
        return runtime.session(Assignment("e", row, task_id("e", row), 0, rollout_index, identity), models)


@pytest.fixture(params=["local"])
async def open_session(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """``await open_session(cls, row, config=, limits=, models=, rollout_index=)`` gives a session to be seeded."""
    async with AsyncExitStack() as stack:
        yield {"local": LocalSessions}[request.param](stack)
