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
    ValueText,
    require_exactly_one,
)

Engine = Literal["vllm", "custom", "embedded", "simulated"]

EngineArgName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][-_.a-zA-Z0-9]*$", max_length=64)]
"""An argument of the engine, without leading dashes."""

ModelUri = Annotated[str, StringConstraints(pattern=r"^(hf|s3|gs|pvc|oci|file)://\S+$", max_length=1024)]
"""Where weights lie; ``file://`` is for runs on one machine."""

Role = Annotated[str, StringConstraints(pattern=r"^[a-z]([-_a-z0-9]*[a-z0-9])?$", max_length=32)]
"""The part a model plays in an environment: ``policy``, ``judge``, ``user``, ..."""


class ModelSource(SpecModel):
    """Weights as they are published. ``revision`` pins them."""

    uri: ModelUri
    """Where the weights are published: `hf://organisation/model`, `s3://bucket/path`, `gs://bucket/path`,
    `pvc://claim/path` or `oci://registry/image`. They are fetched once, verified, then mounted read-only.
    """
    revision: Text | None = None
    """Commit or digest that pins the weights. A cluster needs it for `hf://`, and for `oci://` without digest."""
    credentials_secret_ref: SecretRef | None = None
    """Secret with `HF_TOKEN`, `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (`AWS_SESSION_TOKEN`), or
    `GOOGLE_APPLICATION_CREDENTIALS_JSON`. Left out, the pod's own identity is used.
    """


class Weights(SpecModel):
    """Weights a trainer announces; they win over ``source``. ``version`` only grows: a rollback is a new number."""

    uri: ModelUri
    """Where the announced weights lie; the schemes of `source.uri`."""
    version: Annotated[int, Field(ge=0, le=9_223_372_036_854_775_807)]
    """Number of the policy version that rows carry as `policy_version`. It only grows: to go back, announce the old
    weights under a new number.
    """
    kind: Literal["Full", "Adapter"] = "Full"
    """`Full`: all weights. `Adapter`: a LoRA adapter over `source`."""
    on_update: Literal["Finish", "Abort", "Continue", "Recreate"] = "Finish"
    """What happens to requests in flight while weights are exchanged. `Finish`: they end first. `Abort`: they fail and
    are retried. `Continue`: they go on with the new weights from the next token, and rows say from which
    (`policy_runs`); full weights of engine vllm only, started with `--enable-scale-out`, so that pods start anew where
    it is chosen later. `Recreate`: new pods instead of an exchange in place.
    """


class ModelParallelism(SpecModel):
    """How one replica is spread over accelerators: ``tensor`` x ``pipeline`` of them, on ``nodes`` nodes."""

    tensor: Annotated[int, Field(ge=1, le=1024)] = 1
    """Accelerators that share each layer."""
    pipeline: Annotated[int, Field(ge=1, le=1024)] = 1
    """Stages that the layers are cut into."""
    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Nodes that one replica spans; it must divide tensor x pipeline. Above 1, LeaderWorkerSet has to be installed."""

    @model_validator(mode="after")
    def _even(self) -> Self:
        if self.tensor * self.pipeline % self.nodes:
            raise ValueError(
                f"nodes {self.nodes} does not divide tensor {self.tensor} x pipeline {self.pipeline}: "
                "every node takes the same number of accelerators"
            )
        return self


class ResourceClaim(SpecModel):
    """A pod's resource claim (dynamic resource allocation): by name or from a template."""

    name: DnsLabel
    """Name of the claim inside the pod."""
    resource_claim_name: DnsLabel | None = None
    """An existing ResourceClaim of the namespace, shared by all replicas."""
    resource_claim_template_name: DnsLabel | None = None
    """A ResourceClaimTemplate; every pod gets a claim of its own from it."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        require_exactly_one(self, "resource_claim_name", "resource_claim_template_name")
        return self


class Accelerator(SpecModel):
    """What the engine computes on: a device plugin's resource, or resource claims."""

    resource_name: Text | None = None
    """Resource of a device plugin, such as `nvidia.com/gpu`, `nvidia.com/mig-1g.10gb` or `amd.com/gpu`; tensor x
    pipeline / nodes of it per pod.
    """
    resource_claims: Annotated[tuple[ResourceClaim, ...], Field(strict=False, min_length=1, max_length=8)] | None = None
    """Claims of dynamic resource allocation that the engine uses."""

    @model_validator(mode="after")
    def _one_mechanism(self) -> Self:
        require_exactly_one(self, "resource_name", "resource_claims")
        names = [claim.name for claim in self.resource_claims or ()]
        if len(set(names)) < len(names):
            raise ValueError("resourceClaims: name occurs more than once")
        return self


