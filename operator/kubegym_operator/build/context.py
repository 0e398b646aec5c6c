"""What every builder is told besides the spec: images, the cluster's addresses, the rendering's revision.

One frozen value for each operator process, made from its settings by the shell. Nothing here is read from anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

RENDER_REVISION: Final = "1"
"""Grows whenever the same spec would be rendered into different pods (DESIGN section 5, rule 2)."""

PullPolicy = Literal["Always", "IfNotPresent", "Never"]


@dataclass(frozen=True, slots=True)
class Images:
    """The image of each role where a spec names none.

    Attributes:
        model: the model server: the sidecar beside an engine, the embedded and simulated engines, the weight fetcher.
        vllm: the engine of ``engine: vllm``.
        agent: agents, and the finaliser.
        resources: resources servers, and workers that an environment is composed into (placement ``Worker``).
        worker: rollout workers.
    """

    model: str = "kubegym-model"
    vllm: str = "vllm/vllm-openai"
    agent: str = "kubegym-agent"
    resources: str = "kubegym-resources"
    worker: str = "kubegym-agent"


@dataclass(frozen=True, slots=True)
class PodPeer:
    """Pods that a NetworkPolicy names: by labels, in namespaces by labels.

    ``namespace_labels`` None is the policy's own namespace; ``pod_labels`` empty is every pod there.
    """

    pod_labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    namespace_labels: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class DnsPeers:
    """Where names are resolved: pods, and addresses such as a node-local cache's."""

    pods: tuple[PodPeer, ...] = (
        PodPeer(
            MappingProxyType({"k8s-app": "kube-dns"}),
            MappingProxyType({"kubernetes.io/metadata.name": "kube-system"}),
        ),
    )
    cidrs: tuple[str, ...] = ()
    ports: tuple[int, ...] = (53,)


@dataclass(frozen=True, slots=True)
class BuildContext:
    """The surroundings of every rendering.

    Attributes:
        images: by role.
        image_pull_secrets: names of Secrets for pulling, in every pod.
        image_pull_policy: None leaves it to Kubernetes (by the tag).
        dns: who answers DNS.
        pod_cidrs, service_cidrs: the cluster's own ranges: taken out of "443 to the world".
        identity_egress: NetworkPolicy egress rules to the cloud's identity endpoints, for pods that reach stores.
        operator: the operator's pods, which probe servers and ask workers for progress.
        monitoring: who scrapes metrics; empty: nobody may.
        proxy_env: ``HTTPS_PROXY``, ``NO_PROXY``, ... for pods that reach the outside.
        ca_config_map: a ConfigMap of every namespace with the key ``ca.crt``, trusted by pods that reach the outside.
        control_key: of which the tokens of control ports are made; of one process of the operator, and never told.
        render_revision: of this operator's builders.
    """

    images: Images = field(default_factory=Images)
    image_pull_secrets: tuple[str, ...] = ()
    image_pull_policy: PullPolicy | None = None
    dns: DnsPeers = field(default_factory=DnsPeers)
    pod_cidrs: tuple[str, ...] = ()
    service_cidrs: tuple[str, ...] = ()
    identity_egress: tuple[Mapping[str, Any], ...] = ()
    operator: PodPeer = field(
        default_factory=lambda: PodPeer(
            MappingProxyType({"app.kubernetes.io/name": "kubegym", "app.kubernetes.io/component": "operator"}),
            MappingProxyType({"kubernetes.io/metadata.name": "kubegym-system"}),
        )
    )
    monitoring: tuple[PodPeer, ...] = ()
    proxy_env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    ca_config_map: str | None = None
    control_key: str = field(default="", repr=False)
    render_revision: str = RENDER_REVISION
