"""From manifests, or an environment with flags, to a RunSpec."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from kubegym.core.errors import EnvironmentNotFound, InvalidSpec
from kubegym.core.spec import (
    Dataset,
    EnvironmentEntry,
    GymEnvironment,
    Manifest,
    ModelBinding,
    ModelServer,
    ModelServerSpec,
    RolloutJob,
    Sampling,
    did_you_mean,
    load_manifests,
    models_for,
)
from kubegym.core.tokens import Tokens
from kubegym.local.runspec import LOCAL_TASKS_PER_SHARD, DatasetRef, Entry, ModelRef, RunSpec
from kubegym.local.tasks import BUNDLED
from kubegym.resources.loader import APP, available_environments

MANIFEST = "environment.yaml"


@dataclass(frozen=True)
class RunFlags:
    """What the command line, or Python, says over the manifests; None where it says nothing.

    Raises:
        InvalidSpec: a number that cannot be meant.
    """

    dataset: str | None = None
    base_url: str | None = None
    model_server: str | None = None
    model: str | None = None
    engine: Literal["embedded", "simulated"] | None = None
    api_key_file: str | None = None
    limit: int | None = None
    offset: int | None = None
    shuffle_seed: int | None = None
    rollouts_per_task: int | None = None
    concurrency: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    seed: int | None = None
    max_steps: int | None = None
    output: str | None = None
    tokens: Tokens | None = None
    max_policy_version_lag: int | None = None
    materialized_inputs: bool = False
    agent_urls: tuple[str, ...] = ()
    resources_urls: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("limit", "rollouts_per_task", "concurrency", "max_output_tokens", "max_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidSpec(f"--{name.replace('_', '-')} must be at least 1, not {value}")
        for name in ("offset", "max_policy_version_lag"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InvalidSpec(f"--{name.replace('_', '-')} must be at least 0, not {value}")
        if self.agent_urls and self.resources_urls:
            raise InvalidSpec("--agent-url and --resources-url: an agent server knows its resources server; give one")

    def policy(self) -> ModelRef | None:
        """The policy model the flags name. Raises InvalidSpec for flags that do not go together."""
        if sum(given is not None for given in (self.base_url, self.model_server, self.engine)) > 1:
            raise InvalidSpec("--base-url, --model-server and --engine each name a model; give one")
        if self.model_server is not None:
            return ModelRef("server", self.model or "", base_url=self.model_server)
        if self.base_url is not None:
            if self.model is None:
                raise InvalidSpec("--base-url needs --model NAME, the name the endpoint serves")
            return ModelRef("endpoint", self.model, base_url=self.base_url, api_key_file=self.api_key_file)
        if self.engine == "embedded":
            path = self.model if self.model is not None and self.model.endswith(".gguf") else None
            return ModelRef("embedded", Path(path).stem if path else self.model or "tiny", path=path)
        if self.engine == "simulated":
            return ModelRef("simulated", self.model or "simulated")
        if self.model is not None:
            raise InvalidSpec("--model needs --base-url URL (with /v1), or --engine")
        return None

    def sampling(self) -> dict[str, Any]:
        """Create-params the flags set."""
        named = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_output_tokens": self.max_output_tokens,
        }
        return {name: value for name, value in named.items() if value is not None}


def resolve(targets: Sequence[str], flags: RunFlags | None = None) -> RunSpec:
    """What ``kubegym run TARGET...`` runs: manifest files, or one environment by folder or name.

    Raises:
        InputError: a target that is neither, manifests with problems, flags that cannot be meant.
    """
    flags = flags or RunFlags()
    if not targets:
        raise InvalidSpec("nothing to run: give an environment's folder or name, or manifest files")
    if len(targets) == 1 and not _is_manifest(targets[0]):
        return _with_flags(_of_environment(targets[0], flags), flags)
    for target in targets:
        if not _is_manifest(target):
            raise InvalidSpec(f"{target}: several targets must all be manifest files (.yaml)")
    sources = [(Path(target).parent, load_manifests(Path(target))) for target in targets]
    return _with_flags(_of_manifests(sources, flags, honour_output=True), flags)


def _is_manifest(target: str) -> bool:
    return target.endswith((".yaml", ".yml")) and not Path(target).is_dir()


def find_environment(reference: str) -> tuple[str, Path | None]:
    """What code a reference means: a folder's path, or a name, with the folder where there is one.

    Raises:
        EnvironmentNotFound: neither a folder with ``app.py`` nor a known name.
    """
    folder = Path(reference)
    if folder.is_dir():
        if not (folder / APP).is_file():
            raise EnvironmentNotFound(f"{reference} has no {APP}; an environment is a folder with an {APP}")
        return str(folder), folder
    if "/" in reference or reference.startswith("."):
        raise EnvironmentNotFound(f"{reference} is no folder")
    known = {available.name: available for available in available_environments()}
    found = known.get(reference) or known.get(reference.replace("-", "_")) or known.get(reference.replace("_", "-"))
    if found is None:
        raise EnvironmentNotFound(f"no environment is called {reference!r}" + did_you_mean(reference, known))
    return (str(found.folder) if found.folder else found.name), found.folder


def _of_environment(reference: str, flags: RunFlags) -> RunSpec:
    code, folder = find_environment(reference)
    manifest = folder / MANIFEST if folder else None
    manifests = load_manifests(manifest) if manifest and manifest.is_file() else []
    if flags.dataset is None and folder is not None and any(isinstance(m, RolloutJob) for m in manifests):
        return _of_manifests([(folder, manifests)], flags, honour_output=False)
    environments = [m for m in manifests if isinstance(m, GymEnvironment)]
    environment = environments[0] if environments else None
    name = environment.name if environment else Path(code).resolve().name if folder else code
    servers = [m for m in manifests if isinstance(m, ModelServer)]
    entry = _entry(name, code, environment, None, None, servers, flags)
    uri = BUNDLED if flags.dataset is None else flags.dataset
    return RunSpec(name=name, entries=(replace(entry, dataset=DatasetRef(uri)),))


def _of_manifests(
    sources: Sequence[tuple[Path, Sequence[Manifest]]], flags: RunFlags, *, honour_output: bool
) -> RunSpec:
    manifests = [manifest for _, loaded in sources for manifest in loaded]
    jobs = [manifest for manifest in manifests if isinstance(manifest, RolloutJob)]
    environments = {
        manifest.name: (manifest, folder)
        for folder, loaded in sources
        for manifest in loaded
        if isinstance(manifest, GymEnvironment)
    }
    servers = [manifest for manifest in manifests if isinstance(manifest, ModelServer)]
    if len(jobs) > 1:
        names = ", ".join(job.name for job in jobs)
        raise InvalidSpec(f"the manifests hold several RolloutJobs ({names}); give one at a time")
    if not jobs:
        if len(environments) != 1:
            raise InvalidSpec("the manifests hold no RolloutJob; add one, or name one environment with --dataset FILE")
        environment, folder = next(iter(environments.values()))
        entry = _entry(environment.name, _code(environment.name, folder), environment, None, None, servers, flags)
        dataset = DatasetRef(flags.dataset or BUNDLED)
        return RunSpec(name=environment.name, entries=(replace(entry, dataset=dataset),))
    job = jobs[0]
    entries = []
    for item in job.spec.environments:
        reference = item.environment_ref.name
        if reference in environments:
            environment, folder = environments[reference]
            entries.append(_entry(item.name, _code(reference, folder), environment, job, item, servers, flags))
        else:
            code, place = find_environment(reference)
            installed = _installed_manifest(place)
            entries.append(_entry(item.name, code, installed, job, item, servers, flags))
    return spec_of_job(job, entries, honour_output=honour_output)


def _code(name: str, folder: Path) -> str:
    """A manifest's code: the folder it lies in, else what is installed under its name."""
    return str(folder) if (folder / APP).is_file() else name