class PersistentVolumeClaimRef(SpecModel):
    """A claim of the same namespace."""

    claim_name: DnsLabel
    """Name of the PersistentVolumeClaim, in the same namespace; ReadWriteMany or ReadOnlyMany for more than one node.
    """


class EphemeralCache(SpecModel):
    """Node-local space that goes with the pod."""

    size_limit: Quantity | None = None
    """Most space the weights may take; a pod above it is evicted. Left out, the node's disk is the limit."""


class ModelCache(SpecModel):
    """Where weights are kept between starts: a volume, the node's disk, or an image that holds them."""

    persistent_volume_claim: PersistentVolumeClaimRef | None = None
    """A volume that keeps the weights between starts and is shared by all replicas."""
    ephemeral: EphemeralCache | None = None
    """The node's disk; every pod fetches anew."""
    image: Image | None = None
    """An OCI image that holds the weights, mounted as a volume (Kubernetes 1.35 or later)."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        require_exactly_one(self, "persistent_volume_claim", "ephemeral", "image")
        return self


class Autoscaling(SpecModel):
    """``Demand``: from the jobs that refer to the model. ``External``: somebody else writes ``/scale``."""

    mode: Literal["Demand", "External"] = "Demand"
    """`Demand`: replicas follow the jobs that refer to the server. `External`: an autoscaler of yours writes `/scale`,
    and the operator leaves replicas alone.
    """
    min_replicas: Replicas = 0
    """Fewest replicas while a job refers to the server. With `External`, the first number, at least 1, and no bound."""
    max_replicas: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Most replicas; it must not be below minReplicas. With `External` the autoscaler's own bound counts."""
    rollouts_per_replica: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """With `Demand`: rollouts in flight for which one replica is enough. Left out, the engine's `max-num-seqs`, 256
    where vLLM's arguments do not say.
    """

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"minReplicas {self.min_replicas} is above maxReplicas {self.max_replicas}")
        return self


class Consumers(SpecModel):
    """Who may use the server by ``serverRef``; without it, the same namespace."""

    namespace_selector: LabelSelector
    """Namespaces, by label, whose GymEnvironments and RolloutJobs may name this server in a serverRef."""


