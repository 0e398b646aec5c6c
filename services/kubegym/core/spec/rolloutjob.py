"""RolloutJob: which tasks of which environments, how often, where to, how fast (DESIGN section 5)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from kubegym.core.spec.common import (
    Compute,
    ConfigMapRef,
    Decimals,
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
from kubegym.core.tokens import Tokens

DatasetUri = Annotated[str, StringConstraints(pattern=r"^(s3|gs|az|hf|https|file)://\S+$", max_length=1024)]
OutputUri = Annotated[str, StringConstraints(pattern=r"^(s3|gs|az|file)://\S+$", max_length=1024)]
"""A prefix of an object store; ``file://`` is for runs on one machine (a shared volume has no compare-and-swap)."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", max_length=64)]
Attempts = Annotated[int, Field(ge=1, le=100)]
RolloutsPerTask = Annotated[int, Field(ge=1, le=100_000)]


class Sampling(SpecModel):
    """Sampling of the policy model: over a row's own parameters, only where set."""

    temperature: Annotated[Decimals, fraction("0", "2")] | None = None
    """From 0 to 2, as a string such as `"0.7"`. Left out, the row's, else the model's default."""
    top_p: Annotated[Decimals, fraction("0", "1")] | None = None
    """From 0 to 1, as a string such as `"0.95"`. Left out, the row's, else the model's default."""
    max_output_tokens: PositiveInt | None = None
    """Most tokens of one reply. A reply cut there is verified as `onTruncated` says."""
    max_total_tokens: PositiveInt | None = None
    """Most tokens the model may write in a whole rollout; at the bound it ends with stop reason `token_budget`."""
    seed: Seed | None = None
    """Every model call gets a seed derived from this one, task, rollout and turn. Left out, none is sent; sampled text
    is not promised to repeat either way.
    """
    extra_body: FreeObject | None = None
    """Further fields of the request body that the engine understands, such as `min_p` or `guided_json`."""
    chat_template_kwargs: FreeObject | None = None
    """Arguments of the model's chat template, such as `enable_thinking: false`."""

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
    """The same seed gives the same order."""


class Dataset(SpecModel):
    """Rows: from a URI, a ConfigMap, or the environment's own; ``offset`` and ``limit`` count rows after shuffling."""

    uri: DatasetUri | None = None
    """A file: `s3://`, `gs://`, `az://`, `hf://` (a dataset of the Hugging Face hub) or `https://`. A local run also
    reads `file://`.
    """
    config_map_ref: ConfigMapRef | None = None
    """A key of a ConfigMap with JSON lines, for small sets (a ConfigMap holds 1 MiB)."""
    bundled: Bundled | None = None
    """`{}`: the rows that come with the environment's code."""
    revision: Text | None = None
    """Commit or tag of a dataset of the hub. Left out, what is found when the plan is made is resolved and kept."""
    sha256: Sha256 | None = None
    """SHA-256 of the file in lower-case hex. Other content fails the job with reason `DatasetChanged`."""
    format: Literal["jsonl", "jsonl.zst", "parquet"] | None = None
    """Format of the file. Left out, its name's ending says it."""
    offset: NonNegativeInt = 0
    """Rows to leave out at the beginning, after shuffling."""
    limit: PositiveInt | None = None
    """Most rows to take, after `offset`. Left out, all. A further job on the same output may raise it."""
    shuffle: Shuffle | None = None
    """Order of the rows. Left out, the file's."""
    endpoint: HttpUrl | None = None
    """Address of the S3-compatible server that holds the file. Left out, the output's for `s3://`."""
    region: Text | None = None
    """Region of the bucket. Left out, the output's."""
    credentials_secret_ref: SecretRef | None = None
    """Secret with `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (`AWS_SESSION_TOKEN`),
    `GOOGLE_APPLICATION_CREDENTIALS_JSON`, `AZURE_STORAGE_ACCOUNT_KEY`, or `HF_TOKEN`. Left out, the output's.
    """

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
    """Name of the entry, unique in the job. Rows carry it."""
    environment_ref: NamedRef
    """The GymEnvironment, in the same namespace."""
    agent_refs: Annotated[tuple[Text, ...], Field(strict=False, max_length=16)] = ()
    """Values of a row's `agent_ref.name` that belong to this entry; no two entries may have the same. Left out, the
    entry takes the rows of its dataset that no other entry claims.
    """
    weight: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Share of this entry in the rollouts that are admitted, against the weights of the others. Every dataset is used
    whole.
    """
    rollouts_per_task: RolloutsPerTask | None = None
    """Rollouts of each task of this entry. Left out, the job's."""
    sampling: Sampling | None = None
    """Sampling of this entry, over the job's where set."""
    models: ModelsByRole = Field(default_factory=dict)
    """Models of this entry by role, over the environment's."""
    dataset: Dataset
    """Rows of this entry: exactly one of uri, configMapRef, bundled."""


