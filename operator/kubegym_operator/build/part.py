"""What the two parts of an environment with pods of their own have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kubegym.core.spec import Compute, GymEnvironment
from kubegym_operator.build import names
from kubegym_operator.build.child import Rendering
from kubegym_operator.build.context import PodPeer
from kubegym_operator.build.disruption import disruption_budget
from kubegym_operator.build.endpoints import ModelEndpointUrl
from kubegym_operator.build.labels import COMPONENT as COMPONENT_LABEL
from kubegym_operator.build.labels import MANAGED_BY, PROJECT, Component, selector
from kubegym_operator.build.network import Rule, to_dns, to_model, to_proxies
from kubegym_operator.build.pod import SECRETS_FOLDER, Container, Mount, Pod, ca_bundle, secret_mount
from kubegym_operator.build.rolling import with_config_digest
from kubegym_operator.build.service import headless_service, service

PART_COMPUTE: Final = Compute(requests={"cpu": "100m", "memory": "128Mi"})
"""What an agent or resources server asks for where its spec does not."""

WORKERS: Final = PodPeer({COMPONENT_LABEL: Component.WORKER, MANAGED_BY: PROJECT})
"""The workers of every run of the namespace."""


@dataclass(frozen=True, slots=True)
class Served:
    """An environment whose parts are rendered.

    Attributes:
        rendering: of the environment.
        environment: as it is.
        endpoints: its models by role.
        manifest: what its servers read.
        mount: where they find it.
        config_digests: of ConfigMaps that its podTemplates may name.
    """

    rendering: Rendering
    environment: GymEnvironment
    endpoints: Mapping[str, ModelEndpointUrl]
    manifest: Mapping[str, Any]
    mount: Mount
    config_digests: Mapping[str, str]


def part_objects(
    served: Served,
    component: str,
    container: Container,
    *,
    name: str,
    account: str | None,
    overlay: Mapping[str, Any] | None,
    policy: dict[str, Any],
    reads: str,
) -> list[dict[str, Any]]:
    """ServiceAccount, Services, PodDisruptionBudget, NetworkPolicy and Deployment of a part.

    Args:
        served: the environment.
        component: which part.
        container: its pods' only one.
        name: of its objects.
        account: a ServiceAccount of the user's; None makes one without power.
        overlay: its podTemplate.
        policy: its NetworkPolicy, left out where networks are the user's.
        reads: digest of what of the manifest it reads.
    """
    rendering, environment = served.rendering, served.environment
    assert container.port is not None, "a part is a server"
    template = Pod(environment, component, [container], account or name).to_template(
        rendering.context, overlay, f"spec.{component}.podTemplate"
    )
    objects = [rendering.service_account(name, component)] if account is None else []
    objects += [
        service(rendering, name, component, container.port),
        headless_service(rendering, names.pods(name), component, container.port),
        disruption_budget(rendering, name, component),
    ]
    if environment.spec.network.policy == "Managed":
        objects.append(policy)
    rolled = with_config_digest(template, served.config_digests, reads)
    return [*objects, deployment(rendering, name, component, rolled)]


def deployment(rendering: Rendering, name: str, component: str, template: Mapping[str, Any]) -> dict[str, Any]:
    """Replicas of a part; a new one is ready before an old one goes."""
    spec = {
        "selector": {"matchLabels": selector(rendering.owner, component)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "revisionHistoryLimit": 2,
        "template": dict(template),
    }
    return rendering.child("Deployment", name, component, api_version="apps/v1", spec=spec)


def key_file(endpoint: ModelEndpointUrl, role: str) -> str | None:
    """Where a pod finds the key of a role's endpoint."""
    return None if endpoint.api_key is None else f"{_key_folder(role)}/{endpoint.api_key.key}"


def key_mounts(endpoints: Mapping[str, ModelEndpointUrl], prefix: str = "model") -> list[Mount]:
    """The keys of endpoints, each a file that is read again on use."""
    return [
        secret_mount(names.volume(prefix, role), endpoint.api_key.name, _key_folder(role, prefix), endpoint.api_key.key)
        for role, endpoint in sorted(endpoints.items())
        if endpoint.api_key is not None
    ]


def _key_folder(role: str, prefix: str = "model") -> str:
    return f"{SECRETS_FOLDER}/{prefix}-{role}"


def outside(rendering: Rendering, endpoints: Mapping[str, ModelEndpointUrl]) -> tuple[list[Mount], dict[str, str]]:
    """Mounts and variables of a part that asks models outside of the cluster; nothing for one that does not."""
    if all(endpoint.server is not None for endpoint in endpoints.values()):
        return [], {}
    mounts, variables = ca_bundle(rendering.context)
    return mounts, {**rendering.context.proxy_env, **variables}


def model_egress(rendering: Rendering, endpoints: Mapping[str, ModelEndpointUrl]) -> Sequence[Rule]:
    """Out to names and to models, through proxies where some are outside."""
    context, namespace = rendering.context, rendering.namespace
    rules = [to_dns(context), *(to_model(endpoint, context, namespace) for _, endpoint in sorted(endpoints.items()))]
    away = any(endpoint.server is None for endpoint in endpoints.values())
    return [*rules, *(to_proxies(context, namespace) if away else ())]
