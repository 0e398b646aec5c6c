"""Where the parts of an environment are reached, and which model plays each role.

An address is made from names alone, so that it is known before anything serves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from kubegym.core.spec import GymEnvironment, ModelBinding, ModelServer, SecretKeyRef
from kubegym_operator.build import names

MODEL_PORT = 8000
AGENT_PORT = 8001
RESOURCES_PORT = 8002
WORKER_PORT = 9090


@dataclass(frozen=True, slots=True)
class ModelEndpointUrl:
    """The model that plays a role, by how it is reached.

    Attributes:
        base_url: with ``/v1``.
        model: the name asked for.
        kind: a ModelServer of the cluster, or an endpoint elsewhere.
        server: namespace and name of the ModelServer.
        api_key: of an endpoint.
        identity: what of it decides the content of a run: never its address or its size.
    """

    base_url: str
    model: str
    kind: Literal["server", "endpoint"]
    server: tuple[str, str] | None = None
    api_key: SecretKeyRef | None = None
    identity: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def to_json(self) -> dict[str, Any]:
        """As ``run.json`` has it."""
        return {"baseUrl": self.base_url, "model": self.model, "kind": self.kind}


@dataclass(frozen=True, slots=True)
class EntryEndpoints:
    """Addresses of one entry of a run. No agent or resources: they are composed into the worker's process."""

    models: Mapping[str, ModelEndpointUrl]
    agent: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As ``run.json`` has it."""
        models = {role: endpoint.to_json() for role, endpoint in sorted(self.models.items())}
        return {"agent": list(self.agent), "resources": list(self.resources), "models": models}


def served_name(server: ModelServer) -> str:
    """The name that a ModelServer's model is asked by: ``servedModelName``, by default the server's own."""
    return server.spec.served_model_name or server.name


def server_of(binding: ModelBinding, role: str, namespace: str, owner: str) -> tuple[str, str] | None:
    """Namespace and name of the ModelServer that a binding stands for; None for an endpoint.

    Args:
        binding: what plays the role.
        role: its name.
        namespace: of whoever binds.
        owner: whose inline servers are named after it (``names.model_server``).
    """
    if binding.server_ref is not None:
        return binding.server_ref.namespace or namespace, binding.server_ref.name
    return None if binding.server is None else (namespace, names.model_server(owner, role))


def server_endpoint(server: ModelServer, role: str) -> ModelEndpointUrl:
    """How a ModelServer is reached, and what a run records of it. The policy's announced weights may move."""
    raise NotImplementedError


def model_endpoints(
    models: Mapping[str, ModelBinding],
    servers: Mapping[tuple[str, str], ModelServer],
    *,
    namespace: str,
    owner: str,
) -> dict[str, ModelEndpointUrl]:
    """The roles of ``models`` that can be resolved now.

    Args:
        models: by role.
        servers: the ModelServers that exist, by namespace and name.
        namespace: of whoever binds.
        owner: whose inline servers are named after it.

    Returns:
        By role; a role whose ModelServer does not exist yet is missing, which the caller reports.
    """
    raise NotImplementedError


def entry_endpoints(environment: GymEnvironment, models: Mapping[str, ModelEndpointUrl]) -> EntryEndpoints:
    """The addresses that a run's workers use for an environment."""
    raise NotImplementedError
