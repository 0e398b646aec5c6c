"""What a local run does, fully resolved: the hand-over from manifests, flags or Python to the engine.

A RunSpec is plain data. It travels with the plan (``extra.run``), so that ``kubegym retry`` and the isolated children
of the poison rule can rebuild environments and models from it alone. Secrets are not part of it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from kubegym.core.ids import canonical_json, digest
from kubegym.core.tokens import Tokens
from kubegym.rollout import Compression
from kubegym.storage.options import MountedCredentials, StoreOptions

LOCAL_TASKS_PER_SHARD = 128
"""Tasks in a shard of a run on one machine, four times a Job's default: the one worker shares with nobody, and a
shard of short rollouts costs as much as ten of them."""


@dataclass(frozen=True)
class ModelRef:
    """A model by how it is reached.

    Attributes:
        kind: ``endpoint`` (any OpenAI-compatible server), ``server`` (a model server of ours or NeMo Gym's, asked by
            ``/v1/responses``), ``embedded`` (llama.cpp in process), ``simulated``.
        model: the name asked for, and what rows say.
        base_url: of an endpoint, with ``/v1``.
        path: GGUF file of an embedded engine; None is the shipped model.
        api_key_file: file with the key; None takes it from the environment.
        options: of a simulated engine.
    """

    kind: Literal["endpoint", "server", "embedded", "simulated"]
    model: str
    base_url: str | None = None
    path: str | None = None
    api_key_file: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """What of it decides the content of a run: not where the endpoint happens to be."""
        identity: dict[str, Any] = {"kind": self.kind, "model": self.model}
        if self.kind == "embedded":
            identity["weights"] = _weights(self.path)
        if self.options:
            identity["options"] = self.options
        return identity


def _weights(path: str | None) -> str:
    if path is None:
        return "shipped"
    file = Path(path)
    return f"{file.name}:{file.stat().st_size}" if file.exists() else file.name


@dataclass(frozen=True)
class DatasetRef:
    """Rows of an entry: a path or URL, and which of them.

    ``revision`` is of a repository of the hub; endpoint, region and ``credentials`` (the folder of a mounted Secret)
    and ``ca_bundle`` say how a store is reached.
    """

    uri: str
    format: str | None = None
    sha256: str | None = None
    offset: int = 0
    limit: int | None = None
    shuffle_seed: int | None = None
    revision: str | None = None
    endpoint: str | None = None
    region: str | None = None
    credentials: str | None = None
    ca_bundle: str | None = None


@dataclass(frozen=True)
class Entry:
    """One environment of a run.

    Attributes:
        name: of the entry.
        environment: folder or name for ``load_environment``, or ``module:Class``.
        config: the environment's configuration.
        models: by role; ``policy`` is there.
        dataset: None where the rows are handed over in Python.
        rollouts_per_task, weight, agent_refs: as in the manifest.
        harness, harness_config: the agent's loop, and its settings.
        sampling: Responses create-params over the rows' own.
        max_steps, max_total_tokens, rollout_timeout: limits.
        seed: of the sampling; None sends none.
        on_truncated: what becomes of truncated conversations.
        agent_urls: replicas of an agent server that makes the attempts; none: this process makes them.
        agent_policy: the model that these ask, as they reach it, where that is known; no part of what is collected.
        resources_urls: replicas of the resources server that holds the sessions; none: this process holds them.
        image: where the environment's code is, if that is not here; it is then served from there.
        version: of such an environment.
        images: whether it says that it has some.
    """

    name: str
    environment: str
    models: dict[str, ModelRef]
    dataset: DatasetRef | None = None
    config: dict[str, Any] = field(default_factory=dict)
    rollouts_per_task: int = 1
    weight: float = 1.0
    agent_refs: tuple[str, ...] = ()
    harness: str = "simple"
    harness_config: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    max_steps: int | None = None
    max_total_tokens: int | None = None
    rollout_timeout: float = 3600.0
    seed: int | None = None
    on_truncated: Literal["Verify", "Skip"] = "Verify"
    agent_urls: tuple[str, ...] = ()
    agent_policy: ModelRef | None = None
    resources_urls: tuple[str, ...] = ()
    image: str | None = None
    version: str | None = None
    images: bool = False

    @property
    def served(self) -> bool:
        """Whether its sessions are held elsewhere."""
        return bool(self.agent_urls or self.resources_urls)


@dataclass(frozen=True)
class RunSpec:
    """A run.

    Attributes:
        name: of the RolloutJob or the environment.
        entries: its environments.
        output: folder or URL; None for the default folder.
        output_endpoint, output_region, output_ca_bundle: of an S3-compatible store.
        output_credentials: the folder of a mounted Secret; None takes the environment's.
        concurrency, flush_seconds, flush_bytes: pace.
        compression: of the parts that are written.
        tasks_per_shard: size of a new run's shards; larger than a Job's, as one worker shares with nobody.
        max_attempts, max_failed_fraction: the failure policy.
        tokens: what is kept of token ids.
        max_policy_version_lag: see ``rollout.lag``.
        materialized_inputs: also write ``rollouts_materialized_inputs.jsonl``.
    """

    name: str
    entries: tuple[Entry, ...]
    output: str | None = None
    output_endpoint: str | None = None
    output_region: str | None = None
    output_credentials: str | None = None
    output_ca_bundle: str | None = None
    concurrency: int = 32
    tasks_per_shard: int = LOCAL_TASKS_PER_SHARD
    flush_seconds: float | None = None
    flush_bytes: int = 8 << 20
    compression: Compression = "zstd"
    max_attempts: int = 3
    max_failed_fraction: float = 0.05
    tokens: Tokens = "None"
    max_policy_version_lag: int | None = None
    materialized_inputs: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        raw: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return raw

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> RunSpec:
        """The spec ``to_json`` made."""
        entries = []
        for entry in raw["entries"]:
            models = {role: ModelRef(**model) for role, model in entry["models"].items()}
            dataset = DatasetRef(**entry["dataset"]) if entry["dataset"] else None
            policy = ModelRef(**entry["agent_policy"]) if entry.get("agent_policy") else None
            tuples = {name: tuple(entry[name]) for name in ("agent_refs", "agent_urls", "resources_urls")}
            entries.append(Entry(**{**entry, **tuples, "models": models, "agent_policy": policy, "dataset": dataset}))
        return cls(**{**raw, "entries": tuple(entries)})


def store_options(
    endpoint: str | None, region: str | None, credentials: str | None, ca_bundle: str | None
) -> StoreOptions:
    """How a store is reached, of the plain values that a spec holds."""
    return StoreOptions(
        endpoint=endpoint,
        region=region,
        credentials=MountedCredentials(Path(credentials)) if credentials else None,
        ca_bundle=Path(ca_bundle) if ca_bundle else None,
    )


def default_output(name: str, content: Any) -> str:
    """``runs/<environment>/<digest>`` of what a run collects: the same resumes, an edited verifier begins anew."""
    return f"runs/{name}/{digest(canonical_json(content))[:12]}"
