"""Where the parts of an environment are reached, and which model plays each role.

An address is made from names alone, so that it is known before anything serves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from kubegym.core.spec import GymEnvironment, ModelBinding, ModelServer, SecretKeyRef
from kubegym_operator.build import names

MODEL_PORT: Final = 8000
AGENT_PORT: Final = 8001
RESOURCES_PORT: Final = 8002
WORKER_PORT: Final = 9090

POLICY: Final = "policy"
"""The role of the model that rollouts are collected from."""


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
        """As a status has it: where the role's model is asked."""
        return {"baseUrl": self.base_url, "model": self.model, "kind": self.kind}

    @property
    def routed_url(self) -> str:
        """The URL for clients that choose a replica themselves: the name of the ModelServer's pods, not of them all."""
        if self.server is None:
            return self.base_url
        namespace, name = self.server
        return f"{names.url(names.model_pods(name), namespace, MODEL_PORT)}/v1"

    def to_run(self) -> dict[str, Any]:
        """As ``run.json`` has it: replicas are the worker's choice; also whose pods it is, or where its key lies."""
        value = {**self.to_json(), "baseUrl": self.routed_url}
        if self.server is not None:
            value["server"] = {"namespace": self.server[0], "name": self.server[1]}
        if self.api_key is not None:
            value["apiKeySecretRef"] = self.api_key.model_dump(mode="json", by_alias=True)
        return value

    @classmethod
    def from_run(cls, value: Mapping[str, Any]) -> ModelEndpointUrl:
        """What ``to_run`` wrote: all but the identity."""
        server, key = value.get("server"), value.get("apiKeySecretRef")
        return cls(
            value["baseUrl"],
            value["model"],
            value["kind"],
            None if server is None else (server["namespace"], server["name"]),
            None if key is None else SecretKeyRef.model_validate(key),
        )


@dataclass(frozen=True, slots=True)
class EntryEndpoints:
    """Addresses of one entry of a run. No agent or resources: they are composed into the worker's process."""

    models: Mapping[str, ModelEndpointUrl]
    agent: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()

    def to_run(self) -> dict[str, Any]:
        """As ``run.json`` has it."""
        models = {role: endpoint.to_run() for role, endpoint in sorted(self.models.items())}
        return {"agent": list(self.agent), "resources": list(self.resources), "models": models}

    @classmethod
    def from_run(cls, value: Mapping[str, Any]) -> EntryEndpoints:
        """What ``to_run`` wrote."""
        models = {role: ModelEndpointUrl.from_run(endpoint) for role, endpoint in value["models"].items()}
        return cls(models, tuple(value["agent"]), tuple(value["resources"]))


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
    """How a ModelServer is reached, and what a run records of it. Only the policy's announced weights may move."""
    namespace = server.metadata.namespace or "default"
    model, spec = served_name(server), server.spec
    identity: dict[str, Any] = {"engine": spec.engine, "model": model}
    if spec.source is not None:
        identity["source"] = {"uri": spec.source.uri, "revision": spec.source.revision}
    if spec.weights is not None and role != POLICY:
        identity["weights"] = {"uri": spec.weights.uri, "version": spec.weights.version}
    if spec.engine_args:
        identity["engineArgs"] = dict(spec.engine_args)
    url = names.url(names.model_service(server.name), namespace, MODEL_PORT)
    return ModelEndpointUrl(f"{url}/v1", model, "server", (namespace, server.name), identity=identity)


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
    found: dict[str, ModelEndpointUrl] = {}
    for role, binding in sorted(models.items()):
        if binding.endpoint is not None:
            endpoint = binding.endpoint
            identity = {"model": endpoint.model}
            found[role] = ModelEndpointUrl(
                endpoint.base_url, endpoint.model, "endpoint", api_key=endpoint.api_key_secret_ref, identity=identity
            )
            continue
        wanted = server_of(binding, role, namespace, owner)
        if wanted is not None and wanted in servers:
            found[role] = server_endpoint(servers[wanted], role)
    return found


def entry_endpoints(environment: GymEnvironment, models: Mapping[str, ModelEndpointUrl]) -> EntryEndpoints:
    """The addresses that a run's workers use for an environment."""
    namespace, spec = environment.metadata.namespace or "default", environment.spec
    agent = names.url(names.agent(environment.name), namespace, AGENT_PORT)
    resources = names.url(names.resources(environment.name), namespace, RESOURCES_PORT)
    return EntryEndpoints(
        models,
        (agent,) if spec.agent.placement == "Service" else (),
        (resources,) if spec.resources.placement == "Service" else (),
    )
