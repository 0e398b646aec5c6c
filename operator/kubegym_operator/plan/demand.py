"""Which environments and model servers are wanted: a pure function of the jobs that refer to them (rule 6).

A RolloutJob wants its environments from the moment that it says so in its status (``EnvironmentReady`` with any reason
but ``CheckingOutput``) until it has finished. It wants nothing while it is suspended, or while its Job waits for quota:
a waiting job wakes nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from kubegym_operator.api.reasons import Reason, Type
from kubegym_operator.build import names
from kubegym_operator.plan.actions import Object
from kubegym_operator.plan.objects import condition, deleting, holds, name_of, namespace_of, spec_of, status_of
from kubegym_operator.plan.snapshot import Load, ServerKey

CHECKING_OUTPUT: Final = "CheckingOutput"
"""The reason of ``EnvironmentReady`` while a job looks whether its output is finished already (rule 12)."""


def finished(job: Object) -> bool:
    """Whether a RolloutJob has ended for good."""
    return holds(job, Type.COMPLETE) or holds(job, Type.FAILED)


def wants_environments(job: Object) -> bool:
    """Whether a RolloutJob, as stored, needs what it refers to now."""
    if finished(job) or deleting(job) or spec_of(job).get("suspend") or managed_elsewhere(job):
        return False
    if condition(job, Type.SUSPENDED).get("reason") == Reason.QUOTA_PENDING and holds(job, Type.SUSPENDED):
        return False
    return condition(job, Type.ENVIRONMENT_READY).get("reason") not in (None, CHECKING_OUTPUT)


def managed_elsewhere(job: Object) -> bool:
    """Whether ``spec.managedBy`` names another controller."""
    return spec_of(job).get("managedBy") not in (None, "kubegym.dev/operator")


def environment_names(job: Object) -> set[str]:
    """The GymEnvironments that a RolloutJob refers to, all in its own namespace."""
    return {str(entry["environmentRef"]["name"]) for entry in spec_of(job).get("environments") or ()}


def servers_of_environment(environment: Object) -> set[ServerKey]:
    """The ModelServers that play a role in an environment."""
    return _servers(spec_of(environment).get("models") or {}, namespace_of(environment), name_of(environment))


def servers_of_job(job: Object, environments: Mapping[str, Object]) -> set[ServerKey]:
    """The ModelServers that a RolloutJob uses: its environments', where its entries bring none of their own."""
    found: set[ServerKey] = set()
    for entry in spec_of(job).get("environments") or ():
        own = entry.get("models") or {}
        environment = environments.get(str(entry["environmentRef"]["name"]))
        if environment is not None:
            models = spec_of(environment).get("models") or {}
            inherited = {role: binding for role, binding in models.items() if role not in own}
            found |= _servers(inherited, namespace_of(environment), name_of(environment))
        found |= _servers(own, namespace_of(job), names.entry(name_of(job), str(entry["name"])))
    return found


def jobs_of_environment(environment: Object, jobs: Iterable[Object]) -> tuple[str, ...]:
    """Names of the jobs (of its namespace) that want this environment now."""
    name = name_of(environment)
    return tuple(sorted(name_of(j) for j in jobs if wants_environments(j) and name in environment_names(j)))


def loads_of_server(
    server: Object, jobs: Iterable[Object], environments: Mapping[tuple[str, str], Object]
) -> tuple[Load, ...]:
    """The jobs that want this ModelServer now, by name, and how much of it.

    Args:
        server: the ModelServer.
        jobs: those that may use it.
        environments: those that may use it, by namespace and name.
    """
    key = (namespace_of(server), name_of(server))
    wanting = [
        job
        for job in jobs
        if wants_environments(job) and key in servers_of_job(job, _of_namespace(environments, namespace_of(job)))
    ]
    return tuple(sorted(map(load_of, wanting), key=lambda load: load.job))


def wanted_rollouts(objects: Callable[[str], Iterable[Object]]) -> dict[ServerKey, int]:
    """How many rollouts the jobs want in flight on each ModelServer now, whoever scales it.

    Args:
        objects: the objects of one of our kinds, by its name.
    """
    of_namespace: dict[str, dict[str, Object]] = {}
    for environment in objects("GymEnvironment"):
        of_namespace.setdefault(namespace_of(environment), {})[name_of(environment)] = environment
    wanted = {(namespace_of(server), name_of(server)): 0 for server in objects("ModelServer")}
    for job in filter(wants_environments, objects("RolloutJob")):
        for key in servers_of_job(job, of_namespace.get(namespace_of(job), {})) & wanted.keys():
            wanted[key] += load_of(job).in_flight
    return wanted


def load_of(job: Object) -> Load:
    """What a RolloutJob, as stored, asks of the servers that it uses."""
    spec, told = spec_of(job), status_of(job).get("rollouts") or {}
    slots = int(spec.get("parallelism", 1)) * int(spec.get("concurrency", 32))
    expected = told.get("expected")
    settled = sum(told.get(outcome, 0) for outcome in ("scored", "unscored", "failed"))
    return Load(name_of(job), slots, None if expected is None else max(0, expected - settled))


def _of_namespace(environments: Mapping[tuple[str, str], Object], namespace: str) -> dict[str, Object]:
    return {name: found for (space, name), found in environments.items() if space == namespace}


def _servers(models: Mapping[str, Any], namespace: str, owner: str) -> set[ServerKey]:
    found: set[ServerKey] = set()
    for role, binding in models.items():
        if (reference := binding.get("serverRef")) is not None:
            found.add((str(reference.get("namespace") or namespace), str(reference["name"])))
        elif "server" in binding:
            found.add((namespace, names.model_server(owner, role)))
    return found
