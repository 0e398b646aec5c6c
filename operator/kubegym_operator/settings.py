"""What an operator process is told: environment variables ``KUBEGYM_OPERATOR_*``, read once at its start.

Lists and maps are JSON, as the chart writes them. What pods are rendered with is here, too: images, addresses, proxies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class ImagesSetting(_Part):
    """The image of each role, where a spec names none."""

    model: str = "kubegym-model"
    vllm: str = "vllm/vllm-openai"
    agent: str = "kubegym-agent"
    resources: str = "kubegym-resources"
    worker: str = "kubegym-agent"


class PeerSetting(_Part):
    """Pods that a NetworkPolicy names; without ``namespaceLabels`` those of the policy's own namespace."""

    namespace_labels: dict[str, str] | None = None
    pod_labels: dict[str, str] = Field(default_factory=dict)


class DnsSetting(_Part):
    """Who resolves names: pods, and addresses such as a node-local cache's."""

    pods: tuple[PeerSetting, ...] = (
        PeerSetting(
            namespace_labels={"kubernetes.io/metadata.name": "kube-system"}, pod_labels={"k8s-app": "kube-dns"}
        ),
    )
    cidrs: tuple[str, ...] = ()
    ports: tuple[int, ...] = (53,)


class OperatorSettings(BaseSettings):
    """The settings of one process.

    Attributes:
        watch_namespaces: the namespaces it works in; empty means all.
        kubeconfig: how to reach the API server; None takes the pod's service account, else ``KUBECONFIG``.
        listen: host and port of ``/healthz``, ``/readyz`` and ``/metrics``; an empty host is every address.
        log_level, log_format: of the log on standard error; ``json`` is one object a line.
        lease_name: of the Lease in the operator's own namespace.
        lease_namespace: another one for it.
        lease_duration_seconds: after how many seconds without renewal another operator may lead.
        lease_renew_seconds: after how many the process ends.
        lease_retry_seconds: how often the lease is renewed.
        workers: how many objects are reconciled at a time.
        writes_per_second, write_burst: how fast the API server is written to.
        request_seconds: how long one request may take.
        resync_seconds: how often everything is listed and looked at again.
        stuck_seconds: a key due for longer makes the liveness probe fail.
        images, image_pull_secrets, image_pull_policy: of the pods it makes.
        ca_config_map: a ConfigMap of every namespace with the key ``ca.crt``, trusted by pods that reach the outside.
        dns, pod_cidrs, service_cidrs, identity_egress, monitoring: addresses for NetworkPolicies.
        proxy_env: proxy variables for pods that reach the outside.
    """

    model_config = SettingsConfigDict(env_prefix="KUBEGYM_OPERATOR_", frozen=True, env_ignore_empty=True)

    watch_namespaces: tuple[str, ...] = ()
    kubeconfig: Path | None = None
    listen: str = ":8080"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "text"

    lease_name: str = "kubegym-operator"
    lease_namespace: str | None = None
    lease_duration_seconds: Seconds = 15.0
    lease_renew_seconds: Seconds = 10.0
    lease_retry_seconds: Seconds = 2.0

    workers: Annotated[int, Field(ge=1, le=64)] = 16
    writes_per_second: Seconds = 100.0
    write_burst: Annotated[int, Field(ge=1)] = 200
    request_seconds: Seconds = 30.0
    resync_seconds: Seconds = 420.0
    stuck_seconds: Seconds = 900.0

    images: ImagesSetting = ImagesSetting()
    image_pull_secrets: tuple[str, ...] = ()
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    ca_config_map: str | None = None
    dns: DnsSetting = DnsSetting()
    pod_cidrs: tuple[str, ...] = ()
    service_cidrs: tuple[str, ...] = ()
    identity_egress: tuple[dict[str, Any], ...] = ()
    monitoring: tuple[PeerSetting, ...] = ()
    proxy_env: dict[str, str] = Field(default_factory=dict)

    pod_name: str = Field(default="", validation_alias="POD_NAME")
    pod_namespace: str = Field(default="default", validation_alias="POD_NAMESPACE")

    @field_validator("listen")
    @classmethod
    def _names_a_port(cls, value: str) -> str:
        _, colon, port = value.rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"HOST:PORT or :PORT, not {value!r}")
        return value

    @model_validator(mode="after")
    def _lease_spans_grow(self) -> Self:
        if not self.lease_retry_seconds < self.lease_renew_seconds < self.lease_duration_seconds:
            raise ValueError("lease_retry_seconds < lease_renew_seconds < lease_duration_seconds, or two may lead")
        return self

    @property
    def address(self) -> tuple[str | None, int]:
        """Host (None is every address) and port to listen on."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]") or None, int(port)
