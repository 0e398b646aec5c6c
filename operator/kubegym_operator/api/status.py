"""What the operator reports: the status of each kind, as models for the schema of the CRD and for whoever reads one.

Every field is optional, as a status grows with what is known. Fractions are strings, times RFC 3339. A status holds
counts, never an entry per shard, pod or rollout, so that its size does not grow with the run.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints, WithJsonSchema

from kubegym.core.spec.common import DnsLabel, LongText, NonNegativeInt, SpecModel, Text
from kubegym.core.spec.model import Role
from kubegym_operator.api.conditions import MAX_MESSAGE

UNSEEN: Final[dict[str, int]] = {"observedGeneration": -1}
"""The status of an object that no operator saw yet. Without one kstatus takes a new object for a healthy one."""

Count = Annotated[int, Field(ge=0, le=9_223_372_036_854_775_807)]
Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
"""RFC 3339, such as ``2026-11-28T09:00:00Z``."""

Number = Annotated[str, StringConstraints(max_length=32)]
"""A decimal number as a string: Kubernetes objects hold no floats."""

MAX_FAILURES: Final = 64
"""Most reasons that are counted apart."""


class ConditionStatus(SpecModel):
    """``metav1.Condition``."""

    type: Annotated[str, StringConstraints(min_length=1, max_length=316)]
    """What the condition says, such as `Ready`."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    """Why, as one CamelCase word."""
    message: Annotated[str, StringConstraints(max_length=MAX_MESSAGE)]
    """Why, for people: what, where, since when, and what to do."""
    last_transition_time: Time
    """When `status` last changed."""
    observed_generation: Count | None = None
    """The `metadata.generation` that the condition is about."""


class ObjectStatus(SpecModel):
    """What all three kinds report."""

    observed_generation: Annotated[int, Field(ge=-1, le=9_223_372_036_854_775_807)] | None = None
    """The `metadata.generation` that this status is about; an older one is out of date. -1: no operator saw it yet."""
    conditions: Annotated[tuple[ConditionStatus, ...], Field(strict=False, max_length=32)] = ()
    """What holds, each type once."""


class DemandStatus(SpecModel):
    """Replicas that the jobs need, with `autoscaling.mode: Demand`."""

    replicas: NonNegativeInt
    """Replicas that are wanted for the jobs."""
    lower_since: Time | None = None
    """Since when fewer would do; they are given back when that has held for three minutes."""
    lower_peak: NonNegativeInt | None = None
    """Replicas needed at most since then."""


class ModelServerStatus(ObjectStatus):
    """Observed state of a ModelServer."""

    replicas: NonNegativeInt | None = None
    """Replicas that exist."""
    ready_replicas: NonNegativeInt | None = None
    """Replicas that answer."""
    desired_replicas: NonNegativeInt | None = None
    """Replicas that are wanted now: 0 while suspended or idle."""
    demand: DemandStatus | None = None
    """What the jobs that refer to it need, where `autoscaling` follows them."""
    selector: LongText | None = None
    """Label selector of the pods, for HorizontalPodAutoscalers."""
    endpoint: LongText | None = None
    """Address inside the cluster, without `/v1`."""
    policy_version: Count | None = None
    """Version of the weights that every ready replica serves: the lowest, while they are exchanged."""
    target_policy_version: Count | None = None
    """Version of the weights that the spec asks for."""
    idle_since: Time | None = None
    """Since when no active RolloutJob refers to it."""
    last_request_time: Time | None = None
    """When the last request came; a later one keeps it awake."""


class ModelEndpointStatus(SpecModel):
    """Where a role's model is asked."""

    base_url: LongText
    """Address of the API, with `/v1`."""
    model: LongText | None = None
    """Name of the model in requests."""
    kind: Literal["server", "endpoint"] | None = None
    """`server`: a ModelServer of this cluster. `endpoint`: served elsewhere."""


