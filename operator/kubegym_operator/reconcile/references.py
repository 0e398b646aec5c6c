"""Who has to be looked at when something changes.

=========================  =============================================================================
changed                    due
=========================  =============================================================================
a child, a pod             its owner
a ModelServer              itself, its owner, environments and jobs that use it, jobs of those environments
a GymEnvironment           itself, jobs that refer to it, the ModelServers of its roles
a RolloutJob               itself, its environments, and the ModelServers that it uses
=========================  =============================================================================

The references are found by two indices of the cache, so that a change costs what depends on it and no more.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Final

from kubegym_operator.build.labels import OWNER_NAME
from kubegym_operator.kube.protocol import Kind, Object, ObjectKey
from kubegym_operator.plan.demand import environment_names, servers_of_environment, servers_of_job
from kubegym_operator.plan.snapshot import ServerKey
from kubegym_operator.reconcile.cache import Cache, Index
from kubegym_operator.reconcile.keys import Key
from kubegym_operator.reconcile.watched import GYM_ENVIRONMENT, MODEL_SERVER, OWN, ROLLOUT_JOB

ENVIRONMENT: Final = "environment"
"""Index of RolloutJobs by namespace and name of an environment that they refer to."""

SERVER: Final = "server"
"""Index of GymEnvironments and RolloutJobs by namespace and name of a ModelServer that they name themselves."""


def _environments(obj: Object) -> Iterable[Hashable]:
    if obj["kind"] != ROLLOUT_JOB.kind:
        return ()
    return [(obj["metadata"]["namespace"], name) for name in environment_names(obj)]


def _servers(obj: Object) -> Iterable[Hashable]:
    if obj["kind"] == GYM_ENVIRONMENT.kind:
        return servers_of_environment(obj)
    return servers_of_job(obj, {}) if obj["kind"] == ROLLOUT_JOB.kind else ()


INDICES: Final[Mapping[str, Index]] = {ENVIRONMENT: _environments, SERVER: _servers}
"""What the cache has to be made with."""


def dependants(cache: Cache, obj: Object) -> set[Key]:
    """The keys that an event about an object makes due."""
    kind = Kind(obj["apiVersion"], obj["kind"])
    metadata = obj["metadata"]
    due = owners(obj)
    if kind not in OWN:
        return due
    namespace, name = metadata["namespace"], metadata["name"]
    due.add(Key(kind.kind, namespace, name))
    if kind == MODEL_SERVER:
        users = cache.find(SERVER, (namespace, name))
        due |= {_key(user) for user in users}
        due |= {
            _key(job)
            for user in users
            if user.kind == GYM_ENVIRONMENT
            for job in cache.find(ENVIRONMENT, (user.namespace, user.name))
        }
    elif kind == GYM_ENVIRONMENT:
        due |= {_key(job) for job in cache.find(ENVIRONMENT, (namespace, name))}
        due |= {Key(MODEL_SERVER.kind, *server) for server in servers_of_environment(obj)}
    else:
        due |= {Key(GYM_ENVIRONMENT.kind, namespace, each) for each in environment_names(obj)}
        due |= {Key(MODEL_SERVER.kind, *server) for server in servers_of_job(obj, environments_of(cache, obj))}
    return due


def environments_of(cache: Cache, job: Object) -> dict[str, Object]:
    """The GymEnvironments of a job that exist, by name."""
    namespace = job["metadata"]["namespace"]
    found = {name: cache.get(GYM_ENVIRONMENT, namespace, name) for name in environment_names(job)}
    return {name: environment for name, environment in found.items() if environment is not None}


def jobs_of_environment(cache: Cache, environment: Object) -> list[Object]:
    """The RolloutJobs that refer to an environment."""
    metadata = environment["metadata"]
    return _objects(cache, cache.find(ENVIRONMENT, (metadata["namespace"], metadata["name"])))


def users_of_server(cache: Cache, server: Object) -> tuple[list[Object], dict[ServerKey, Object]]:
    """The RolloutJobs that may use a ModelServer, and the environments through which, by namespace and name."""
    metadata = server["metadata"]
    users = cache.find(SERVER, (metadata["namespace"], metadata["name"]))
    environments = _objects(cache, (user for user in users if user.kind == GYM_ENVIRONMENT))
    keys = {user for user in users if user.kind == ROLLOUT_JOB}
    for environment in environments:
        place = (environment["metadata"]["namespace"], environment["metadata"]["name"])
        keys |= set(cache.find(ENVIRONMENT, place))
    by_place = {(env["metadata"]["namespace"], env["metadata"]["name"]): env for env in environments}
    jobs = _objects(cache, keys)
    for job in jobs:  # which role an entry overrides shows only beside its whole environment
        for name, environment in environments_of(cache, job).items():
            by_place.setdefault((job["metadata"]["namespace"], name), environment)
    return jobs, by_place


def owners(obj: Object) -> set[Key]:
    """Our objects that an object belongs to: by its controller, or for a pod of a ReplicaSet or Job by its label."""
    metadata = obj["metadata"]
    namespace = metadata.get("namespace") or ""
    own = {kind.kind for kind in OWN}
    owners = {
        Key(reference["kind"], namespace, reference["name"])
        for reference in metadata.get("ownerReferences") or ()
        if reference["kind"] in own
    }
    labels = metadata.get("labels") or {}
    return owners | {Key(kind, namespace, labels[label]) for kind, label in OWNER_NAME.items() if label in labels}


def _key(key: ObjectKey) -> Key:
    return Key(key.kind.kind, key.namespace, key.name)


def _objects(cache: Cache, keys: Iterable[ObjectKey]) -> list[Object]:
    found = (cache.get(*key) for key in sorted(keys))
    return [obj for obj in found if obj is not None]