class ModelServerSpec(SpecModel):
    """A served model. ``embedded`` without ``source`` is the shipped one; ``replicas`` has no default on purpose."""

    engine: Engine = "vllm"
    """`vllm`: vLLM. `custom`: any OpenAI-compatible server (SGLang, NIM), described by `podTemplate`. `embedded`:
    llama.cpp, for small models on CPU. `simulated`: no model, but the latencies and lengths of one, for demos and
    capacity planning.
    """
    source: ModelSource | None = None
    """Weights to serve. Engine vllm needs them here or in `weights`; embedded without has a small model of its own."""
    weights: Weights | None = None
    """Weights that a trainer announces; they win over `source` and are exchanged in place. Once set they stay set.
    Without `source` the engine starts with them, and a new version starts new pods.
    """
    suspend: bool = False
    """True scales to zero and keeps the objects; jobs that need the server wait."""
    idle_policy: IdlePolicy | None = None
    """When to scale to zero by itself. Left out, it never does."""
    served_model_name: LongText | None = None
    """Name that requests use for the model. Left out, the name of the ModelServer."""
    replicas: Replicas | None = None
    """Number of replicas. `kubectl scale` and autoscalers write it; leave it out where they do. Left out everywhere, 1
    at creation, then what `autoscaling` says. A HorizontalPodAutoscaler needs it written once.
    """
    parallelism: ModelParallelism = Field(default_factory=ModelParallelism)
    """How one replica is spread over accelerators and nodes."""
    accelerator: Accelerator | None = None
    """What the engine computes on. Left out, GPUs (`nvidia.com/gpu`) for vllm, CPUs for embedded and simulated."""
    engine_args: dict[EngineArgName, ValueText] = Field(default_factory=dict, max_length=64)
    """Arguments of the engine by name without leading dashes, such as `max-model-len: "32768"`; an empty value is a
    flag. Arguments that KubeGym sets itself (port, model, parallel sizes) cannot be given.
    """
    cache: ModelCache | None = None
    """Where weights are kept between starts. Left out, on the node's disk for as long as the pod lives."""
    autoscaling: Autoscaling | None = None
    """Who decides the number of replicas. Left out, `replicas` does."""
    queue: Queue | None = None
    """Kueue queue that the accelerators' quota is taken from. Left out, pods start without Kueue."""
    consumers: Consumers | None = None
    """Who may use the server by serverRef. Left out, the same namespace only."""
    service_account_name: DnsLabel | None = None
    """ServiceAccount of the pods, for identities at clouds. Left out, one without permissions. Its token is never
    mounted.
    """
    pod_template: FreeObject | None = None
    """What the pods have in addition (a PodTemplateSpec), merged by container name; the engine's container is `engine`.
    Fields that KubeGym owns win, and a conflict is reported in the condition `Stalled`.
    """

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        if self.engine == "vllm" and self.source is None and self.weights is None:
            raise ValueError("engine vllm needs source or weights (engine embedded has a model of its own)")
        if self.weights is not None and self.weights.kind == "Adapter" and self.source is None:
            raise ValueError("weights of kind Adapter need source: the model that they adapt")
        if self.engine == "custom" and self.pod_template is None:
            raise ValueError("engine custom needs podTemplate, with a container named engine and its image")
        if self.engine == "custom" and self.engine_args:
            raise ValueError("engine custom has no engineArgs: write them as args of the container in podTemplate")
        return self


class ModelServer(KubeObject):
    """A model server that several environments may share."""

    kind: Literal["ModelServer"] = "ModelServer"
    spec: ModelServerSpec


class ServerRef(SpecModel):
    """A ModelServer, of the same namespace unless said otherwise."""

    name: DnsLabel
    """Name of the ModelServer."""
    namespace: DnsLabel | None = None
    """Its namespace; that server's `consumers` must permit it. Left out, the same namespace."""


class ModelEndpoint(SpecModel):
    """Any OpenAI-compatible endpoint; ``baseUrl`` includes ``/v1``."""

    base_url: HttpUrl
    """Address of an OpenAI-compatible API, with `/v1`, such as `https://api.example.com/v1`."""
    model: LongText
    """Name of the model in requests to it."""
    api_key_secret_ref: SecretKeyRef | None = None
    """Key of a Secret that holds the API key. Left out, none is sent."""


class ModelBinding(SpecModel):
    """What plays a role: exactly one of a server of its own, a shared one, an endpoint."""

    server: ModelServerSpec | None = None
    """A ModelServer of its own, created and owned by the operator."""
    server_ref: ServerRef | None = None
    """A ModelServer that exists and may be shared."""
    endpoint: ModelEndpoint | None = None
    """A model that is served elsewhere."""

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        require_exactly_one(self, "server", "server_ref", "endpoint")
        return self


ModelsByRole = Annotated[dict[Role, ModelBinding], Field(max_length=8)]
