"""Rendered objects on a real control plane."""

from __future__ import annotations

from pathlib import Path

import yaml

from kubegym_operator.api import parse
from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.scale import initial_scale
from testbed.k8s.api import Refused
from testbed.k8s.cluster import Cluster
from testbed.rendered import WORKLOADS, Manifest, Object, render

CRDS = sorted((Path(__file__).resolve().parents[2] / "crds").glob("*.yaml"))
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
CONTEXT = BuildContext()


def know_our_kinds(cluster: Cluster) -> None:
    """The three kinds are established, and there is a PriorityClass ``low``."""
    cluster.apply([yaml.safe_load(path.read_text()) for path in CRDS])
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=300s", *(f"-f={path}" for path in CRDS))
    low = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "low"}, "value": 1}
    try:
        cluster.api.create(low)
    except Refused as refused:
        if refused.reason != "AlreadyExists":
            raise


def stored(cluster: Cluster, namespace: str, kind: str, name: str, spec: Object) -> Manifest:
    """A custom resource as the API server has stored it, which its children refer to by uid."""
    raw = {"apiVersion": "kubegym.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    return parse(cluster.api.create(raw, namespace))


def created(cluster: Cluster, manifests: list[Manifest], replicas: int = 1) -> list[Object]:
    """Render manifests and create what they are rendered into; inline servers stay manifests."""
    objects = render(manifests, CONTEXT, inline=False).objects
    scaled = [kind for kind in WORKLOADS if kind != "Job"]
    return [cluster.api.create(initial_scale(obj, replicas) if obj["kind"] in scaled else obj) for obj in objects]


def component(name: str) -> str:
    """The label selector of a role's pods."""
    return f"app.kubernetes.io/component={name}"
