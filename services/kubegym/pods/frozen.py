"""``run.json``: a RolloutJob as the operator froze it, with every environment and address resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from kubegym.core.errors import InvalidSpec
from kubegym.core.spec import API_VERSION, GymEnvironment, RolloutJob, manifest_from

SCHEMA = 1


@dataclass(frozen=True)
class ModelAddress:
    """A model that plays a role: a model server of ours, or an endpoint of others. ``base_url`` has ``/v1``."""

    base_url: str
    model: str
    kind: Literal["server", "endpoint"]


@dataclass(frozen=True)
class FrozenEntry:
    """One environment of the run.

    Attributes:
        manifest: as it was when the run began.
        agent, resources: where they are served; none: this worker does it itself.
        models: by role.
        digest: of what of it decides the content of the run, where the operator says it.
    """

    manifest: GymEnvironment
    agent: tuple[str, ...]
    resources: tuple[str, ...]
    models: Mapping[str, ModelAddress]
    digest: str | None = None


@dataclass(frozen=True)
class FrozenRun:
    """The run. ``digest`` is of what decides what is collected."""

    uid: str
    digest: str
    job: RolloutJob
    entries: Mapping[str, FrozenEntry]


def read_frozen(path: Path) -> FrozenRun:
    """The run of a mounted ``run.json``. Raises InvalidSpec."""
    try:
        raw = orjson.loads(path.read_bytes())
    except OSError as error:
        raise InvalidSpec(f"{path} cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise InvalidSpec(f"{path} is not JSON: {error}") from error
    try:
        if raw["schema"] != SCHEMA:
            raise InvalidSpec(
                f"{path} has schema {raw['schema']}; this worker reads {SCHEMA}. Use images of one version"
            )
        job = _job(raw, str(path))
        entries = {name: _entry(name, entry, str(path)) for name, entry in raw["environments"].items()}
        run = FrozenRun(str(raw["uid"]), str(raw["digest"]), job, entries)
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidSpec(f"{path} is no frozen run: {type(error).__name__}: {error}") from error
    missing = [entry.name for entry in job.spec.environments if entry.name not in run.entries]
    if missing:
        raise InvalidSpec(f"{path} lacks the environments of the entries {', '.join(missing)}")
    return run


def _job(raw: Mapping[str, Any], source: str) -> RolloutJob:
    metadata = {"name": raw["name"], "namespace": raw["namespace"]}
    manifest = {"apiVersion": API_VERSION, "kind": "RolloutJob", "metadata": metadata, "spec": raw["spec"]}
    job = manifest_from(manifest, source)
    assert isinstance(job, RolloutJob), "its kind says so"
    return job


def _entry(name: str, raw: Mapping[str, Any], source: str) -> FrozenEntry:
    manifest = manifest_from(raw["manifest"], f"{source}: environments.{name}.manifest")
    if not isinstance(manifest, GymEnvironment):
        raise InvalidSpec(f"{source}: environments.{name}.manifest is a {manifest.kind}, not a GymEnvironment")
    endpoints = raw["endpoints"]
    models = {
        role: ModelAddress(model["baseUrl"], model["model"], model["kind"])
        for role, model in (endpoints.get("models") or {}).items()
    }
    agent, resources = tuple(endpoints.get("agent") or ()), tuple(endpoints.get("resources") or ())
    return FrozenEntry(manifest, agent, resources, models, raw.get("digest"))
