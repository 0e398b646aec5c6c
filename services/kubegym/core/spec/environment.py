"""GymEnvironment: models by role, a resources server, an agent (DESIGN section 5)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kubegym.core.spec.common import (
    TRAIT_PREFIX,
    TRAITS,
    VERSION_LABEL,
    Compute,
    DnsLabel,
    FreeObject,
    IdlePolicy,
    Image,
    KubeObject,
    Placement,
    PositiveInt,
    Quantities,
    Replicas,
    Seconds,
    SpecModel,
    Text,
)
from kubegym.core.spec.model import ModelsByRole


class SandboxSpec(SpecModel):
    """Pods for untrusted code, where the environment uses ``self.sandbox``."""

    replicas: Replicas | None = None
    """Number of sandbox pods. Left out, 1."""
    runtime_class_name: DnsLabel | None = None
    """RuntimeClass with stronger walls, such as `gvisor` or `kata`. Left out, the cluster's default."""
    limits: Quantities = Field(default_factory=dict)
    """Limits of each sandbox pod, by resource name."""


class ResourcesSpec(SpecModel):
    """Tools, seeding and verification. ``config`` is the environment's own, typed by its ``Config``."""

    image: Image | None = None
    """Image with the environment's code. Left out, KubeGym's image with the environments it ships. With placement
    Worker the worker's pod runs it.
    """
    placement: Placement = "Service"
    """`Service`: pods of its own. `Worker`: composed into the rollout worker's process, without HTTP between them; the
    code is then trusted with the run's store credentials.
    """
    replicas: Replicas | None = None
    """Number of pods with placement Service. Left out, 1 at creation."""
    config: FreeObject = Field(default_factory=dict)
    """Settings of the environment; its code says which (its `Config`)."""
    compute: Compute | None = None
    """Requests and limits of the container."""
    service_account_name: DnsLabel | None = None
    """ServiceAccount of the pods. Left out, one without permissions. Its token is never mounted."""
    sandbox: SandboxSpec | None = None
    """Pods for untrusted code. Left out, code runs behind process walls in the resources pod, where the environment
    needs that.
    """
    pod_template: FreeObject | None = None
    """What the pods have in addition (a PodTemplateSpec), merged by container name; the main container is `resources`.
    """

    @model_validator(mode="after")
    def _no_pods_in_worker(self) -> Self:
        _no_replicas_in_worker(self)
        return self


def _no_replicas_in_worker(part: ResourcesSpec | AgentSpec) -> None:
    if part.placement == "Worker" and part.replicas is not None:
        raise ValueError("placement Worker has no pods of its own: remove replicas, and scale the job's parallelism")


class AgentSpec(SpecModel):
    """The harness. ``maxSteps`` bounds the model calls of a rollout; without it nothing but the deadline does."""

    image: Image | None = None
    """Image with the harness. Left out, KubeGym's agent image. Placement Worker has none."""
    placement: Placement = "Service"
    """`Service`: pods of its own. `Worker`: composed into the rollout worker's process, without HTTP between them."""
    replicas: Replicas | None = None
    """Number of pods with placement Service. Left out, 1 at creation."""
    harness: Text = "simple"
    """The loop that calls model and tools until the conversation ends: `simple`, or a name that the image registers.
    `command` runs a program (`config.command`) with a base URL of its own for every rollout.
    """
    max_steps: PositiveInt | None = None
    """Most model calls in a rollout; at the bound the rollout ends with stop reason `max_steps`. Left out, only the
    deadline bounds it.
    """
    config: FreeObject = Field(default_factory=dict)
    """Settings of the harness; its code says which."""
    compute: Compute | None = None
    """Requests and limits of the container."""
    pod_template: FreeObject | None = None
    """What the pods have in addition (a PodTemplateSpec), merged by container name; the main container is `agent`."""

    @model_validator(mode="after")
    def _no_pods_in_worker(self) -> Self:
        if self.placement == "Worker" and self.image is not None:
            raise ValueError("placement Worker runs in the worker's pod and has no image: remove image")
        _no_replicas_in_worker(self)
        return self


class NetworkSpec(SpecModel):
    """``Managed``: default deny plus DNS, the models and ``allowedEgress`` (NetworkPolicyEgressRule)."""

    policy: Literal["Managed", "Unmanaged"] = "Managed"
    """`Managed`: one NetworkPolicy a role; agent, resources and sandbox pods reach DNS, the models they use, and
    allowedEgress. `Unmanaged`: none is made.
    """
    allowed_egress: Annotated[tuple[FreeObject, ...], Field(strict=False, max_length=32)] = ()
    """Further destinations of agent and resources pods, each a NetworkPolicyEgressRule (`to`, `ports`)."""


class GymEnvironmentSpec(SpecModel):
    """Desired state of an environment. ``models`` may lack ``policy``; a RolloutJob then names it."""

    suspend: bool = False
    """True scales every pod of the environment to zero and keeps the objects; jobs that need it wait."""
    models: ModelsByRole = Field(default_factory=dict)
    """Models by role, such as `policy` and `judge`. `policy` may be absent; a RolloutJob then names it."""
    resources: ResourcesSpec = Field(default_factory=ResourcesSpec)
    """The resources server: tools, seeding and verification."""
    agent: AgentSpec = Field(default_factory=AgentSpec)
    """The agent: the harness that talks to the model."""
    network: NetworkSpec = Field(default_factory=NetworkSpec)
    """What the pods may reach."""
    rollout_timeout_seconds: Seconds = 3600
    """Seconds a rollout may take before it ends with stop reason `deadline`. Time in queues and while a model is paused
    does not count.
    """
    idle_policy: IdlePolicy | None = None
    """When to scale to zero by itself. Left out, it never does."""

    @model_validator(mode="after")
    def _reachable_resources(self) -> Self:
        if self.resources.placement == "Worker" and self.agent.placement == "Service":
            raise ValueError("resources.placement Worker needs agent.placement Worker: a process has no Service")
        return self


class GymEnvironment(KubeObject):
    """An environment that rollouts can be collected from."""

    kind: Literal["GymEnvironment"] = "GymEnvironment"
    spec: GymEnvironmentSpec = Field(default_factory=GymEnvironmentSpec)

    @property
    def version(self) -> str | None:
        """The environment's version: the label ``app.kubernetes.io/version``."""
        return self.metadata.labels.get(VERSION_LABEL)

    @property
    def traits(self) -> dict[str, list[str]]:
        """The ``kubegym.dev/*`` annotations that describe it, split at commas; absent ones are left out."""
        annotations = self.metadata.annotations
        return {
            trait: [word.strip() for word in annotations[TRAIT_PREFIX + trait].split(",") if word.strip()]
            for trait in TRAITS
            if TRAIT_PREFIX + trait in annotations
        }