def _installed_manifest(folder: Path | None) -> GymEnvironment | None:
    if folder is None or not (folder / MANIFEST).is_file():
        return None
    found = [m for m in load_manifests(folder / MANIFEST) if isinstance(m, GymEnvironment)]
    return found[0] if found else None


def spec_of_job(job: RolloutJob, entries: Sequence[Entry], *, honour_output: bool) -> RunSpec:
    """A job's run, of resolved entries; without its output it writes below ``runs/``."""
    spec = job.spec
    output = spec.output
    place = output.uri if honour_output else None
    flush = output.flush
    return RunSpec(
        name=job.name,
        entries=tuple(entries),
        output=place,
        output_endpoint=output.endpoint if place else None,
        output_region=output.region if place else None,
        concurrency=spec.concurrency,
        tasks_per_shard=spec.sharding.tasks_per_shard if "sharding" in spec.model_fields_set else LOCAL_TASKS_PER_SHARD,
        flush_seconds=float(flush.seconds) if flush.seconds is not None else None,
        flush_bytes=flush.megabytes << 20,
        compression=output.compression,
        max_attempts=spec.failure_policy.max_rollout_attempts,
        max_failed_fraction=float(spec.failure_policy.max_failed_rollout_fraction),
        tokens=output.tokens,
        max_policy_version_lag=spec.max_policy_version_lag,
    )


