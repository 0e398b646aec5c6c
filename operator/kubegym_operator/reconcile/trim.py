"""What the cache keeps of an object: what decisions are made from, and no more.

Thousands of pods are watched and of each only its state matters, so the rest is dropped on entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MANAGER = "kubegym"
"""Field manager of the children."""

SOLE_REPLICAS = "soleReplicas"
"""Key in a trimmed object's metadata: True where ``spec.replicas`` has no owner but us.

An apply without the field would then reset it (DESIGN 5, rule 1); see the executor.
"""

_POD_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "labels",
    "ownerReferences",
)
_POD_STATUS = (
    "phase",
    "reason",
    "message",
    "podIP",
    "startTime",
    "conditions",
    "initContainerStatuses",
    "containerStatuses",
)
_CONTAINER_STATUS = ("name", "ready", "started", "restartCount", "state", "lastState")
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_OURS = "kubegym.dev/"


def trimmed(obj: Mapping[str, Any]) -> dict[str, Any]:
    """A smaller copy; shares what it keeps with the original."""
    return _trimmed_pod(obj) if obj["kind"] == "Pod" else _trimmed(obj)


def _trimmed(obj: Mapping[str, Any]) -> dict[str, Any]:
    metadata = dict(obj["metadata"])
    managed = metadata.pop("managedFields", None)
    annotations = metadata.get("annotations")
    if annotations and _LAST_APPLIED in annotations:
        metadata["annotations"] = {name: value for name, value in annotations.items() if name != _LAST_APPLIED}
    if managed and "replicas" in (obj.get("spec") or {}) and _owners_of_replicas(managed) == {MANAGER}:
        metadata[SOLE_REPLICAS] = True
    return {**obj, "metadata": metadata}


def _trimmed_pod(pod: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {name: value for name, value in pod["metadata"].items() if name in _POD_METADATA}
    annotations = {n: v for n, v in (pod["metadata"].get("annotations") or {}).items() if n.startswith(_OURS)}
    if annotations:
        metadata["annotations"] = annotations
    status = {name: value for name, value in (pod.get("status") or {}).items() if name in _POD_STATUS}
    for field in ("initContainerStatuses", "containerStatuses"):
        if field in status:
            status[field] = [{n: v for n, v in one.items() if n in _CONTAINER_STATUS} for one in status[field]]
    spec = {name: value for name, value in (pod.get("spec") or {}).items() if name in ("nodeName", "schedulingGates")}
    return {"apiVersion": pod["apiVersion"], "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


def _owners_of_replicas(managed: list[dict[str, Any]]) -> set[str]:
    return {
        entry["manager"] if entry.get("operation") == "Apply" else f"{entry['manager']} Update"
        for entry in managed
        if "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
    }