class Group(SpecModel):
    """Which groups are delivered and exported. The record always has all of them."""

    min_scored: PositiveInt | None = None
    """Rollouts of a task that must be scored for its group to count as whole; at most rolloutsPerTask. Left out, all.
    """
    on_partial: Literal["Deliver", "Drop"] = "Deliver"
    """What happens to a group with fewer: `Deliver` its scored rollouts, or `Drop` it. The record keeps all of them."""
    drop_zero_variance: bool = False
    """True drops groups whose rewards are all equal, from which a relative advantage learns nothing. The record keeps
    them.
    """


class Sharding(SpecModel):
    """How tasks are cut into shards, which workers claim."""

    tasks_per_shard: Annotated[int, Field(ge=1, le=100_000)] = 32
    """Tasks in a shard. Small shards balance better and lose less when a worker dies; each costs an object or two in
    the store.
    """


class Flush(SpecModel):
    """When finished rollouts become durable, at the latest. ``seconds`` left out: 10, on a local disk 1."""

    seconds: Annotated[int, Field(ge=1, le=3600)] | None = None
    """Seconds after which a finished rollout is durable at the latest. Left out, 10; on a local disk 1."""
    megabytes: Annotated[int, Field(ge=1, le=1024)] = 8
    """Megabytes of finished rollouts that make a worker write before that."""


class Output(SpecModel):
    """Where results go."""

    uri: OutputUri
    """Prefix for the run's files: `s3://bucket/prefix/`, `gs://` or `az://`. The store must support conditional writes.
    A local run also writes `file://`. A further job with the same spec and output goes on where this one ended.
    """
    endpoint: HttpUrl | None = None
    """Address of an S3-compatible server. Left out, the provider's own."""
    region: Text | None = None
    """Region of the bucket. Left out, the provider's default."""
    credentials_secret_ref: SecretRef | None = None
    """Secret with `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (`AWS_SESSION_TOKEN`),
    `GOOGLE_APPLICATION_CREDENTIALS_JSON`, `AZURE_STORAGE_ACCOUNT_KEY`. Left out, the pod's own identity is used.
    """
    ca_config_map_ref: ConfigMapRef | None = None
    """Certificates (PEM) that `endpoint` is verified with, where a public authority did not sign it."""
    compression: Literal["zstd", "none"] = "zstd"
    """Compression of part files: `zstd` writes `shards/<i>/<epoch>-<n>.jsonl.zst`, `none` plain `.jsonl`."""
    tokens: Tokens = "None"
    """Token ids and log-probs of the policy's calls, for training: `Samples` keeps them in an Arrow file beside each
    part, `Inline` in the rows as NeMo Gym does (many times the size), `None` asks for none. The model must tell them,
    as vLLM does.
    """
    merge: bool = False
    """True also writes `rollouts.jsonl`, `rollouts_failures.jsonl` and aggregate metrics, as NeMo Gym does, when the
    run is complete.
    """
    flush: Flush = Field(default_factory=Flush)
    """When finished rollouts become durable."""


class FailurePolicy(SpecModel):
    """Bounds of trying again, and how many failed rollouts a run may have and still be complete."""

    backoff_limit: NonNegativeInt = 20
    """Worker pods that may fail before the job fails with reason `BackoffLimitExceeded`. Evicted and preempted pods do
    not count.
    """
    max_rollout_attempts: Attempts = 3
    """Attempts at a rollout while infrastructure fails; after the last one it counts as failed. A length, a text or a
    reward never leads to another attempt.
    """
    max_failed_rollout_fraction: Annotated[Decimals, fraction("0", "1")] = "0.05"
    """Share of failed rollouts, from 0 to 1, as a string. Above it the job is halted with RewardIntegrity False and
    fails with reason `RolloutFailureBudgetExceeded`. The operator counts over all workers, every 30 s and at the end; a
    worker that alone has failed so many stops at once.
    """


