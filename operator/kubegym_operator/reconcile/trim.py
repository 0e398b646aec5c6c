"""What the cache keeps of an object: what decisions are made from, and no more.

Thousands of pods are watched and of each only its state matters, so the rest is dropped on entry. Who owns which field
is read here and dropped, too: what follows from it stays as a word in ``metadata``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kubegym_operator.build.labels import RENDER_REVISION, RENDERING
from kubegym_operator.plan.children import EDITED_FROM
from kubegym_operator.plan.drift import differs, taken_over
from kubegym_operator.plan.rendering import rendering_of

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
_BULKY = frozenset({"kubectl.kubernetes.io/last-applied-configuration", RENDERING})
_OURS = "kubegym.dev/"


def trimmed(obj: dict[str, Any], revision: str | None = None) -> dict[str, Any]:
    """A smaller copy; shares what it keeps with the original.

    ``revision``: of the renderings that can be told from their spec. Others are compared with what they were.
    """
    return _trimmed_pod(obj) if obj["kind"] == "Pod" else _trimmed(obj, revision)


def edited_from(obj: dict[str, Any], revision: str | None = None) -> dict[str, Any] | None:
    """What an untrimmed object was applied as, if others have changed that; None where not, or where it is not known.

    With the rendering of ``revision`` at hand, values are compared elsewhere, and only who owns what is looked at.
    """
    annotations = obj["metadata"].get("annotations") or {}
    if RENDERING not in annotations:
        return None
    older = revision is not None and annotations.get(RENDER_REVISION) != revision
    managed = obj["metadata"].get("managedFields") or ()
    if not older and not _has_other_writers(managed):
        return None  # nearly always: nothing need be unpacked
    applied = rendering_of(obj)
    if applied is None or not (taken_over(applied, managed, MANAGER) or (older and differs(applied, obj))):
        return None
    return applied


def _has_other_writers(managed: Sequence[Mapping[str, Any]]) -> bool:
    return any(entry.get("manager") != MANAGER and not entry.get("subresource") for entry in managed)


def _trimmed(obj: dict[str, Any], revision: str | None) -> dict[str, Any]:
    metadata = dict(obj["metadata"])
    managed = metadata.pop("managedFields", None)
    annotations = metadata.get("annotations")
    if annotations and not _BULKY.isdisjoint(annotations):
        metadata["annotations"] = {name: value for name, value in annotations.items() if name not in _BULKY}
        if (before := edited_from(obj, revision)) is not None:
            metadata[EDITED_FROM] = before
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
