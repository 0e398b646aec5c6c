"""From a frozen run to a RunSpec, the form in which the engine takes runs; pure but for looking what is mounted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kubegym.core.errors import InvalidSpec
from kubegym.core.spec import Dataset, EnvironmentEntry, Output, models_for
from kubegym.local.episodes import LocalEpisodes
from kubegym.local.localrun import make_draft
from kubegym.local.resolve import dataset_ref, entry_of, spec_of_job
from kubegym.local.runspec import DatasetRef, Entry, ModelRef, RunSpec
from kubegym.local.tasks import BUNDLED, RunTasks
from kubegym.pods.frozen import FrozenEntry, FrozenRun, ModelAddress
from kubegym.pods.settings import PodSettings
from kubegym.rollout import Draft

_STORES = frozenset({"s3", "gs", "az"})


def run_spec(run: FrozenRun, settings: PodSettings, *, rows: bool = True) -> RunSpec:
    """The run for the engine.

    Args:
        run: as it was frozen.
        settings: of the pod.
        rows: whether rows are read; otherwise they need not be mounted.

    Raises:
        InvalidSpec: something that should be mounted is not there.
    """
    job = run.job
    output = job.spec.output
    entries = [_entry(run, item, settings, rows) for item in job.spec.environments]
    return replace(
        spec_of_job(job, entries, honour_output=True),
        tasks_per_shard=job.spec.sharding.tasks_per_shard,  # shared with others, unlike on one machine
        output_credentials=_mounted(settings.secret("output")) if output.credentials_secret_ref else None,
        output_ca_bundle=_authority(output, settings),
    )


def run_draft(run: FrozenRun, spec: RunSpec, episodes: LocalEpisodes, tasks: RunTasks) -> Draft:
    """The plan that the run asks for, with what the operator knows of it and the worker does not."""
    draft = make_draft(spec, episodes, tasks)
    digests = {name: entry.digest for name, entry in run.entries.items() if entry.digest is not None}
    environments = tuple(
        {**environment, "frozen": digests[environment["name"]]} if environment["name"] in digests else environment
        for environment in draft.environments
    )
    job: dict[str, Any] = {"uid": run.uid, "namespace": run.job.metadata.namespace, "digest": run.digest}
    return replace(draft, environments=environments, extra={**(draft.extra or {}), "job": job})


def _entry(run: FrozenRun, item: EnvironmentEntry, settings: PodSettings, rows: bool) -> Entry:
    frozen = run.entries[item.name]
    manifest = frozen.manifest
    keys = _key_files(item, frozen, settings)
    models = {role: _model(role, address, keys) for role, address in frozen.models.items()}
    if "policy" not in models:
        raise InvalidSpec(f"{item.name}: no model plays the policy: set models.policy of the environment or the entry")
    dataset = _dataset(run.job.spec.output, item, settings) if rows else None
    entry = entry_of(item.name, manifest.name, manifest, run.job, item, models, dataset)
    served = manifest.spec.resources.placement != "Worker"
    return replace(
        entry,
        agent_urls=frozen.agent,
        agent_policy=models["policy"] if frozen.agent else None,
        resources_urls=() if frozen.agent else frozen.resources,
        image=manifest.spec.resources.image if served else None,
        version=manifest.version,
        images="multi-modal" in manifest.traits.get("rollout-structure", ()),
    )


def _key_files(item: EnvironmentEntry, frozen: FrozenEntry, settings: PodSettings) -> Mapping[str, str]:
    """The mounted key of each role that has one."""
    files: dict[str, str] = {}
    for role, binding in models_for(item, frozen.manifest).items():
        reference = binding.endpoint.api_key_secret_ref if binding.endpoint is not None else None
        if reference is not None:
            files[role] = str(settings.secret(f"model-{item.name}-{role}") / reference.key)
    return files


def _model(role: str, address: ModelAddress, keys: Mapping[str, str]) -> ModelRef:
    return ModelRef(address.kind, address.model, base_url=address.base_url, api_key_file=keys.get(role))


def _dataset(output: Output, item: EnvironmentEntry, settings: PodSettings) -> DatasetRef:
    dataset = item.dataset
    if dataset.config_map_ref is not None:
        folder = settings.dataset(item.name)
        file = folder / dataset.config_map_ref.key if dataset.config_map_ref.key else _only_file(folder)
        reference = dataset_ref(dataset, str(file))
        known = file.suffix in (".jsonl", ".ndjson", ".zst", ".parquet")
        return reference if known or reference.format else replace(reference, format="jsonl")
    reference = dataset_ref(dataset, dataset.uri or BUNDLED)
    own = _mounted(settings.secret(f"dataset-{item.name}")) if dataset.credentials_secret_ref else None
    return _reached(reference, dataset, own, output, settings)


def _reached(
    reference: DatasetRef, dataset: Dataset, own: str | None, output: Output, settings: PodSettings
) -> DatasetRef:
    """Rows in the output's kind of store are reached as that is, where they say nothing of their own."""
    scheme = urlsplit(reference.uri).scheme
    if scheme not in _STORES or scheme != urlsplit(output.uri).scheme:
        return replace(reference, credentials=own)
    shared = _mounted(settings.secret("output")) if output.credentials_secret_ref else None
    elsewhere = dataset.endpoint is not None and dataset.endpoint != output.endpoint
    return replace(
        reference,
        endpoint=dataset.endpoint or output.endpoint,
        region=dataset.region or output.region,
        credentials=own or shared,
        ca_bundle=None if elsewhere else _authority(output, settings),
    )


def _authority(output: Output, settings: PodSettings) -> str | None:
    reference = output.ca_config_map_ref
    if reference is None:
        return None
    folder = settings.authority("output")
    return str(folder / reference.key if reference.key else _only_file(folder))


def _mounted(folder: Path) -> str:
    if not folder.is_dir():
        raise InvalidSpec(f"{folder} is not mounted, although the job names a Secret for it")
    return str(folder)


def _only_file(folder: Path) -> Path:
    """The one key of a mounted ConfigMap. Kubernetes' own files there begin with a dot."""
    files = sorted(path for path in folder.glob("[!.]*") if path.is_file())
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise InvalidSpec(f"{folder} should hold one file ({names}): name the ConfigMap's key in the reference")
    return files[0]