class WorkerSpec(SpecModel):
    """The worker pods."""

    image: Image | None = None
    """Image of the worker pods. Left out, KubeGym's agent image, or the environment's where its placement is Worker."""
    compute: Compute | None = None
    """Requests and limits of the container."""
    service_account_name: DnsLabel | None = None
    """ServiceAccount of the pods, for the store's identity. Left out, one without permissions. Its token is never
    mounted.
    """
    allowed_egress: Annotated[tuple[FreeObject, ...], Field(strict=False, max_length=32)] = ()
    """Further destinations of worker pods, each a NetworkPolicyEgressRule (`to`, `ports`), such as a store inside the
    cluster.
    """
    pod_template: FreeObject | None = None
    """What the pods have in addition (a PodTemplateSpec), merged by container name; the main container is `worker`."""


class RolloutJobSpec(SpecModel):
    """What is collected (immutable on a cluster) and how fast (mutable)."""

    environments: Annotated[tuple[EnvironmentEntry, ...], Field(strict=False, min_length=1, max_length=32)]
    """Environments to collect from, each with its dataset."""
    rollouts_per_task: RolloutsPerTask = 1
    """Rollouts of each task (NeMo Gym's num_repeats). A further job on the same output may raise it."""
    group: Group = Field(default_factory=Group)
    """Which groups are delivered and exported."""
    sampling: Sampling = Field(default_factory=Sampling)
    """Sampling of the policy model, over a row's own where set."""
    sharding: Sharding = Field(default_factory=Sharding)
    """How tasks are cut into shards."""
    parallelism: Annotated[int, Field(ge=0, le=10_000)] = 1
    """Number of worker pods. `kubectl scale` writes it; 0 pauses the job."""
    concurrency: Annotated[int, Field(ge=1, le=100_000)] = 32
    """Rollouts in flight in one worker."""
    max_policy_version_lag: NonNegativeInt | None = None
    """Policy versions that may pass while a rollout runs; one that is older when it ends stays in the record, is marked
    stale, and is not delivered. Left out, any number.
    """
    on_truncated: Literal["Verify", "Skip"] = "Verify"
    """`Verify`: a truncated rollout is scored like any other and carries its stop reason. `Skip`: it is left unscored.
    """
    output: Output
    """Where results go."""
    suspend: bool = False
    """True ends the worker pods after they have written what is finished; false goes on from there."""
    active_deadline_seconds: Seconds | None = None
    """Seconds the job may be active, suspensions not counted, before it fails with reason `DeadlineExceeded`. What is
    collected stays. Left out, no bound.
    """
    pre_running_deadline_seconds: Seconds | None = None
    """Seconds until the first worker runs, before the job fails with reason `PreRunningDeadlineExceeded`: GPUs that
    never come. Left out, no bound.
    """
    ttl_seconds_after_finished: NonNegativeInt | None = None
    """Seconds after its end when the object is deleted; the data stays. Left out, it is kept."""
    managed_by: Literal["kubegym.dev/operator", "kueue.x-k8s.io/multikueue"] | None = None
    """Controller that handles the job: this operator (also when left out), or Kueue's MultiKueue on a manager cluster.
    """
    failure_policy: FailurePolicy = Field(default_factory=FailurePolicy)
    """Bounds of trying again."""
    queue: Queue | None = None
    """Kueue queue that the workers' quota is taken from. Left out, pods start without Kueue."""
    worker: WorkerSpec = Field(default_factory=WorkerSpec)
    """The worker pods."""

    @model_validator(mode="after")
    def _groups_can_be_whole(self) -> Self:
        least = self.group.min_scored or 0
        for entry in self.environments:
            rollouts = entry.rollouts_per_task or self.rollouts_per_task
            if least > rollouts:
                raise ValueError(
                    f"group.minScored {least} is above rolloutsPerTask {rollouts} of environment {entry.name!r}: "
                    "no group would ever be whole"
                )
        return self

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
