"""ModelServer, and how environments and jobs name the models they use (DESIGN section 5)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from kubegym.core.spec.common import (
    DnsLabel,
    FreeObject,
    HttpUrl,
    IdlePolicy,
    Image,
    KubeObject,
    LabelSelector,
    LongText,
    Quantity,
    Queue,
    Replicas,
    SecretKeyRef,
    SecretRef,
    SpecModel,
    Text,
    require_exactly_one,
)

Engine = Literal["vllm", "custom", "embedded", "simulated"]

ModelUri = Annotated[str, StringConstraints(pattern=r"^(hf|s3|gs|pvc|oci|file)://\S+$", max_length=1024)]
"""Where weights lie; ``file://`` is for runs on one machine."""

Role = Annotated[str, StringConstraints(pattern=r"^[a-z]([-_a-z0-9]*[a-z0-9])?$", max_length=32)]
"""The part a model plays in an environment: ``policy``, ``judge``, ``user``, ..."""


class ModelSource(SpecModel):
    """Weights as they are published. ``revision`` pins them."""

    uri: ModelUri
    revision: Text | None = None
    credentials_secret_ref: SecretRef | None = None


class Weights(SpecModel):
    """Weights a trainer announces; they win over ``source``. ``version`` only grows: a rollback is a new number."""

    uri: ModelUri
    version: Annotated[int, Field(ge=0, le=9_223_372_036_854_775_807)]
    kind: Literal["Full", "Adapter"] = "Full"
    on_update: Literal["Finish", "Abort", "Continue", "Recreate"] = "Finish"


class ModelParallelism(SpecModel):
    """How one replica is spread over accelerators: ``tensor`` x ``pipeline`` of them, on ``nodes`` nodes."""

    tensor: Annotated[int, Field(ge=1, le=1024)] = 1
    pipeline: Annotated[int, Field(ge=1, le=1024)] = 1
    nodes: Annotated[int, Field(ge=1, le=1024)] = 1


class ResourceClaim(SpecModel):
    """A pod's resource claim (dynamic resource allocation): by name or from a template."""

    name: DnsLabel
    resource_claim_name: DnsLabel | None = None
    resource_claim_template_name: DnsLabel | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        require_exactly_one(self, "resource_claim_name", "resource_claim_template_name")
        return self


class Accelerator(SpecModel):
    """What the engine computes on: a device plugin's resource, or resource claims."""

    resource_name: Text | None = None
    resource_claims: Annotated[tuple[ResourceClaim, ...], Field(strict=False, min_length=1, max_length=8)] | None = None

    @model_validator(mode="after")
    def _one_mechanism(self) -> Self:
        require_exactly_one(self, "resource_name", "resource_claims")
        return self


class PersistentVolumeClaimRef(SpecModel):
    """A claim of the same namespace."""

    claim_name: DnsLabel


class EphemeralCache(SpecModel):
    """Node-local space that goes with the pod."""

    size_limit: Quantity | None = None


class ModelCache(SpecModel):
    """Where weights are kept between starts: a volume, the node's disk, or an image that holds them."""

    persistent_volume_claim: PersistentVolumeClaimRef | None = None
    ephemeral: EphemeralCache | None = None
    image: Image | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        require_exactly_one(self, "persistent_volume_claim", "ephemeral", "image")
        return self


class Autoscaling(SpecModel):
    """``Demand``: from the jobs that refer to the model. ``External``: somebody else writes ``/scale``."""

    mode: Literal["Demand", "External"] = "Demand"
    min_replicas: Replicas = 0
    max_replicas: Annotated[int, Field(ge=1, le=10_000)] = 1

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"minReplicas {self.min_replicas} is above maxReplicas {self.max_replicas}")
        return self


class Consumers(SpecModel):
    """Who may use the server by ``serverRef``; without it, the same namespace."""

    namespace_selector: LabelSelector


class ModelServerSpec(SpecModel):
    """A served model. ``embedded`` without ``source`` is the shipped one; ``replicas`` has no default on purpose."""

    engine: Engine = "vllm"
    source: ModelSource | None = None
    weights: Weights | None = None
    suspend: bool = False
    idle_policy: IdlePolicy | None = None
    served_model_name: LongText | None = None
    replicas: Replicas | None = None
    parallelism: ModelParallelism = Field(default_factory=ModelParallelism)
    accelerator: Accelerator | None = None
    engine_args: dict[str, str] = Field(default_factory=dict, max_length=64)
    cache: ModelCache | None = None
    autoscaling: Autoscaling | None = None
    queue: Queue | None = None
    consumers: Consumers | None = None
    service_account_name: DnsLabel | None = None
    pod_template: FreeObject | None = None

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        if self.engine == "vllm" and self.source is None and self.weights is None:
            raise ValueError("engine vllm needs source or weights (engine embedded has a model of its own)")
        return self


class ModelServer(KubeObject):
    """A model server that several environments may share."""

    kind: Literal["ModelServer"] = "ModelServer"
    spec: ModelServerSpec


class ServerRef(SpecModel):
    """A ModelServer, of the same namespace unless said otherwise."""

    name: DnsLabel
    namespace: DnsLabel | None = None


class ModelEndpoint(SpecModel):
    """Any OpenAI-compatible endpoint; ``baseUrl`` includes ``/v1``."""

    base_url: HttpUrl
    model: LongText
    api_key_secret_ref: SecretKeyRef | None = None


class ModelBinding(SpecModel):
    """What plays a role: exactly one of a server of its own, a shared one, an endpoint."""

    server: ModelServerSpec | None = None
    server_ref: ServerRef | None = None
    endpoint: ModelEndpoint | None = None

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        require_exactly_one(self, "server", "server_ref", "endpoint")
        return self


ModelsByRole = Annotated[dict[Role, ModelBinding], Field(max_length=8)]
