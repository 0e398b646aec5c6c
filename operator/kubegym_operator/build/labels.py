"""Labels, annotations and owner references of children, and the selectors that find them again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kubegym.core.ids import canonical_json, digest
from kubegym.core.spec import API_VERSION, GymEnvironment, ModelServer, RolloutJob

Owner = GymEnvironment | RolloutJob | ModelServer

NAME: Final = "app.kubernetes.io/name"
INSTANCE: Final = "app.kubernetes.io/instance"
COMPONENT: Final = "app.kubernetes.io/component"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
PART_OF: Final = "app.kubernetes.io/part-of"

PROJECT: Final = "kubegym"
"""The value of ``name``, ``managed-by`` and ``part-of``."""

MANAGED: Final[Mapping[str, str]] = {MANAGED_BY: PROJECT}
"""What every watch selects by (rule 10)."""

OWNER_NAME: Final[Mapping[str, str]] = {
    "GymEnvironment": "kubegym.dev/gymenvironment-name",
    "RolloutJob": "kubegym.dev/rolloutjob-name",
    "ModelServer": "kubegym.dev/modelserver-name",
}
"""The label that names the owner, by its kind."""

RENDER_REVISION: Final = "kubegym.dev/render-revision"
"""Annotation: the revision of the builders that rendered the object (rule 2)."""

SPEC_DIGEST: Final = "kubegym.dev/spec-digest"
"""Annotation: what of the owner's spec (and of what it refers to) the object was rendered from.

Equal digest, older ``render-revision``: nobody asked for a change, the old rendering stays (rule 2).
"""

APPLIED_HASH: Final = "kubegym.dev/applied-hash"
"""Annotation: the hash of the object as it was applied; an equal one means that there is nothing to write."""

RENDERING: Final = "kubegym.dev/rendering"
"""Annotation: the object as it was applied, compressed (``plan.rendering``)."""

CONFIG_DIGEST: Final = "kubegym.dev/config-digest"
"""Annotation of a pod template: the content of the ConfigMaps that it uses; another one rolls the pods (rule 7)."""

JOB_NUMBER: Final = "kubegym.dev/job-number"
"""Label of a run's Jobs and their pods: the how manieth Job of the RolloutJob it is."""


class Component:
    """Values of ``app.kubernetes.io/component``: the role of a pod."""

    MODEL: Final = "model"
    MODEL_FOLLOWER: Final = "model-follower"  # further nodes of a multi-node replica: they serve nobody
    FETCHER: Final = "fetcher"
    AGENT: Final = "agent"
    RESOURCES: Final = "resources"
    SANDBOX: Final = "sandbox"
    WORKER: Final = "worker"
    FINALISER: Final = "finaliser"


def labels(owner: Owner, component: str | None = None) -> dict[str, str]:
    """The labels of a child, and of its pods."""
    mine = {
        NAME: PROJECT,
        INSTANCE: owner.name,
        MANAGED_BY: PROJECT,
        PART_OF: PROJECT,
        OWNER_NAME[owner.kind]: owner.name,
    }
    if component is not None:
        mine[COMPONENT] = component
    return mine


def pod_labels(kind: str, name: str, component: str) -> dict[str, str]:
    """The labels that select the pods of one component of one owner, and no others. They never change."""
    return {COMPONENT: component, MANAGED_BY: PROJECT, OWNER_NAME[kind]: name}


def selector(owner: Owner, component: str) -> dict[str, str]:
    """``pod_labels`` of an owner at hand."""
    return pod_labels(owner.kind, owner.name, component)


def pod_selector(owner: Owner, *components: str) -> dict[str, Any]:
    """A LabelSelector of the pods of some components of one owner, and no others."""
    if len(components) == 1:
        return {"matchLabels": selector(owner, components[0])}
    mine = selector(owner, "")
    del mine[COMPONENT]
    return {
        "matchLabels": mine,
        "matchExpressions": [{"key": COMPONENT, "operator": "In", "values": sorted(components)}],
    }


def owner_reference(owner: Owner) -> dict[str, Any]:
    """The controller reference that makes the garbage collector remove a child with its owner (rule 12).

    Foreground deletion does not wait for it (``blockOwnerDeletion`` needs a permission on finalizers).
    """
    return {
        "apiVersion": API_VERSION,
        "kind": owner.kind,
        "name": owner.name,
        "uid": owner.metadata.uid or "",
        "controller": True,
        "blockOwnerDeletion": False,
    }


def content_digest(*values: Any) -> str:
    """A short digest of JSON values, for annotations."""
    return digest(canonical_json(values))
