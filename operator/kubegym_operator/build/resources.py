"""The resources server: tools, seeding and verification of an environment, in pods of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kubegym.core.spec import GymEnvironment
from kubegym_operator.build import names
from kubegym_operator.build.child import Rendering
from kubegym_operator.build.context import PodPeer
from kubegym_operator.build.endpoints import POLICY, RESOURCES_PORT, ModelEndpointUrl
from kubegym_operator.build.labels import Component, selector
from kubegym_operator.build.network import distinct, from_pods, network_policy, to_pods, watchers
from kubegym_operator.build.part import PART_COMPUTE, WORKERS, Served, key_mounts, model_egress, outside, part_objects
from kubegym_operator.build.pod import (
    SECRETS_FOLDER,
    Container,
    pod_identity,
    secret_mount,
    server_probes,
)
from kubegym_operator.build.sandbox import sandbox_access, to_sandbox
from kubegym_operator.build.served import FILE, FOLDER, resources_digest

RESOURCES: Final = "resources"
"""The container; what a podTemplate calls it."""

SESSION_KEY: Final = "secret"
"""The key of the Secret that signs sessions."""

_SESSION_FOLDER = f"{SECRETS_FOLDER}/session"


def build_resources(served: Served) -> list[dict[str, Any]]:
    """ServiceAccount, Services, NetworkPolicy, PodDisruptionBudget and Deployment of a resources server."""
    rendering, environment, manifest_mount = served.rendering, served.environment, served.mount
    spec = environment.spec.resources
    # The policy is the agent's.
    others = {role: endpoint for role, endpoint in served.endpoints.items() if role != POLICY}
    more_mounts, variables = outside(rendering, others)
    sandbox_mounts, sandbox_variables = (
        sandbox_access(environment.name, rendering.namespace) if spec.sandbox is not None else ([], {})
    )
    session = secret_mount("session", names.session_secret(environment.name), _SESSION_FOLDER, SESSION_KEY)
    container = Container(
        RESOURCES,
        spec.image or rendering.context.images.resources,
        args=["serve", "resources", f"{FOLDER}/{FILE}", "--listen", f":{RESOURCES_PORT}"],
        env={
            **pod_identity(),
            "KUBEGYM_SESSION_SECRET_FILE": f"{_SESSION_FOLDER}/{SESSION_KEY}",
            **sandbox_variables,
            **variables,
        },
        mounts=[manifest_mount, session, *sandbox_mounts, *key_mounts(others), *more_mounts],
        port=RESOURCES_PORT,
        compute=spec.compute or PART_COMPUTE,
        extra=server_probes(),
    )
    return part_objects(
        served,
        Component.RESOURCES,
        container,
        name=names.resources(environment.name),
        account=spec.service_account_name,
        overlay=spec.pod_template,
        policy=_network_policy(rendering, environment, others),
        reads=resources_digest(served.manifest),
    )


def _network_policy(
    rendering: Rendering, environment: GymEnvironment, endpoints: Mapping[str, ModelEndpointUrl]
) -> dict[str, Any]:
    """In from the agent, workers and its own replicas; out to these, the models it asks, and what is listed."""
    replicas = PodPeer(selector(environment, Component.RESOURCES))  # a session's owner may be another one
    agent = PodPeer(selector(environment, Component.AGENT))
    egress = distinct(
        model_egress(rendering, endpoints),
        [to_pods([replicas])],
        [to_sandbox(environment.name)] if environment.spec.resources.sandbox is not None else [],
        environment.spec.network.allowed_egress,
    )
    ingress = [
        from_pods([agent, WORKERS, *watchers(rendering.context)], RESOURCES_PORT),
        {"from": to_pods([replicas])["to"]},
    ]
    name = names.resources(environment.name)
    return network_policy(rendering, name, Component.RESOURCES, ingress=ingress, egress=egress)
