"""Pods that keep to the pod security standard ``restricted``: no root, no token, no writable root, last words kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from kubegym.core.spec import Compute
from kubegym_operator.build import labels
from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.errors import InvalidPodTemplate
from kubegym_operator.build.labels import Owner
from kubegym_operator.build.overlay import overlaid

UID: Final = 65532
"""The user and group of our images: "nonroot" of the distroless images."""

TMP: Final = "/tmp"
CA_BUNDLE_FOLDER: Final = "/etc/kubegym/ca/bundle"
SECRETS_FOLDER: Final = "/var/run/secrets/kubegym"

DRAIN_SECONDS: Final = 5
"""How long a server still answers after it was told to go, so that nobody is sent to it any more."""

SERVER_GRACE_SECONDS: Final = 45
"""For our servers: the drain, 30 s for requests in flight (``http.server.serve``), and some."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume and where a container sees it. Pods have each volume once, however many containers mount it."""

    volume: Mapping[str, Any]
    path: str
    read_only: bool = True
    sub_path: str | None = None

    def to_volume_mount(self) -> dict[str, Any]:
        """The container's half."""
        mount: dict[str, Any] = {"name": self.volume["name"], "mountPath": self.path}
        if self.read_only:
            mount["readOnly"] = True
        if self.sub_path:
            mount["subPath"] = self.sub_path
        return mount


def secret_mount(name: str, secret: str, path: str, key: str | None = None) -> Mount:
    """A Secret as files; one key of it where ``key`` is given. Changes arrive in the files, nothing restarts."""
    source: dict[str, Any] = {"secretName": secret}
    if key is not None:
        source["items"] = [{"key": key, "path": key}]
    return Mount({"name": name, "secret": source}, path)


def config_mount(name: str, config_map: str, path: str, key: str | None = None) -> Mount:
    """A ConfigMap as files; one key of it where ``key`` is given."""
    source: dict[str, Any] = {"name": config_map}
    if key is not None:
        source["items"] = [{"key": key, "path": key}]
    return Mount({"name": name, "configMap": source}, path)


def scratch_mount(name: str, path: str, size_limit: str | None = None, *, memory: bool = False) -> Mount:
    """A folder that goes with the pod; ``memory`` counts against the container's memory."""
    source: dict[str, Any] = {}
    if memory:
        source["medium"] = "Memory"
    if size_limit is not None:
        source["sizeLimit"] = size_limit
    return Mount({"name": name, "emptyDir": source}, path, read_only=False)


def ca_bundle(context: BuildContext) -> tuple[list[Mount], dict[str, str]]:
    """Mount and variables of the cluster's own certificate authorities, for pods that reach the outside."""
    if context.ca_config_map is None:
        return [], {}
    path = f"{CA_BUNDLE_FOLDER}/ca.crt"
    variables = dict.fromkeys(("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"), path)
    return [config_mount("ca-bundle", context.ca_config_map, CA_BUNDLE_FOLDER, "ca.crt")], variables


@dataclass(frozen=True, slots=True)
class Container:
    """A container, before it becomes a dict.

    Attributes:
        name, image: as in Kubernetes; an image of None is the overlay's to give.
        args, command: the image's entrypoint (``kubegym``) gets the args, unless there is a command.
        env: values, or whole ``valueFrom`` mappings.
        mounts: with their volumes; ``/tmp`` is always there.
        port: a TCP port, named ``http``.
        compute: requests and limits.
        extra: anything else (probes, lifecycle).
    """

    name: str
    image: str | None
    args: Sequence[str] = ()
    command: Sequence[str] = ()
    env: Mapping[str, str | Mapping[str, Any]] = field(default_factory=dict)
    mounts: Sequence[Mount] = ()
    port: int | None = None
    compute: Compute | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self, context: BuildContext) -> dict[str, Any]:
        """The container as Kubernetes has it."""
        container: dict[str, Any] = {"name": self.name}
        if self.image is not None:
            container["image"] = self.image
        if context.image_pull_policy is not None:
            container["imagePullPolicy"] = context.image_pull_policy
        if self.command:
            container["command"] = list(self.command)
        if self.args:
            container["args"] = list(self.args)
        env = {"HOME": TMP, **self.env}  # the root file system is read-only, and so is the image's home
        container["env"] = [_variable(name, value) for name, value in env.items()]
        if self.port is not None:
            container["ports"] = [{"name": "http", "containerPort": self.port, "protocol": "TCP"}]
        if self.compute is not None and (resources := compute_resources(self.compute)):
            container["resources"] = resources
        container["volumeMounts"] = [{"name": "tmp", "mountPath": TMP}, *(m.to_volume_mount() for m in self.mounts)]
        return {**container, **self.extra}


