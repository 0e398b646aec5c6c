"""Whom a change concerns: from a changed object to the keys that are due.

A child concerns its owner, an object of ours itself and those that refer to it: a ModelServer the environments and jobs
that use it, a GymEnvironment its jobs, and the other way round, since what is wanted is a function of the jobs. Others
are told only of what they may decide by: a job's progress, written every 30 s, wakes nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from kubegym.core.ids import canonical_json, digest
from kubegym_operator.build.labels import OWNER_NAME
from kubegym_operator.kube.protocol import Object, ObjectKey
from kubegym_operator.plan import demand
from kubegym_operator.reconcile.cache import Cache, Change
from kubegym_operator.reconcile.keys import Key
from kubegym_operator.reconcile.references import ENVIRONMENT, SERVER
from kubegym_operator.reconcile.watched import GYM_ENVIRONMENT, MODEL_SERVER, OWN, ROLLOUT_JOB

_TOLD: Final[dict[str, tuple[str, ...]]] = {
    MODEL_SERVER.kind: ("replicas", "readyReplicas", "policyVersion", "endpoint"),
    GYM_ENVIRONMENT.kind: ("endpoints",),
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
        labels = change.obj["metadata"].get("labels") or {}
        found = {Key(owner, namespace, labels[label]) for owner, label in OWNER_NAME.items() if label in labels}
        if kind not in OWN:
            return found
        if not change.own:
            found.add(Key(kind.kind, namespace, name))
        if self._is_news(change):
            found.update(self._others(change.key, change.obj))
        return found

    def _is_news(self, change: Change) -> bool:
        """Whether others are to be told."""
        if change.gone:
            self._told.pop(change.key, None)
            return True
        words = _words(change.obj)
        if self._told.get(change.key) == words:
            return False
        self._told[change.key] = words
        return True

    def _others(self, key: ObjectKey, obj: Object) -> Iterator[Key]:
        kind, namespace, name = key
        if kind == MODEL_SERVER:
            for user in self._cache.find(SERVER, (namespace, name)):
                yield _key(user)
                if user.kind == GYM_ENVIRONMENT:
                    yield from map(_key, self._cache.find(ENVIRONMENT, (user.namespace, user.name)))
        elif kind == GYM_ENVIRONMENT:
            yield from map(_key, self._cache.find(ENVIRONMENT, (namespace, name)))
            yield from self._servers(obj)
        else:
            for environment in demand.environment_names(obj):
                yield Key(GYM_ENVIRONMENT.kind, namespace, environment)
                stored = self._cache.get(GYM_ENVIRONMENT, namespace, environment)
                if stored is not None:
                    yield from self._servers(stored)
            for space, server in demand.servers_of_job(obj, {}):
                yield Key(MODEL_SERVER.kind, space, server)

    def _servers(self, environment: Object) -> Iterator[Key]:
        for space, server in demand.servers_of_environment(environment):
            yield Key(MODEL_SERVER.kind, space, server)


def _key(key: ObjectKey) -> Key:
    return Key(key.kind.kind, key.namespace, key.name)


def _words(obj: Object) -> str:
    """What others decide by, as one digest."""
    metadata, status = obj["metadata"], obj.get("status") or {}
    conditions: list[dict[str, Any]] = status.get("conditions") or []
    return digest(
        canonical_json(
            [
                metadata.get("uid"),
                metadata.get("generation"),
                metadata.get("deletionTimestamp"),
                [[one.get("type"), one.get("status"), one.get("reason")] for one in conditions],
                {name: status[name] for name in _TOLD[obj["kind"]] if name in status},
            ]
        )
    )
