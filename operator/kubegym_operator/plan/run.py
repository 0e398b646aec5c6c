"""What a RolloutJob would run today: its environments and models resolved, and whether they serve (rule 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kubegym.core.errors import InvalidSpec
from kubegym.core.spec import models_for
from kubegym.core.spec.rolloutjob import EnvironmentEntry
from kubegym_operator.api import GymEnvironment
from kubegym_operator.api.reasons import Reason, Type
from kubegym_operator.build import names
from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.endpoints import POLICY, EntryEndpoints, entry_endpoints
from kubegym_operator.build.frozen import FrozenRun, freeze
from kubegym_operator.plan.actions import Object
from kubegym_operator.plan.environment import (
    Models,
    models_serving,
    models_trouble,
    resolve_models,
)
from kubegym_operator.plan.failures import Trouble
from kubegym_operator.plan.modelserver import served_at
from kubegym_operator.plan.objects import condition, holds, typed
from kubegym_operator.plan.queues import REFERENCE_GRACE
from kubegym_operator.plan.snapshot import RolloutJobSnapshot
from kubegym_operator.plan.times import seconds
from kubegym_operator.plan.workload import Serving


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it would be frozen now.

    Attributes:
        frozen: None while something that it refers to is missing.
        serving: whether everything that it needs serves; the first that does not, with its reason.
        trouble: what keeps that from serving.
    """

    frozen: FrozenRun | None
    serving: Serving
    trouble: Trouble | None

    @property
    def idle(self) -> bool:
        """Whether it would have to be woken."""
        return self.serving.reason == Reason.IDLE


@dataclass(frozen=True, slots=True)
class _Entry:
    """One resolved entry."""

    serving: Serving
    trouble: Trouble | None
    environment: GymEnvironment | None = None
    endpoints: EntryEndpoints | None = None


def resolve_run(snapshot: RolloutJobSnapshot, context: BuildContext) -> Run:
    """Resolve what a job refers to.

    Raises:
        BuildError: the environments cannot be run together.
    """
    entries = {entry.name: _resolve(snapshot, entry) for entry in snapshot.job.spec.environments}
    trouble = next((entry.trouble for entry in entries.values() if entry.trouble is not None), None)
    serving = next((entry.serving for entry in entries.values() if not entry.serving.serves), None)
    environments: dict[str, GymEnvironment] = {}
    endpoints: dict[str, EntryEndpoints] = {}
    for name, entry in entries.items():
        if entry.environment is None or entry.endpoints is None:
            return Run(None, serving or Serving(False, Reason.ENVIRONMENT_NOT_FOUND), trouble)
        environments[name], endpoints[name] = entry.environment, entry.endpoints
    frozen = freeze(snapshot.job, environments, endpoints, context)
    return Run(frozen, serving or Serving(True, Reason.AVAILABLE), trouble)


def _resolve(snapshot: RolloutJobSnapshot, entry: EnvironmentEntry) -> _Entry:
    name = entry.environment_ref.name
    raw = snapshot.environments.get(name)
    created = seconds(snapshot.raw.get("metadata", {}).get("creationTimestamp")) or 0.0
    patient = snapshot.now - created < REFERENCE_GRACE
    if raw is None:
        message = f"environments[{entry.name}]: there is no GymEnvironment {name!r} in this namespace"
        trouble = Trouble(Reason.ENVIRONMENT_NOT_FOUND, message, waits=patient)
        return _Entry(Serving(False, trouble.reason, message), trouble)
    try:
        environment = typed(raw)
    except InvalidSpec as error:
        trouble = Trouble(Reason.INVALID_SPEC, f"environments[{entry.name}]: {error.message}")
        return _Entry(Serving(False, trouble.reason, trouble.message), trouble)
    assert isinstance(environment, GymEnvironment)
    models = _models(snapshot, entry, environment, patient=patient)
    if POLICY not in models_for(entry, environment):
        message = (
            f"environments[{entry.name}]: no model plays policy: name one in spec.models.policy of GymEnvironment "
            f"{name}, or in this entry's models.policy"
        )
        trouble = Trouble(Reason.INVALID_SPEC, message)
        return _Entry(Serving(False, trouble.reason, message), trouble, environment)
    if (fixed := _fixed_models(entry, environment)) is not None:
        return _Entry(Serving(False, fixed.reason, fixed.message), fixed, environment)
    resolved = not (set(models_for(entry, environment)) - set(models.endpoints))
    return _Entry(
        _serving(name, raw, models),
        _trouble(name, raw, models),
        environment,
        entry_endpoints(environment, models.endpoints) if resolved else None,
    )


def _fixed_models(entry: EnvironmentEntry, environment: GymEnvironment) -> Trouble | None:
    """Models of an entry that nobody would ask: pods of an environment serve every job with the environment's own."""
    name = environment.name
    for role in sorted(entry.models):
        part, placement = (
            ("agent", environment.spec.agent) if role == POLICY else ("resources", environment.spec.resources)
        )
        if placement.placement == "Service":
            return Trouble(
                Reason.INVALID_SPEC,
                f"environments[{entry.name}].models.{role}: the {part} of GymEnvironment {name} has pods of its own "
                f"and asks the environment's models: set spec.{part}.placement there to Worker, or name the model in "
                f"spec.models.{role} of an environment for this job",
            )
    return None


def _models(
    snapshot: RolloutJobSnapshot, entry: EnvironmentEntry, environment: GymEnvironment, *, patient: bool
) -> Models:
    """The environment's models where the entry brings none of its own."""
    job = snapshot.job
    namespace = job.metadata.namespace or "default"
    inherited = {role: binding for role, binding in environment.spec.models.items() if role not in entry.models}
    parts = [
        resolve_models(
            bindings, snapshot.servers, snapshot.permitted, namespace=namespace, owner=owner, patient=patient
        )
        for bindings, owner in ((inherited, environment.name), (entry.models, names.entry(job.name, entry.name)))
    ]
    return Models(
        {role: endpoint for part in parts for role, endpoint in part.endpoints.items()},
        {role: server for part in parts for role, server in part.servers.items()},
        next((part.trouble for part in parts if part.trouble is not None), None),
    )


def _serving(name: str, environment: Object, models: Models) -> Serving:
    """Whether the entry's parts serve. Not the environment's own ``Serving``: the entry may bring other models."""
    for type in (Type.RESOURCES_READY, Type.AGENT_READY):
        if not served_at(environment, type):
            said = condition(environment, type)
            stale = said.get("status") == "True"
            reason = Reason.PROGRESSING if stale else str(said.get("reason") or Reason.ENVIRONMENT_NOT_READY)
            return Serving(False, reason, f"GymEnvironment {name}: {said.get('message') or f'{type} is not True yet'}")
    models_serve = models_serving(models)
    if not models_serve.serves:
        return Serving(False, models_serve.reason, f"GymEnvironment {name}: {models_serve.message}")
    return Serving(True, Reason.AVAILABLE)


def _trouble(name: str, environment: Object, models: Models) -> Trouble | None:
    trouble = models_trouble(models)
    if trouble is not None:
        return trouble
    said: Mapping[str, str] = condition(environment, Type.STALLED)
    ready = holds(environment, Type.RESOURCES_READY) and holds(environment, Type.AGENT_READY)
    if said.get("status") == "True" and not ready:
        return Trouble(said["reason"], f"GymEnvironment {name}: {said['message']}")
    if condition(environment, Type.SUSPENDED).get("reason") == Reason.SUSPENDED:
        return Trouble(Reason.SUSPENDED, f"GymEnvironment {name} is suspended")
    return None