def _variable(name: str, value: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "value": value} if isinstance(value, str) else {"name": name, "valueFrom": dict(value)}


def compute_resources(compute: Compute) -> dict[str, Any]:
    """A container's ``resources``."""
    parts = {"requests": dict(compute.requests), "limits": dict(compute.limits)}
    return {name: values for name, values in parts.items() if values}


def pod_identity() -> dict[str, Mapping[str, Any]]:
    """Variables that tell a pod who it is."""
    paths = {
        "POD_NAME": "metadata.name",
        "POD_UID": "metadata.uid",
        "POD_IP": "status.podIP",
        "POD_NAMESPACE": "metadata.namespace",
    }
    return {name: {"fieldRef": {"fieldPath": path}} for name, path in paths.items()}


def http_probe(path: str, *, period: int = 10, failures: int = 3, timeout: int = 5) -> dict[str, Any]:
    """A probe of the container's ``http`` port; numbers in seconds and failures in a row."""
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": timeout,
    }


def server_probes(*, startup_seconds: int = 300) -> dict[str, Any]:
    """Probes and drain of a server of ours (``http.server``): alive at ``/healthz``, ready at ``/readyz``."""
    return {
        "startupProbe": http_probe("/healthz", period=2, failures=startup_seconds // 2),
        "readinessProbe": http_probe("/readyz", period=5),
        "livenessProbe": http_probe("/healthz", failures=6),
        "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}},
    }


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod template, before it becomes a dict.

    Attributes:
        owner, component: whom the pod is labelled for.
        containers, init_containers: the first container is the main one.
        service_account: its name; no pod mounts its token.
        grace_seconds: from SIGTERM's announcement (preStop) to SIGKILL.
        annotations: of the pods.
        labels: besides those of owner and component.
        extra: anything else of the pod's spec.
    """

    owner: Owner
    component: str
    containers: Sequence[Container]
    service_account: str
    init_containers: Sequence[Container] = ()
    grace_seconds: int = SERVER_GRACE_SECONDS
    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_template(
        self,
        context: BuildContext,
        overlay: Mapping[str, Any] | None,
        overlay_field: str = "spec.podTemplate",
        *,
        adjustable: Collection[str] = (),
    ) -> dict[str, Any]:
        """The template, with the user's overlay merged and every container confined.

        Raises:
            InvalidPodTemplate: an overlay that cannot be merged.
        """
        mounts = [mount for container in (*self.init_containers, *self.containers) for mount in container.mounts]
        volumes = {mount.volume["name"]: dict(mount.volume) for mount in mounts}
        spec: dict[str, Any] = {
            "serviceAccountName": self.service_account,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": self.grace_seconds,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": UID,
                "runAsGroup": UID,
                "fsGroup": UID,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container.to_dict(context) for container in self.containers],
            "volumes": [{"name": "tmp", "emptyDir": {}}, *volumes.values()],
            **self.extra,
        }
        if self.init_containers:
            spec["initContainers"] = [container.to_dict(context) for container in self.init_containers]
        if context.image_pull_secrets:
            spec["imagePullSecrets"] = [{"name": name} for name in context.image_pull_secrets]
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            confine(container)
        metadata: dict[str, Any] = {"labels": {**labels.labels(self.owner, self.component), **self.labels}}
        if self.annotations:
            metadata["annotations"] = dict(self.annotations)
        template = {"metadata": metadata, "spec": spec}
        merged = overlaid(template, overlay, overlay_field, adjustable=adjustable)
        for container in (*merged["spec"].get("initContainers", ()), *merged["spec"]["containers"]):
            confine(container)  # the overlay's own containers, too
            if "image" not in container:
                message = f"the container {container['name']!r} needs an image"
                raise InvalidPodTemplate(f"{overlay_field}.spec.containers", message)
        return merged


def confine(container: dict[str, Any]) -> None:
    """Fill in, in place, what ``restricted`` asks of a container, and where its last words are kept."""
    container.setdefault("terminationMessagePolicy", "FallbackToLogsOnError")
    security = container.setdefault("securityContext", {})
    security.setdefault("allowPrivilegeEscalation", False)
    security.setdefault("readOnlyRootFilesystem", True)
    security.setdefault("capabilities", {}).setdefault("drop", ["ALL"])
