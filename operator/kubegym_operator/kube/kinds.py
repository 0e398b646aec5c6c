"""What the in-process twin knows about kinds, as a real API server tells by discovery and defaulting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubegym_operator.kube.fields import Path
from kubegym_operator.kube.protocol import Kind


@dataclass(frozen=True)
class KindInfo:
    """A kind that is served.

    Attributes:
        kind: its name.
        namespaced: False for kinds of the whole cluster.
        status: whether it has the status subresource, so that other writes leave the status alone.
        replicas: the field behind ``/scale``, where there is one.
        defaults: fields that the server fills in.
        initial_status: the status of a new object.
    """

    kind: Kind
    namespaced: bool = True
    status: bool = True
    replicas: Path | None = None
    defaults: Mapping[Path, Any] = field(default_factory=dict)
    initial_status: Mapping[str, Any] | None = None


_REPLICAS: Path = ("spec", "replicas")

BUILT_IN: tuple[KindInfo, ...] = (
    KindInfo(Kind("v1", "ConfigMap"), status=False),
    KindInfo(Kind("v1", "Namespace"), namespaced=False),
    KindInfo(Kind("v1", "Node"), namespaced=False),
    KindInfo(Kind("v1", "PersistentVolumeClaim")),
    KindInfo(Kind("v1", "Pod"), initial_status={"phase": "Pending"}),
    KindInfo(Kind("v1", "Secret"), status=False),
    KindInfo(Kind("v1", "Service"), defaults={("spec", "type"): "ClusterIP"}),
    KindInfo(Kind("v1", "ServiceAccount"), status=False),
    KindInfo(Kind("apps/v1", "Deployment"), replicas=_REPLICAS, defaults={_REPLICAS: 1}),
    KindInfo(
        Kind("batch/v1", "Job"),
        defaults={("spec", "parallelism"): 1, ("spec", "suspend"): False, ("spec", "backoffLimit"): 6},
    ),
    KindInfo(Kind("coordination.k8s.io/v1", "Lease"), status=False),
    KindInfo(Kind("events.k8s.io/v1", "Event"), status=False),
    KindInfo(Kind("networking.k8s.io/v1", "NetworkPolicy"), status=False),
    KindInfo(Kind("policy/v1", "PodDisruptionBudget")),
)
"""The kinds of Kubernetes itself that the operator writes or watches."""