def _entry(
    name: str,
    code: str,
    environment: GymEnvironment | None,
    job: RolloutJob | None,
    item: EnvironmentEntry | None,
    servers: Sequence[ModelServer],
    flags: RunFlags,
) -> Entry:
    bindings = dict(environment.spec.models) if environment else {}
    if item is not None:
        bindings = models_for(item, environment) if environment else dict(item.models)
    policy = flags.policy()
    models = {
        role: _model(f"{name}: models.{role}", role, binding, servers)
        for role, binding in bindings.items()
        if role != "policy" or policy is None
    }
    if policy is not None:
        models["policy"] = policy
    return entry_of(name, code, environment, job, item, models, _dataset(item.dataset) if item else None)


def entry_of(
    name: str,
    code: str,
    environment: GymEnvironment | None,
    job: RolloutJob | None,
    item: EnvironmentEntry | None,
    models: dict[str, ModelRef],
    dataset: DatasetRef | None,
) -> Entry:
    """An entry of a run: what the manifests say of it, with models and rows resolved.

    Args:
        name: the entry's.
        code: folder or name of the environment's code.
        environment: its manifest, if it has one.
        job: the job that it is part of, if it is part of one.
        item: what the job says of it.
        models: by role.
        dataset: its rows; None where they are still to be named.
    """
    sampling = Sampling()
    rollouts = 1
    if job is not None and item is not None:
        sampling = (item.sampling or Sampling()).over(job.spec.sampling)
        rollouts = item.rollouts_per_task or job.spec.rollouts_per_task
    environment_spec = environment.spec if environment else None
    return Entry(
        name=name,
        environment=code,
        models=models,
        dataset=dataset,
        config=dict(environment_spec.resources.config) if environment_spec else {},
        rollouts_per_task=rollouts,
        weight=float(item.weight) if item else 1.0,
        agent_refs=item.agent_refs if item else (),
        harness=environment_spec.agent.harness if environment_spec else "simple",
        harness_config=dict(environment_spec.agent.config) if environment_spec else {},
        sampling=_create_params(sampling),
        max_steps=environment_spec.agent.max_steps if environment_spec else None,
        max_total_tokens=sampling.max_total_tokens,
        rollout_timeout=float(environment_spec.rollout_timeout_seconds) if environment_spec else 3600.0,
        seed=sampling.seed,
        on_truncated=job.spec.on_truncated if job else "Verify",
    )


def _create_params(sampling: Sampling) -> dict[str, Any]:
    params = sampling.create_params()
    metadata = {
        name: json.dumps(value)
        for name, value in (
            ("extra_body", sampling.extra_body),
            ("chat_template_kwargs", sampling.chat_template_kwargs),
        )
        if value
    }
    return {**params, "metadata": metadata} if metadata else params


def _dataset(dataset: Dataset) -> DatasetRef:
    if dataset.config_map_ref is not None:
        raise InvalidSpec("dataset.configMapRef exists on a cluster only; give --dataset FILE")
    return dataset_ref(dataset, dataset.uri or BUNDLED)


