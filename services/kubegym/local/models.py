"""Model clients from references."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubegym.core.errors import InvalidSpec
from kubegym.core.protocols import ModelClient
from kubegym.local.runspec import ModelRef

if TYPE_CHECKING:
    from kubegym.model.rollout_calls import RolloutCalls

OnCall = Callable[[float, float, str, int, int], None]


def api_key(ref: ModelRef) -> str | Path | None:
    """The endpoint's key: the file that was named, else ``KUBEGYM_API_KEY``, else ``OPENAI_API_KEY``."""
    if ref.api_key_file is not None:
        return Path(ref.api_key_file)
    return os.environ.get("KUBEGYM_API_KEY") or os.environ.get("OPENAI_API_KEY")


def build_client(ref: ModelRef, *, concurrency: int, on_call: OnCall | None = None, role: str = "") -> ModelClient:
    """The client for a reference; an embedded model is loaded here.

    Args:
        ref: the model.
        concurrency: calls at a time, for an engine in this process.
        on_call: told of every call.
        role: what the model plays, for a model server's statistics.

    Raises:
        InputError: a key file, weights or an optional package is missing.
        InvalidSpec: a URL or option that cannot be used.
    """
    if ref.kind == "endpoint":
        from kubegym.model.client import ChatClient

        if ref.base_url is None:
            raise InvalidSpec(f"model {ref.model}: an endpoint needs a base URL")
        return ChatClient(ref.base_url, ref.model, api_key=api_key(ref), on_call=on_call)
    if ref.kind == "server":
        from kubegym.agent.model_server import ModelServerClient
        from kubegym.http.names import SystemResolver

        return ModelServerClient([ref.base_url or ""], ref.model, role=role, resolver=SystemResolver(), on_call=on_call)
    from kubegym.model.engine_client import EngineClient

    if ref.kind == "embedded":
        from kubegym.model.embedded import MAX_SLOTS, EmbeddedEngine

        path = Path(ref.path) if ref.path else None
        slots = max(1, min(concurrency, MAX_SLOTS))
        return EngineClient(EmbeddedEngine(path, slots=slots, name=ref.model), on_call=on_call)
    from kubegym.model.simulated import SimulatedConfig, SimulatedEngine

    config = SimulatedConfig.parse({"model": ref.model, **ref.options})
    return EngineClient(SimulatedEngine(config), on_call=on_call)


def rollout_calls(
    ref: ModelRef, client: ModelClient, *, token_ids: bool, overrides: Mapping[str, Any], host: str
) -> RolloutCalls:
    """Base URLs of a policy for programs.

    Args:
        ref: the model.
        client: its client; one that was given in Python, or an engine of this process, is asked through it.
        token_ids: whether token ids are captured.
        overrides: see ``RolloutUrls``.
        host: where programs reach this process.

    Raises:
        InvalidSpec: a client of another kind.
    """
    from kubegym.agent.model_server import ModelServerClient
    from kubegym.http.names import SystemResolver
    from kubegym.model.client import ChatClient
    from kubegym.model.engine_client import EngineClient
    from kubegym.model.rollout_calls import RolloutCalls

    options: dict[str, Any] = {"token_ids": token_ids, "overrides": overrides, "host": host}
    if isinstance(client, ChatClient | EngineClient):
        return RolloutCalls([client], client.model, **options)
    if isinstance(client, ModelServerClient):
        return RolloutCalls([ref.base_url or ""], ref.model, resolver=SystemResolver(), **options)
    raise InvalidSpec(f"the harness command needs a policy behind a URL, or an engine; not {client!r}")


async def check_models(clients: list[ModelClient]) -> None:
    """Ask every endpoint, before a run, whether it is there. Raises ModelError."""
    from kubegym.model.client import ChatClient
    from kubegym.model.endpoint import check_endpoint

    for client in clients:
        if isinstance(client, ChatClient):
            await check_endpoint(client)
