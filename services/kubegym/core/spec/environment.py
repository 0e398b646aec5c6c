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
    Quantity,
    Replicas,
    Seconds,
    SpecModel,
    Text,
)
from kubegym.core.spec.model import ModelsByRole


class SandboxSpec(SpecModel):
    """Pods for untrusted code, where the environment uses ``self.sandbox``."""

    replicas: Replicas | None = None
    runtime_class_name: DnsLabel | None = None
    limits: dict[str, Quantity] = Field(default_factory=dict, max_length=16)


class ResourcesSpec(SpecModel):
    """Tools, seeding and verification. ``config`` is the environment's own, typed by its ``Config``."""

    image: Image | None = None
    placement: Placement = "Service"
    replicas: Replicas | None = None
    config: FreeObject = Field(default_factory=dict)
    compute: Compute | None = None
    service_account_name: DnsLabel | None = None
    sandbox: SandboxSpec | None = None
    pod_template: FreeObject | None = None


class AgentSpec(SpecModel):
    """The harness. ``maxSteps`` bounds the model calls of a rollout; without it nothing but the deadline does."""

    image: Image | None = None
    placement: Placement = "Service"
    replicas: Replicas | None = None
    harness: Text = "simple"
    max_steps: PositiveInt | None = None
    config: FreeObject = Field(default_factory=dict)
    compute: Compute | None = None
    pod_template: FreeObject | None = None

    @model_validator(mode="after")
    def _no_image_in_worker(self) -> Self:
        if self.placement == "Worker" and self.image is not None:
            raise ValueError("placement Worker runs in the worker's pod and has no image: remove image")
        return self


class NetworkSpec(SpecModel):
    """``Managed``: default deny plus DNS, the models and ``allowedEgress`` (NetworkPolicyEgressRule)."""

    policy: Literal["Managed", "Unmanaged"] = "Managed"
    allowed_egress: Annotated[tuple[FreeObject, ...], Field(strict=False, max_length=32)] = ()


class GymEnvironmentSpec(SpecModel):
    """Desired state of an environment. ``models`` may lack ``policy``; a RolloutJob then names it."""

    suspend: bool = False
    models: ModelsByRole = Field(default_factory=dict)
    resources: ResourcesSpec = Field(default_factory=ResourcesSpec)
    agent: AgentSpec = Field(default_factory=AgentSpec)
    network: NetworkSpec = Field(default_factory=NetworkSpec)
    rollout_timeout_seconds: Seconds = 3600
    idle_policy: IdlePolicy | None = None

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
