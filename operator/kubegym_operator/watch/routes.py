"""Whom a change concerns: from a changed object to the keys that are due.

``reconcile.references.dependants`` says who depends on whom. Here it is decided whether they are told: of an object of
ours others hear only what they may decide by, and of an edit when its status has seen it. A job's
progress, written every 30 s, wakes nobody until its tail has less in flight.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from kubegym.core.ids import canonical_json, digest
from kubegym_operator.kube.protocol import Object, ObjectKey
from kubegym_operator.plan.demand import load_of
from kubegym_operator.reconcile.cache import BROKEN, Cache, Change
from kubegym_operator.reconcile.keys import Key
from kubegym_operator.reconcile.references import dependants, owners
from kubegym_operator.reconcile.watched import GYM_ENVIRONMENT, MODEL_SERVER, OWN, ROLLOUT_JOB

log = logging.getLogger("kubegym.operator")

_TOLD: Final[dict[str, tuple[str, ...]]] = {
    MODEL_SERVER.kind: ("observedGeneration", "replicas", "readyReplicas", "policyVersion", "endpoint"),
    GYM_ENVIRONMENT.kind: ("observedGeneration", "endpoints"),
    ROLLOUT_JOB.kind: (),
}
"""Fields of the status, besides its conditions, that others decide by."""


class Routes:
    """Listens to a cache and makes due what a change concerns.

    Args:
        cache: with the indices of ``reconcile.references``.
        due: makes a key due.
    """

    def __init__(self, cache: Cache, due: Callable[[Key], None]) -> None:
        self._cache = cache
        self._due = due
        self._told: dict[ObjectKey, str] = {}

    def __call__(self, change: Change) -> None:
        """A listener of the cache."""
        for key in self.concerned(change):
            self._due(key)

    def concerned(self, change: Change) -> set[Key]:
        """The keys that a change makes due."""
        kind, namespace, name = change.key
        if kind not in OWN:
            return owners(change.obj)
        itself = Key(kind.kind, namespace, name)
        found = owners(change.obj) | {itself}
        if self._is_news(change):
            found |= self._dependants(change.obj)
        return found - {itself} if change.own else found

    def _dependants(self, obj: Object) -> set[Key]:
        try:
            return dependants(self._cache, obj)
        except BROKEN as error:  # an older CRD admitted it; its own reconciliation says what is wrong
            log.debug("%s %s refers to nothing: %r", obj["kind"], obj["metadata"]["name"], error)
            return set()

    def _is_news(self, change: Change) -> bool:
        """Whether others are to be told."""
        if change.gone:
            self._told.pop(change.key, None)
            return True
        if change.key in self._told and not _is_current(change.obj):
            return False  # an edit that its own status has not seen: nobody can decide by it before
        words = _words(change.obj)
        if self._told.get(change.key) == words:
            return False
        self._told[change.key] = words
        return True


def _is_current(obj: Object) -> bool:
    """Whether what others decide by is of the object as it is. A job's size and suspension are its spec's."""
    metadata, seen = obj["metadata"], (obj.get("status") or {}).get("observedGeneration")
    return (
        obj["kind"] == ROLLOUT_JOB.kind or bool(metadata.get("deletionTimestamp")) or seen == metadata.get("generation")
    )


def _in_flight(job: Object) -> int | None:
    try:
        return load_of(job).in_flight
    except BROKEN:  # as above
        return None


def _words(obj: Object) -> str:
    """What others decide by, as one digest."""
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    is_job = obj["kind"] == ROLLOUT_JOB.kind
    conditions: list[dict[str, Any]] = status.get("conditions") or []
    return digest(
        canonical_json(
            [
                metadata.get("uid"),
                # Of a job's spec others decide by this and by what it may have in flight; the rest that they look at
                # never changes (CEL).
                [spec.get("suspend"), _in_flight(obj)] if is_job else metadata.get("generation"),
                metadata.get("deletionTimestamp"),
                [[one.get("type"), one.get("status"), one.get("reason")] for one in conditions],
                {name: status[name] for name in _TOLD[obj["kind"]] if name in status},
            ]
        )
    )
