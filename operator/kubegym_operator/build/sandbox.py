"""Sandbox pods: where code that a model wrote runs, away from the answers, the store and the network."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from kubegym.core.spec import Compute, GymEnvironment
from kubegym_operator.build import names
from kubegym_operator.build.child import Rendering
from kubegym_operator.build.context import PodPeer
from kubegym_operator.build.disruption import disruption_budget
from kubegym_operator.build.labels import Component, labels, owner_reference, pod_labels, selector
from kubegym_operator.build.network import Rule, from_pods, network_policy, to_pods, watchers
from kubegym_operator.build.part import WORKERS, deployment
from kubegym_operator.build.pod import (
    SECRETS_FOLDER,
    Container,
    Mount,
    Pod,
    pod_identity,
    scratch_mount,
    secret_mount,
    server_probes,
)
from kubegym_operator.build.service import headless_service

SANDBOX: Final = "sandbox"
SANDBOX_PORT: Final = 8080

_TOKEN: Final = "token"
_TOKEN_FOLDER: Final = f"{SECRETS_FOLDER}/sandbox"
_TOKEN_FILE: Final = f"{_TOKEN_FOLDER}/{_TOKEN}"
_SCRATCH: Final = "/scratch"
_STORAGE: Final = "ephemeral-storage"

_REQUESTS: Final = {"cpu": "100m", "memory": "256Mi"}
_LIMITS: Final = {"cpu": "2", "memory": "2Gi", _STORAGE: "2Gi"}
"""What a sandbox pod may use where the spec does not say: a program gone wild costs this pod only."""


def build_sandbox(rendering: Rendering, environment: GymEnvironment) -> list[dict[str, Any]]:
    """ServiceAccount, headless Service, NetworkPolicy, PodDisruptionBudget and Deployment; nothing without a sandbox.

    The pods run KubeGym's own image, never the environment's, which holds the answers, and nobody's overlay.
    """
    spec = environment.spec.resources.sandbox
    if spec is None:
        return []
    name = names.sandbox(environment.name)
    limits = {**_LIMITS, **spec.limits}
    requests = {name: amount for name, amount in _REQUESTS.items() if name not in spec.limits}  # else: the limit
    args = ["serve", "sandbox", "--listen", f":{SANDBOX_PORT}", "--token-file", _TOKEN_FILE, "--folder", _SCRATCH]
    if spec.runtime_class_name is not None:  # its kernel may be another: what it lacks of ours, its own walls replace
        args += ["--without", "landlock,seccomp,listener"]
    container = Container(
        SANDBOX,
        rendering.context.images.resources,
        args=args,
        env=pod_identity(),
        mounts=[
            secret_mount(SANDBOX, name, _TOKEN_FOLDER, _TOKEN),
            scratch_mount("scratch", _SCRATCH, str(limits[_STORAGE])),
        ],
        port=SANDBOX_PORT,
        compute=Compute(requests=requests, limits=limits),
        extra=server_probes(),
    )
    extra = {} if spec.runtime_class_name is None else {"runtimeClassName": spec.runtime_class_name}
    template = Pod(environment, Component.SANDBOX, [container], name, extra=extra).to_template(rendering.context, None)
    objects = [
        rendering.service_account(name, Component.SANDBOX),
        headless_service(rendering, name, Component.SANDBOX, SANDBOX_PORT),
        disruption_budget(rendering, name, Component.SANDBOX),
    ]
    # Also where the environment's network is Unmanaged: nobody has to reach out of a sandbox.
    callers = [PodPeer(selector(environment, Component.RESOURCES)), WORKERS, *watchers(rendering.context)]
    ingress = [from_pods(callers, SANDBOX_PORT)]
    objects.append(network_policy(rendering, name, Component.SANDBOX, ingress=ingress, egress=[]))
    return [*objects, deployment(rendering, name, Component.SANDBOX, template)]


def sandbox_access(environment: str, namespace: str) -> tuple[list[Mount], dict[str, str]]:
    """Mounts and variables with which a resources server or a worker finds an environment's sandbox pods."""
    name = names.sandbox(environment)
    variables = {
        "KUBEGYM_SANDBOX_URL": names.url(name, namespace, SANDBOX_PORT),
        "KUBEGYM_SANDBOX_TOKEN_FILE": _TOKEN_FILE,
    }
    return [secret_mount(SANDBOX, name, _TOKEN_FOLDER, _TOKEN)], variables


def to_sandbox(environment: str) -> Rule:
    """Out to an environment's sandbox pods."""
    return to_pods([PodPeer(pod_labels("GymEnvironment", environment, Component.SANDBOX))], SANDBOX_PORT)


def build_sandbox_secret(environment: GymEnvironment, token: str) -> dict[str, Any]:
    """The Secret with the token that sandbox pods ask for: created once, never read, never written again.

    Args:
        environment: its owner.
        token: as of ``build_session_secret``. What sandbox pods get is a digest of it, which tells them nothing of the
            secret that signs sessions.
    """
    metadata = {
        "name": names.sandbox(environment.name),
        "namespace": environment.metadata.namespace or "default",
        "labels": labels(environment),
        "ownerReferences": [owner_reference(environment)],
    }
    data = {_TOKEN: hashlib.sha256(f"sandbox:{token}".encode()).hexdigest()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "immutable": True, "stringData": data}