def dataset_ref(dataset: Dataset, uri: str) -> DatasetRef:
    """The rows of a manifest's dataset, which lie at ``uri``."""
    return DatasetRef(
        uri=uri.removeprefix("file://") if uri.startswith("file://") else uri,
        format=dataset.format,
        sha256=dataset.sha256,
        offset=dataset.offset,
        limit=dataset.limit,
        shuffle_seed=dataset.shuffle.seed if dataset.shuffle else None,
        revision=dataset.revision,
        endpoint=dataset.endpoint,
        region=dataset.region,
    )


MOUNTED_KEYS = Path("/var/run/secrets/kubegym")
"""Where pods find their Secrets, a folder each."""


def _model(where: str, role: str, binding: ModelBinding, servers: Sequence[ModelServer]) -> ModelRef:
    if binding.endpoint is not None:
        endpoint, key = binding.endpoint, binding.endpoint.api_key_secret_ref
        mounted = MOUNTED_KEYS / f"model-{role}" / key.key if key else None
        file = str(mounted) if mounted is not None and mounted.is_file() else None
        return ModelRef("endpoint", endpoint.model, base_url=endpoint.base_url, api_key_file=file)
    if binding.server is not None:
        return _server(where, binding.server)
    assert binding.server_ref is not None, "a binding has exactly one of three"
    wanted = binding.server_ref.name
    for server in servers:
        if server.name == wanted:
            return _server(where, server.spec)
    known = {server.name for server in servers}
    raise InvalidSpec(f"{where}.serverRef: no ModelServer {wanted!r} in the manifests" + did_you_mean(wanted, known))


def _server(where: str, server: ModelServerSpec) -> ModelRef:
    name = server.served_model_name
    if server.engine == "simulated":
        return ModelRef("simulated", name or "simulated", options=_simulated_answers(server.engine_args))
    if server.engine == "embedded":
        source = server.weights.uri if server.weights else server.source.uri if server.source else None
        if source is None:
            return ModelRef("embedded", name or "tiny")
        if not source.startswith("file://"):
            raise InvalidSpec(f"{where}: an embedded engine on this machine reads file:// weights, not {source}")
        path = source.removeprefix("file://")
        return ModelRef("embedded", name or Path(path).stem, path=path)
    raise InvalidSpec(
        f"{where}: engine {server.engine} is started on a cluster; on this machine give --base-url URL --model NAME "
        "of a running server, or --engine embedded"
    )


def _simulated_answers(arguments: Mapping[str, str]) -> dict[str, Any]:
    """What decides a simulated engine's answers; its latencies are for servers, on this machine it answers at once."""
    options: dict[str, Any] = {}
    answers = {name: arguments[name] for name in ("mode", "text") if name in arguments}
    if answers:
        options["answers"] = answers
    if "seed" in arguments:
        options["seed"] = int(arguments["seed"])
    return options


def _with_flags(spec: RunSpec, flags: RunFlags) -> RunSpec:
    entries = []
    for entry in spec.entries:
        dataset = entry.dataset or DatasetRef(BUNDLED)
        if flags.dataset is not None:
            dataset = DatasetRef(flags.dataset)
        if flags.limit is not None:
            dataset = replace(dataset, limit=flags.limit)
        if flags.offset is not None:
            dataset = replace(dataset, offset=flags.offset)
        if flags.shuffle_seed is not None:
            dataset = replace(dataset, shuffle_seed=flags.shuffle_seed)
        entries.append(
            replace(
                entry,
                dataset=dataset,
                rollouts_per_task=flags.rollouts_per_task or entry.rollouts_per_task,
                sampling={**entry.sampling, **flags.sampling()},
                seed=entry.seed if flags.seed is None else flags.seed,
                max_steps=flags.max_steps or entry.max_steps,
                agent_urls=flags.agent_urls,
                resources_urls=flags.resources_urls,
            )
        )
    if flags.dataset is not None and len(entries) > 1:
        raise InvalidSpec("--dataset is for one environment; this job has several")
    lag = flags.max_policy_version_lag
    return replace(
        spec,
        entries=tuple(entries),
        output=flags.output or spec.output,
        output_endpoint=None if flags.output else spec.output_endpoint,
        concurrency=flags.concurrency or spec.concurrency,
        tokens=flags.tokens or spec.tokens,
        max_policy_version_lag=spec.max_policy_version_lag if lag is None else lag,
        materialized_inputs=flags.materialized_inputs or spec.materialized_inputs,
    )