class EndpointsStatus(SpecModel):
    """Where the parts of an environment are asked."""

    models: Annotated[dict[Role, ModelEndpointStatus], Field(max_length=8)] = Field(default_factory=dict)
    """Models by role."""
    agent: LongText | None = None
    """Address of the agent; absent with placement Worker."""
    resources: LongText | None = None
    """Address of the resources server; absent with placement Worker."""


class PartStatus(SpecModel):
    """Pods of one part."""

    replicas: NonNegativeInt | None = None
    """Pods that are wanted."""
    ready_replicas: NonNegativeInt | None = None
    """Pods that are ready."""


class PartsStatus(SpecModel):
    """Pods by part; a part without pods of its own is absent."""

    models: PartStatus | None = None
    """All model servers that the environment owns, together."""
    resources: PartStatus | None = None
    """The resources server."""
    agent: PartStatus | None = None
    """The agent."""
    sandbox: PartStatus | None = None
    """Pods for untrusted code."""


class GymEnvironmentStatus(ObjectStatus):
    """Observed state of a GymEnvironment."""

    endpoints: EndpointsStatus | None = None
    """Where its parts are asked."""
    parts: PartsStatus | None = None
    """Pods of its parts."""
    active_rollout_jobs: NonNegativeInt | None = None
    """RolloutJobs that refer to it and have not ended."""
    idle_since: Time | None = None
    """Since when no active RolloutJob refers to it."""


class FrozenEnvironmentStatus(SpecModel):
    """What an entry of the job was frozen to."""

    name: DnsLabel
    """Name of the entry."""
    digest: Text
    """Digest of the environment as the run uses it; it never changes."""


class ShardsStatus(SpecModel):
    """Shards by state."""

    total: Count | None = None
    """Shards of the plan."""
    committed: Count | None = None
    """Shards whose rollouts all have a result."""
    active: Count | None = None
    """Shards that workers hold now."""


class RolloutsStatus(SpecModel):
    """Rollouts by outcome."""

    expected: Count | None = None
    """Rollouts of the plan."""
    scored: Count | None = None
    """Rollouts to which a verifier gave a reward."""
    unscored: Count | None = None
    """Rollouts that were left without a reward on purpose."""
    failed: Count | None = None
    """Rollouts that broke, after all their attempts."""


class TokensStatus(SpecModel):
    """Tokens of all models, over all rollouts."""

    input: Count | None = None
    """Tokens read."""
    output: Count | None = None
    """Tokens written."""


class RolloutJobStatus(ObjectStatus):
    """Observed state of a RolloutJob. Counts are those of the last progress report, in the end the manifest's."""

    workers: NonNegativeInt | None = None
    """Worker pods that exist."""
    environments: Annotated[tuple[FrozenEnvironmentStatus, ...], Field(strict=False, max_length=32)] = ()
    """What each entry was frozen to when the job started."""
    shards: ShardsStatus | None = None
    """Shards by state."""
    rollouts: RolloutsStatus | None = None
    """Rollouts by outcome."""
    failures: Annotated[dict[str, Count], Field(max_length=MAX_FAILURES)] = Field(default_factory=dict)
    """Failed rollouts by reason."""
    reward_mean: Number | None = None
    """Mean reward of the scored rollouts."""
    tokens: TokensStatus | None = None
    """Tokens of all models."""
    throughput: Number | None = None
    """Rollouts a second, lately."""
    start_time: Time | None = None
    """When the operator took the job up."""
    active_since: Time | None = None
    """Since when the job is active; absent while it is suspended, waits for quota, or has ended."""
    active_seconds: Count | None = None
    """Seconds of earlier active periods; `activeDeadlineSeconds` bounds them and the current one together."""
    last_progress_time: Time | None = None
    """When a rollout last became durable."""
    estimated_completion_time: Time | None = None
    """When the job ends at the current throughput."""
    completion_time: Time | None = None
    """When it ended, complete or failed."""
    plan_digest: Text | None = None
    """Digest of `plan.json`."""
    manifest_uri: LongText | None = None
    """Address of the manifest, from which readers find all results."""
    job_name: Text | None = None
    """Name of the Job whose pods are the workers."""
