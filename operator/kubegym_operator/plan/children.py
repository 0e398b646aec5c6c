"""From desired objects and observed ones to what is written: each object by its kind, and only where it differs.

============================  ======================  ================================================================
object                        not there               there
============================  ======================  ================================================================
Deployment, LeaderWorkerSet   created with replicas   applied without, when it differs; replicas by ``/scale``
Job, Secret, claim,           created                 left as it is
immutable ConfigMap
any other                     applied                 applied when it differs
rendered by an older          as above                left as it is while its ``spec-digest`` is the same, but
operator                                              put back when others edited it (rule 2)
owned, no longer desired      -                       deleted, unless an older rendering is kept
============================  ======================  ================================================================
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kubegym_operator.build import labels
from kubegym_operator.build.labels import content_digest
from kubegym_operator.build.scale import initial_scale
from kubegym_operator.plan.actions import Delete, KindName, Object, Scale, kind_of
from kubegym_operator.plan.drift import differs
from kubegym_operator.plan.objects import (
    CONFIG_MAP,
    DEPLOYMENT,
    JOB,
    LEADER_WORKER_SET,
    MODEL_SERVER,
    annotations_of,
    deleting,
    name_of,
    namespace_of,
    spec_of,
    uid_of,
)
from kubegym_operator.plan.rendering import with_rendering

WORKLOADS: Final = (DEPLOYMENT, LEADER_WORKER_SET)
SCALED: Final = (*WORKLOADS, MODEL_SERVER)
"""Kinds whose replicas are everybody's: in no applied object (rule 1)."""

_ONCE: Final = (JOB, KindName("v1", "Secret"), KindName("v1", "PersistentVolumeClaim"))
_NEVER_PRUNED: Final = (KindName("v1", "Secret"), KindName("v1", "PersistentVolumeClaim"), JOB)

RENDER: Final = "kubegym.dev/render"
"""Annotation on an object of ours: ``latest`` asks for the newest rendering of its children."""


EDITED_FROM: Final = "editedFrom"
"""Key in an observed child's metadata: what it was applied as, if others have changed that (``reconcile.trim``)."""


@dataclass(frozen=True, slots=True)
class ChildActions:
    """What is written so that the children are as desired.

    ``outdated`` names the children whose older rendering is kept.
    """

    applies: tuple[Object, ...] = ()
    creates: tuple[Object, ...] = ()
    scales: tuple[Scale, ...] = ()
    deletes: tuple[Delete, ...] = ()
    outdated: tuple[str, ...] = ()


def plan_children(
    owner: Object,
    desired: Sequence[Object],
    observed: Iterable[Object],
    replicas: Mapping[str, int],
    *,
    free: Collection[str] = (),
    prune: bool = True,
) -> ChildActions:
    """The writes that make the children as desired.

    Args:
        owner: their owner as stored; its annotation may ask for the newest rendering.
        desired: as the builders render them, without replicas.
        observed: what the owner owns, and more of the same kind if there is.
        replicas: wanted replicas by the name of a workload or an owned ModelServer.
        free: of these, the ones whose replicas are left to others once the object is there.
        prune: delete what is owned and not desired.
    """
    there = {_key(obj): obj for obj in observed}
    latest = annotations_of(owner).get(RENDER) == "latest"
    applies: list[Object] = []
    creates: list[Object] = []
    scales: list[Scale] = []
    outdated: list[str] = []
    for obj in map(stamped, desired):
        found = there.get(_key(obj))
        wanted = replicas.get(name_of(obj)) if kind_of(obj) in SCALED else None
        if found is None:
            if kind_of(obj) in SCALED:
                whole = with_rendering(obj)
                creates.append(whole if wanted is None else initial_scale(whole, wanted))
            elif _made_once(obj):
                creates.append(obj)
            else:
                applies.append(with_rendering(obj))
            continue
        if deleting(found):
            continue  # its end is another event
        if wanted is not None and name_of(obj) not in free and spec_of(found).get("replicas") != wanted:
            scales.append(Scale(kind_of(obj), namespace_of(obj), name_of(obj), wanted))
        if _made_once(obj):
            continue
        if not latest and _kept(obj, found):
            outdated.append(f"{found['kind']} {name_of(found)}")
            if (before := edited_from(found)) is not None:
                applies.append(with_rendering(before))
        elif differs(obj, found) or edited_from(found) is not None:
            applies.append(with_rendering(obj))
    deletes = _superfluous(desired, there.values()) if prune and not outdated else ()
    return ChildActions(tuple(applies), tuple(creates), tuple(scales), deletes, tuple(outdated))


def edited_from(found: Object) -> Object | None:
    """What an observed child was applied as, where it is not that any more; None where it is, or nobody looked."""
    before: Object | None = found["metadata"].get(EDITED_FROM)
    return before


def stamped(obj: Object) -> Object:
    """The object with the hash of what it says in an annotation."""
    metadata = obj["metadata"]
    annotations = {**(metadata.get("annotations") or {}), labels.APPLIED_HASH: content_digest(obj)}
    return {**obj, "metadata": {**metadata, "annotations": annotations}}


def delete_of(obj: Object) -> Delete:
    """Deletion of exactly this object."""
    return Delete(kind_of(obj), namespace_of(obj), name_of(obj), uid_of(obj))


def _made_once(obj: Object) -> bool:
    return kind_of(obj) in _ONCE or (kind_of(obj) == CONFIG_MAP and bool(obj.get("immutable")))


def _kept(desired: Object, found: Object) -> bool:
    """Whether an older operator rendered it from the same spec. A ModelServer is no rendering: it has children."""
    if kind_of(desired) == MODEL_SERVER:
        return False
    mine, theirs = annotations_of(desired), annotations_of(found)
    same_spec = mine.get(labels.SPEC_DIGEST) is not None and mine[labels.SPEC_DIGEST] == theirs.get(labels.SPEC_DIGEST)
    return same_spec and mine.get(labels.RENDER_REVISION) != theirs.get(labels.RENDER_REVISION)


def _superfluous(desired: Sequence[Object], observed: Iterable[Object]) -> tuple[Delete, ...]:
    wanted = {_key(obj) for obj in desired}
    return tuple(
        delete_of(obj)
        for obj in observed
        if _key(obj) not in wanted and not deleting(obj) and kind_of(obj) not in _NEVER_PRUNED
    )


def _key(obj: Object) -> tuple[KindName, str, str]:
    return kind_of(obj), namespace_of(obj), name_of(obj)
