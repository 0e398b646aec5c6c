"""The agent: the harness of an environment behind ``/run``, in pods of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kubegym.core.spec import GymEnvironment
from kubegym_operator.build import names
from kubegym_operator.build.child import Rendering
from kubegym_operator.build.context import PodPeer
from kubegym_operator.build.endpoints import AGENT_PORT, POLICY, RESOURCES_PORT, ModelEndpointUrl
from kubegym_operator.build.errors import BuildError
from kubegym_operator.build.labels import Component, selector
from kubegym_operator.build.network import distinct, from_pods, network_policy, to_pods, watchers
from kubegym_operator.build.part import (
    PART_COMPUTE,
    WORKERS,
    Served,
    key_file,
    key_mounts,
    model_egress,
    outside,
    part_objects,
)
from kubegym_operator.build.pod import Container, pod_identity, server_probes
from kubegym_operator.build.served import FILE, FOLDER, agent_digest

AGENT: Final = "agent"
"""The container; what a podTemplate calls it."""


def build_agent(served: Served) -> list[dict[str, Any]]:
    """ServiceAccount, Services, NetworkPolicy, PodDisruptionBudget and Deployment of an environment's agent.

    Raises:
        BuildError: no model plays the policy, which an agent in pods of its own cannot get from a job.
    """
    rendering, environment, endpoints = served.rendering, served.environment, served.endpoints
    spec = environment.spec.agent
    more_mounts, variables = outside(rendering, endpoints)
    container = Container(
        AGENT,
        spec.image or rendering.context.images.agent,
        args=_arguments(rendering, environment, endpoints),
        env={**pod_identity(), **variables},
        mounts=[served.mount, *key_mounts(endpoints), *more_mounts],
        port=AGENT_PORT,
        compute=spec.compute or PART_COMPUTE,
        extra=server_probes(),
    )
    return part_objects(
        served,
        Component.AGENT,
        container,
        name=names.agent(environment.name),
        account=None,
        overlay=spec.pod_template,
        policy=_network_policy(rendering, environment, endpoints),
        reads=agent_digest(served.manifest),
    )


def _arguments(
    rendering: Rendering, environment: GymEnvironment, endpoints: Mapping[str, ModelEndpointUrl]
) -> list[str]:
    resources = names.url(names.resources(environment.name), rendering.namespace, RESOURCES_PORT)
    arguments = ["serve", "agent", f"{FOLDER}/{FILE}", "--listen", f":{AGENT_PORT}", "--resources-url", resources]
    policy = endpoints.get(POLICY)
    if policy is None:
        raise BuildError(
            f"spec.models.{POLICY}",
            "is required where spec.agent.placement is Service: the agent's pods ask it. Name a model, or set the "
            "placement to Worker, where each RolloutJob may bring its own in environments[].models",
        )
    if policy.kind == "server":
        return [*arguments, "--model-server", policy.routed_url.removesuffix("/v1"), "--model", policy.model]
    arguments += ["--base-url", policy.base_url, "--model", policy.model]
    key = key_file(policy, POLICY)
    return arguments if key is None else [*arguments, "--api-key-file", key]


def _network_policy(
    rendering: Rendering, environment: GymEnvironment, endpoints: Mapping[str, ModelEndpointUrl]
) -> dict[str, Any]:
    """In from workers; out to the resources server, the models, and what is listed."""
    resources = PodPeer(selector(environment, Component.RESOURCES))
    egress = distinct(
        model_egress(rendering, endpoints),
        [to_pods([resources], RESOURCES_PORT)],
        environment.spec.network.allowed_egress,
    )
    ingress = [from_pods([WORKERS, *watchers(rendering.context)], AGENT_PORT)]
    return network_policy(rendering, names.agent(environment.name), Component.AGENT, ingress=ingress, egress=egress)
