"""RolloutJob: which tasks of which environments, how often, where to, how fast (DESIGN section 5)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from kubegym.core.spec.common import (
    Compute,
    ConfigMapRef,
    DnsLabel,
    FreeObject,
    HttpUrl,
    Image,
    KubeObject,
    NamedRef,
    NonNegativeInt,
    PositiveInt,
    Queue,
    Seconds,
    SecretRef,
    Seed,
    SpecModel,
    Text,
    fraction,
    require_exactly_one,
)
from kubegym.core.spec.model import ModelsByRole

DatasetUri = Annotated[str, StringConstraints(pattern=r"^(s3|gs|az|hf|https|file)://\S+$", max_length=1024)]
OutputUri = Annotated[str, StringConstraints(pattern=r"^(s3|gs|az|file)://\S+$", max_length=1024)]
"""A prefix of an object store; ``file://`` is for runs on one machine (a shared volume has no compare-and-swap)."""

Attempts = Annotated[int, Field(ge=1, le=100)]
RolloutsPerTask = Annotated[int, Field(ge=1, le=100_000)]


class Sampling(SpecModel):
    """Sampling of the policy model: over a row's own parameters, only where set."""

    temperature: Annotated[str, fraction("0", "2")] | None = None
    top_p: Annotated[str, fraction("0", "1")] | None = None
    max_output_tokens: PositiveInt | None = None
    max_total_tokens: PositiveInt | None = None
    seed: Seed | None = None
    extra_body: FreeObject | None = None
    chat_template_kwargs: FreeObject | None = None

    def create_params(self) -> dict[str, Any]:
        """What is set of the parameters that ``responses_create_params`` knows (contract 1.4), as numbers."""
        params: dict[str, Any] = {}
        if self.temperature is not None:
            params["temperature"] = float(self.temperature)
        if self.top_p is not None:
            params["top_p"] = float(self.top_p)
        if self.max_output_tokens is not None:
            params["max_output_tokens"] = self.max_output_tokens
        return params

    def over(self, base: Sampling | None) -> Sampling:
        """This sampling where it is set, ``base`` elsewhere."""
        if base is None:
            return self
        mine = {name: getattr(self, name) for name in type(self).model_fields if getattr(self, name) is not None}
        return base.model_copy(update=mine)


class Bundled(SpecModel):
    """The environment's own ``data/example.jsonl``."""


class Shuffle(SpecModel):
    """A permutation of the rows that the seed determines."""

    seed: Seed


class Dataset(SpecModel):
    """Rows: from a URI, a ConfigMap, or the environment's own; ``offset`` and ``limit`` count rows after shuffling."""

    uri: DatasetUri | None = None
    config_map_ref: ConfigMapRef | None = None
    bundled: Bundled | None = None
    revision: Text | None = None
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    format: Literal["jsonl", "jsonl.zst", "parquet"] | None = None
    offset: NonNegativeInt = 0
    limit: PositiveInt | None = None
    shuffle: Shuffle | None = None
    endpoint: HttpUrl | None = None
    region: Text | None = None
    credentials_secret_ref: SecretRef | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        require_exactly_one(self, "uri", "config_map_ref", "bundled")
        if self.revision is not None and self.sha256 is not None:
            raise ValueError("revision and sha256 both pin the rows: set one")
        return self


class EnvironmentEntry(SpecModel):
    """One environment of the job.

    A row goes to the entry whose ``agentRefs`` has its ``agent_ref.name``; else to the entry its dataset belongs to.
    ``weight`` is this entry's share of the admitted rollouts; every dataset is used whole.
    """

    name: DnsLabel
    environment_ref: NamedRef
    agent_refs: Annotated[tuple[Text, ...], Field(strict=False, max_length=64)] = ()
    weight: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    rollouts_per_task: RolloutsPerTask | None = None
    sampling: Sampling | None = None
    models: ModelsByRole = Field(default_factory=dict)
    dataset: Dataset


class Group(SpecModel):
    """Which groups are delivered and exported. The record always has all of them."""

    min_scored: PositiveInt | None = None
    on_partial: Literal["Deliver", "Drop"] = "Deliver"
    drop_zero_variance: bool = False


class Sharding(SpecModel):
    """How tasks are cut into shards, which workers claim."""

    tasks_per_shard: Annotated[int, Field(ge=1, le=100_000)] = 32


class Flush(SpecModel):
    """When finished rollouts become durable, at the latest. ``seconds`` left out: 10, on a local disk 1."""

    seconds: Annotated[int, Field(ge=1, le=3600)] | None = None
    megabytes: Annotated[int, Field(ge=1, le=1024)] = 8


class Output(SpecModel):
    """Where results go."""

    uri: OutputUri
    endpoint: HttpUrl | None = None
    region: Text | None = None
    credentials_secret_ref: SecretRef | None = None
    ca_config_map_ref: ConfigMapRef | None = None
    compression: Literal["zstd", "none"] = "zstd"
    merge: bool = False
    flush: Flush = Field(default_factory=Flush)


class FailurePolicy(SpecModel):
    """Bounds of trying again, and how many failed rollouts a run may have and still be complete."""

    backoff_limit: NonNegativeInt = 20
    max_rollout_attempts: Attempts = 3
    max_failed_rollout_fraction: Annotated[str, fraction("0", "1")] = "0.05"


class WorkerSpec(SpecModel):
    """The worker pods."""

    image: Image | None = None
    compute: Compute | None = None
    service_account_name: DnsLabel | None = None
    allowed_egress: Annotated[tuple[FreeObject, ...], Field(strict=False, max_length=32)] = ()
    pod_template: FreeObject | None = None


class RolloutJobSpec(SpecModel):
    """What is collected (immutable on a cluster) and how fast (mutable)."""

    environments: Annotated[tuple[EnvironmentEntry, ...], Field(strict=False, min_length=1, max_length=32)]
    rollouts_per_task: RolloutsPerTask = 1
    group: Group = Field(default_factory=Group)
    sampling: Sampling = Field(default_factory=Sampling)
    sharding: Sharding = Field(default_factory=Sharding)
    parallelism: Annotated[int, Field(ge=0, le=10_000)] = 1
    concurrency: Annotated[int, Field(ge=1, le=100_000)] = 32
    max_policy_version_lag: NonNegativeInt | None = None
    on_truncated: Literal["Verify", "Skip"] = "Verify"
    output: Output
    suspend: bool = False
    active_deadline_seconds: Seconds | None = None
    pre_running_deadline_seconds: Seconds | None = None
    ttl_seconds_after_finished: NonNegativeInt | None = None
    managed_by: Text | None = None
    failure_policy: FailurePolicy = Field(default_factory=FailurePolicy)
    queue: Queue | None = None
    worker: WorkerSpec = Field(default_factory=WorkerSpec)

    @model_validator(mode="after")
    def _rows_have_one_home(self) -> Self:
        names = [entry.name for entry in self.environments]
        claims = [agent for entry in self.environments for agent in entry.agent_refs]
        for what, values in (("environments: name", names), ("environments: agentRefs", claims)):
            repeated = sorted({value for value in values if values.count(value) > 1})
            if repeated:
                raise ValueError(f"{what} {', '.join(map(repr, repeated))} occurs more than once")
        return self


class RolloutJob(KubeObject):
    """A collection run."""

    kind: Literal["RolloutJob"] = "RolloutJob"
    spec: RolloutJobSpec
