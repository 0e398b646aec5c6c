"""GymEnvironment: ModelServers of its inline roles, its resources server, its agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubegym.core.spec import API_VERSION, GymEnvironment, ModelBinding
from kubegym_operator.build import names
from kubegym_operator.build.agent import build_agent
from kubegym_operator.build.child import Rendering
from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.endpoints import ModelEndpointUrl
from kubegym_operator.build.labels import content_digest, labels, owner_reference
from kubegym_operator.build.part import Served
from kubegym_operator.build.pod import config_mount
from kubegym_operator.build.resources import SESSION_KEY, build_resources
from kubegym_operator.build.rolling import NO_DIGESTS
from kubegym_operator.build.sandbox import build_sandbox
from kubegym_operator.build.served import (
    FILE,
    FOLDER,
    PACE,
    PART_PACE,
    environment_manifest,
    manifest_text,
    served_manifest,
    without,
)


def build_model_servers(environment: GymEnvironment, context: BuildContext) -> list[dict[str, Any]]:
    """A ModelServer for each inline role, without ``replicas`` (``/scale`` is everybody's).

    They can be applied before anything is resolved.
    """
    inherited: dict[str, Any] = {}
    if environment.spec.suspend:
        inherited["suspend"] = True
    if environment.spec.idle_policy is not None:
        inherited["idlePolicy"] = environment.spec.idle_policy.model_dump(mode="json", by_alias=True)
    rendering = Rendering(environment, context, "")
    return inline_servers(rendering, environment.spec.models, environment.name, inherited)


def inline_servers(
    rendering: Rendering, models: Mapping[str, ModelBinding], owner: str, inherited: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """ModelServers of the inline roles of ``models``.

    Args:
        rendering: of the owner.
        models: by role.
        owner: what they are named after, see ``names.model_server``.
        inherited: fields of their spec unless they say something else; ``suspend`` wins over theirs.
    """
    servers = []
    for role, binding in sorted(models.items()):
        if binding.server is None:
            continue
        own = binding.server.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"replicas"})
        spec = {**inherited, **own, **({"suspend": True} if inherited.get("suspend") else {})}
        mine = Rendering(rendering.owner, rendering.context, content_digest("ModelServer", spec))
        name = names.model_server(owner, role)
        servers.append(mine.child("ModelServer", name, None, api_version=API_VERSION, spec=spec))
    return servers


def build_environment(
    environment: GymEnvironment,
    endpoints: Mapping[str, ModelEndpointUrl],
    context: BuildContext,
    *,
    config_digests: Mapping[str, str] = NO_DIGESTS,
) -> list[dict[str, Any]]:
    """The objects to apply for agent, resources server and sandbox: none for what is placed in the worker.

    ConfigMap, ServiceAccounts, Services, NetworkPolicies, PodDisruptionBudgets, Deployments. Does not contain the
    ModelServers (``build_model_servers``).

    Args:
        environment: the GymEnvironment, with its uid.
        endpoints: its models by role, see ``endpoints.model_endpoints``. All of its roles have to be there.
        context: the surroundings.
        config_digests: content digests of the ConfigMaps that its podTemplates name, as far as they were observed.

    Raises:
        BuildError: a spec that cannot be rendered.
    """
    spec = environment.spec
    served = [part.placement == "Service" for part in (spec.resources, spec.agent)]
    if not any(served) and spec.resources.sandbox is None:
        return []
    manifest = served_manifest(environment, endpoints)
    rendering = Rendering(environment, context, _spec_digest(environment, manifest, config_digests))
    sandbox = build_sandbox(rendering, environment)
    if not any(served):
        return sandbox
    config = names.environment_config(environment.name)
    mount = config_mount("environment", config, FOLDER, FILE)
    parts = Served(rendering, environment, endpoints, manifest, mount, config_digests)
    objects = [rendering.child("ConfigMap", config, None, data={FILE: manifest_text(manifest)})]
    if served[0]:
        objects += build_resources(parts)
    if served[1]:
        objects += build_agent(parts)
    return [*objects, *sandbox]


def build_session_secret(environment: GymEnvironment, token: str) -> dict[str, Any]:
    """The Secret that resources servers sign sessions with: created once, never read, never written again.

    Args:
        environment: its owner.
        token: fresh and random, from the shell; 32 or more characters.
    """
    metadata = {
        "name": names.session_secret(environment.name),
        "namespace": environment.metadata.namespace or "default",
        "labels": labels(environment),
        "ownerReferences": [owner_reference(environment)],
    }
    data = {SESSION_KEY: token}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "immutable": True, "stringData": data}


def _spec_digest(environment: GymEnvironment, served: Mapping[str, Any], config_digests: Mapping[str, str]) -> str:
    """Of all that the objects are rendered from, but when and how much of it runs."""
    spec = {key: value for key, value in environment_manifest(environment)["spec"].items() if key not in PACE}
    for part in ("resources", "agent"):
        if kept := without(spec.pop(part, {}), PART_PACE - {"compute"}):
            spec[part] = kept
    return content_digest("GymEnvironment", spec, served, dict(config_digests))
