"""What all manifests share: the model base, names, references, bounded values, metadata."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel

API_VERSION: Final = "kubegym.dev/v1alpha1"

VERSION_LABEL: Final = "app.kubernetes.io/version"

TRAIT_PREFIX: Final = "kubegym.dev/"
TRAITS: Final = ("rollout-structure", "capabilities", "domain", "task-type", "verification", "license", "chance")
"""Annotations (behind ``kubegym.dev/``) that describe an environment, comma-separated (``core.spec.traits``)."""


class SpecModel(BaseModel):
    """Base of everything in a manifest: immutable, camelCase on the outside, no unknown field, no coercion.

    Schemas are built on first use, so that importing the models costs little and a process pays for the kinds it reads.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        populate_by_name=True,
        defer_build=True,
    )


Decimals = Annotated[str, StringConstraints(max_length=20)]
"""A decimal number as text: Kubernetes objects hold no floats."""

_DECIMAL = re.compile(r"[0-9]{1,3}(\.[0-9]{1,16})?")


def fraction(low: str, high: str) -> AfterValidator:
    """A validator of decimals written as strings, from ``low`` to ``high`` inclusive."""
    bottom, top = Decimal(low), Decimal(high)

    def check(text: str) -> str:
        if not _DECIMAL.fullmatch(text):
            raise ValueError(f'must be a decimal number such as "0.5", not {text!r}')
        if not bottom <= Decimal(text) <= top:
            raise ValueError(f"must be from {low} to {high}, not {text}")
        return text

    return AfterValidator(check)


def _quantity(value: object) -> object:
    """Kubernetes writes quantities as integers, too: ``cpu: 2``."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"

DnsLabel = Annotated[str, StringConstraints(pattern=_LABEL_PATTERN, min_length=1, max_length=63)]
"""A DNS-1123 label: what names of objects, Services and pods are made of."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=253)]
LabelValue = Annotated[str, StringConstraints(max_length=63)]
ValueText = Annotated[str, StringConstraints(max_length=1024)]
LongText = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Image = Annotated[str, StringConstraints(pattern=r"^\S+$", max_length=512)]
_QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei|[eE][0-9]+)?$"
Quantity = Annotated[
    str,
    BeforeValidator(_quantity),
    StringConstraints(pattern=_QUANTITY_PATTERN, max_length=32),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "minimum": 0, "maxLength": 32, "pattern": _QUANTITY_PATTERN}),
]
Quantities = Annotated[dict[Text, Quantity], Field(max_length=16)]
HttpUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+", max_length=1024)]

FreeObject = Annotated[dict[str, Any], Field(max_length=256)]
"""A JSON object of which only the reader knows the fields."""

Replicas = Annotated[int, Field(ge=0, le=10_000)]
Seconds = Annotated[int, Field(ge=1, le=31_536_000)]
PositiveInt = Annotated[int, Field(ge=1, le=2_147_483_647)]
NonNegativeInt = Annotated[int, Field(ge=0, le=2_147_483_647)]
Seed = Annotated[int, Field(ge=0, le=9_223_372_036_854_775_807)]

Placement = Literal["Service", "Worker"]
"""``Service``: pods of their own. ``Worker``: composed into the rollout worker's process."""


class NamedRef(SpecModel):
    """An object of the same namespace, by name."""

    name: DnsLabel
    """Name of the object, in the same namespace."""


class SecretRef(SpecModel):
    """A Secret; its keys are the ones DESIGN section 5 lists for stores and hubs."""

    name: Text
    """Name of the Secret, in the same namespace. It is mounted as files, which are read again on use: new credentials
    need no restart.
    """


class SecretKeyRef(SpecModel):
    """One key of a Secret."""

    name: Text
    """Name of the Secret, in the same namespace."""
    key: Text
    """Key of the Secret whose value is taken."""


class ConfigMapRef(SpecModel):
    """One key of a ConfigMap; without a key it must have exactly one."""

    name: Text
    """Name of the ConfigMap, in the same namespace."""
    key: Text | None = None
    """Key of the ConfigMap whose value is taken. Left out, the ConfigMap must have exactly one."""


class Compute(SpecModel):
    """Requests and limits of a container."""

    requests: Quantities = Field(default_factory=dict)
    """What a container is guaranteed, by resource name, such as `cpu: 500m` and `memory: 1Gi`."""
    limits: Quantities = Field(default_factory=dict)
    """What a container may use at most, by resource name. Above its memory limit it is killed (OOMKilled)."""


class LabelSelector(SpecModel):
    """Kubernetes' label selector."""

    match_labels: dict[Text, LabelValue] = Field(default_factory=dict, max_length=64)
    """Labels an object must have, each with this value."""
    match_expressions: Annotated[tuple[FreeObject, ...], Field(strict=False, max_length=16)] = ()
    """Requirements an object must meet, all of them: `key`, `operator` (In, NotIn, Exists, DoesNotExist) and `values`.
    """


class IdlePolicy(SpecModel):
    """What happens when no active RolloutJob refers to it. ``None`` never scales to zero."""

    scale_to_zero_after_seconds: Seconds | None = None
    """Seconds without an active RolloutJob that refers to it (and without a request) before the pods go; the next job
    brings them back. Left out, it never scales to zero.
    """


class Queue(SpecModel):
    """A Kueue LocalQueue."""

    name: DnsLabel
    """Name of the LocalQueue, in the same namespace. Pods start once Kueue admits them."""
    priority_class: DnsLabel | None = None
    """Name of a WorkloadPriorityClass. Left out, Kueue's default; a lower one is preempted first."""


class ObjectMeta(SpecModel):
    """Kubernetes' metadata. Fields that only an API server sets are accepted and not read."""

    name: DnsLabel
    namespace: DnsLabel | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    generate_name: str | None = None
    self_link: str | None = None
    uid: str | None = None
    generation: int | None = None
    resource_version: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    finalizers: Annotated[tuple[str, ...], Field(strict=False)] = ()
    owner_references: Annotated[tuple[FreeObject, ...], Field(strict=False)] = ()
    managed_fields: Annotated[tuple[FreeObject, ...], Field(strict=False)] = ()


class KubeObject(SpecModel):
    """Base of the three kinds. ``status`` is the operator's; a local run accepts it and does not read it."""

    api_version: Literal["kubegym.dev/v1alpha1"] = API_VERSION
    metadata: ObjectMeta
    status: FreeObject | None = None

    @property
    def name(self) -> str:
        """``metadata.name``."""
        return self.metadata.name


def require_exactly_one(model: BaseModel, *fields: str) -> None:
    """Check a union written as optional fields.

    Raises:
        ValueError: none or several of the fields are set.
    """
    present = [to_camel(name) for name in fields if getattr(model, name) is not None]
    if len(present) != 1:
        found = " and ".join(present) if present else "none"
        raise ValueError(f"exactly one of {', '.join(map(to_camel, fields))} must be set, found {found}")
