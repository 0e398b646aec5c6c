"""What manifests say about each other. Pure: the caller decides what else a reference may resolve to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from kubegym.core.spec.environment import GymEnvironment
from kubegym.core.spec.load import Manifest
from kubegym.core.spec.model import ModelBinding, ModelServer
from kubegym.core.spec.problems import did_you_mean
from kubegym.core.spec.rolloutjob import EnvironmentEntry, RolloutJob


@dataclass(frozen=True, slots=True)
class UnresolvedReference:
    """A name that stands for nothing known.

    Attributes:
        manifest: kind and name of the manifest that says it, such as ``RolloutJob/math``.
        path: the field.
        name: what it says.
        message: what is wrong, with the nearest known name.
    """

    manifest: str
    path: str
    name: str
    message: str

    def __str__(self) -> str:
        return f"{self.manifest}: {self.path}: {self.message}"


def unresolved_environments(
    manifests: Sequence[Manifest], installed: Collection[str] = ()
) -> list[UnresolvedReference]:
    """RolloutJobs' ``environmentRef`` that name neither a given GymEnvironment nor an installed environment."""
    known = {manifest.name for manifest in manifests if isinstance(manifest, GymEnvironment)} | set(installed)
    return [
        UnresolvedReference(
            f"RolloutJob/{job.name}",
            f"spec.environments[{index}].environmentRef.name",
            entry.environment_ref.name,
            f"no GymEnvironment {entry.environment_ref.name!r}" + did_you_mean(entry.environment_ref.name, known),
        )
        for job in manifests
        if isinstance(job, RolloutJob)
        for index, entry in enumerate(job.spec.environments)
        if entry.environment_ref.name not in known
    ]


def unresolved_servers(manifests: Sequence[Manifest]) -> list[UnresolvedReference]:
    """``serverRef`` that name no given ModelServer, in environments and in jobs."""
    known = {manifest.name for manifest in manifests if isinstance(manifest, ModelServer)}
    found: list[UnresolvedReference] = []
    for manifest in manifests:
        places: list[tuple[str, dict[str, ModelBinding]]] = []
        if isinstance(manifest, GymEnvironment):
            places.append(("spec.models", manifest.spec.models))
        elif isinstance(manifest, RolloutJob):
            places += [(f"spec.environments[{i}].models", e.models) for i, e in enumerate(manifest.spec.environments)]
        for path, models in places:
            for role, binding in models.items():
                if binding.server_ref is not None and binding.server_ref.name not in known:
                    name = binding.server_ref.name
                    message = f"no ModelServer {name!r}" + did_you_mean(name, known)
                    where = f"{path}.{role}.serverRef.name"
                    found.append(UnresolvedReference(f"{manifest.kind}/{manifest.name}", where, name, message))
    return found


def models_for(entry: EnvironmentEntry, environment: GymEnvironment) -> dict[str, ModelBinding]:
    """The models of a job's entry by role: the environment's, the entry's own over them."""
    return {**environment.spec.models, **entry.models}
