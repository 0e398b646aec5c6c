"""A run as it is frozen at its start: what workers mount, and the digest that a later change is told by (rule 3)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from kubegym.core.spec import GymEnvironment, RolloutJob
from kubegym.core.spec.common import VERSION_LABEL
from kubegym_operator.build import names
from kubegym_operator.build.child import Rendering
from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.endpoints import EntryEndpoints
from kubegym_operator.build.errors import BuildError, WorkerImageConflict
from kubegym_operator.build.labels import Component, content_digest
from kubegym_operator.build.served import PACE, PART_PACE, environment_manifest, without

FILE: Final = "run.json"
FOLDER: Final = "/etc/kubegym/run"
SCHEMA: Final = 1

WORKER_IMAGE: Final = "kubegym.dev/worker-image"
"""Annotation of the ConfigMap: the image that the run was started with."""

RUN_DIGEST: Final = "kubegym.dev/run-digest"
"""Annotation of the ConfigMap and of the Jobs: ``FrozenRun.digest``."""

MAX_BYTES: Final = 1_000_000
"""Most that ``run.json`` may have: a ConfigMap holds 1 MiB with its metadata."""

_COLLECTED: Final = (
    "environments",
    "rolloutsPerTask",
    "group",
    "sampling",
    "sharding",
    "maxPolicyVersionLag",
    "onTruncated",
)
"""Fields of a job that decide what is collected; the others are its pace, its size, and where results go."""

_ACCESS: Final = frozenset({"credentialsSecretRef", "endpoint", "region"})
"""Fields of a dataset that say how its rows are reached, not which."""


@dataclass(frozen=True, slots=True)
class FrozenRun:
    """A resolved run.

    Attributes:
        document: the content of ``run.json``.
        digest: of what decides what is collected: never of addresses, sizes, credentials, default images or policy
            weights, so that it is the same after an upgrade of the operator.
        environments: the digest of each entry's environment alone, by entry.
        worker_image: the image of the run's workers and finaliser, resolved once.
    """

    document: Mapping[str, Any]
    digest: str
    environments: Mapping[str, str]
    worker_image: str

    @property
    def endpoints(self) -> dict[str, EntryEndpoints]:
        """The addresses of each entry, by entry."""
        entries = self.document["environments"]
        return {name: EntryEndpoints.from_run(entry["endpoints"]) for name, entry in entries.items()}

    def to_config_map(self, job: RolloutJob, context: BuildContext) -> dict[str, Any]:
        """The immutable ConfigMap ``<job>-run``: created once.

        Raises:
            BuildError: more than a ConfigMap holds.
        """
        text = json.dumps(self.document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        if (size := len(text.encode())) > MAX_BYTES:
            message = f"resolved, they have {size} bytes, and a ConfigMap holds {MAX_BYTES}: use several jobs"
            raise BuildError("spec.environments", message)
        rendering = Rendering(job, context, self.digest)
        config_map = rendering.child(
            "ConfigMap", names.run_config(job.name), Component.WORKER, immutable=True, data={FILE: text}
        )
        config_map["metadata"]["annotations"] |= {RUN_DIGEST: self.digest, WORKER_IMAGE: self.worker_image}
        return config_map

    @classmethod
    def from_config_map(cls, config_map: Mapping[str, Any]) -> FrozenRun:
        """The run that ``to_config_map`` wrote. Raises ValueError where it is none."""
        try:
            document = json.loads(config_map["data"][FILE])
            digests = {name: entry["digest"] for name, entry in document["environments"].items()}
            image = config_map["metadata"]["annotations"][WORKER_IMAGE]
            return cls(document, document["digest"], digests, image)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the ConfigMap is no frozen run: {error!r} is missing") from error


def freeze(
    job: RolloutJob,
    environments: Mapping[str, GymEnvironment],
    endpoints: Mapping[str, EntryEndpoints],
    context: BuildContext,
) -> FrozenRun:
    """Resolve a run.

    Args:
        job: the RolloutJob, with its uid.
        environments: by *entry* (``spec.environments[].name``).
        endpoints: by entry.
        context: the surroundings.

    Raises:
        WorkerImageConflict: the environments placed in the worker ask for different images.
    """
    entries = {entry.name: entry for entry in job.spec.environments}
    digests = {name: _environment_digest(environments[name], endpoints[name]) for name in entries}
    digest = content_digest({"schema": SCHEMA, "spec": _collected(job), "environments": digests})
    document = {
        "schema": SCHEMA,
        "name": job.name,
        "namespace": job.metadata.namespace or "default",
        "uid": job.metadata.uid or "",
        "digest": digest,
        "spec": job.spec.model_dump(mode="json", by_alias=True, exclude_unset=True),
        "environments": {
            name: {
                "digest": digests[name],
                "manifest": environment_manifest(environments[name]),
                "endpoints": endpoints[name].to_run(),
            }
            for name in entries
        },
    }
    return FrozenRun(document, digest, digests, _worker_image(job, environments, context))


def _environment_digest(environment: GymEnvironment, endpoints: EntryEndpoints) -> str:
    """Of the environment without its pace, and of which models play its roles."""
    spec = {key: value for key, value in environment_manifest(environment)["spec"].items() if key not in PACE}
    spec.pop("models", None)  # which models: by their identity, below; how many and where is pace
    for part in ("resources", "agent"):
        if kept := without(spec.pop(part, {}), PART_PACE):
            spec[part] = kept
    models = {role: dict(endpoint.identity) for role, endpoint in endpoints.models.items()}
    return content_digest(environment.name, environment.metadata.labels.get(VERSION_LABEL), spec, models)


def _collected(job: RolloutJob) -> dict[str, Any]:
    spec = job.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    collected: dict[str, Any] = {name: spec[name] for name in _COLLECTED if name in spec}
    collected["environments"] = [_entry(entry) for entry in collected["environments"]]
    return collected


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry by which rows it has; its models are in the environment's digest."""
    dataset = {key: value for key, value in entry["dataset"].items() if key not in _ACCESS}
    return {**{key: value for key, value in entry.items() if key != "models"}, "dataset": dataset}


def _worker_image(job: RolloutJob, environments: Mapping[str, GymEnvironment], context: BuildContext) -> str:
    """The image that holds what runs in the workers' process.

    An environment placed there needs its own image; without one, the image of resources servers, which has the
    environments that come with KubeGym.
    """
    placed = [each for each in environments.values() if each.spec.resources.placement == "Worker"]
    wanted = {each.spec.resources.image for each in placed if each.spec.resources.image is not None}
    if job.spec.worker.image is not None:
        wanted.add(job.spec.worker.image)
    if len(wanted) > 1:
        raise WorkerImageConflict(
            "spec.environments", f"one worker cannot have several images: {', '.join(sorted(wanted))}; use several jobs"
        )
    if wanted:
        return wanted.pop()
    return context.images.resources if placed else context.images.worker
