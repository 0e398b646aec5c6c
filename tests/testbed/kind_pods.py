"""Pods of a test's own: run a command in an image, under the restrictions that the operator's pods have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from testbed.k8s.cluster import Cluster

_POD_SECONDS = 300  # on a loaded machine; a second or two otherwise
SECRET = "/var/run/secrets/kubegym/output"
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@dataclass(frozen=True)
class Ended:
    """A pod that ended.

    Attributes:
        code: exit code of its container.
        output: everything it printed.
    """

    code: int
    output: str


def pod(
    name: str,
    image: str,
    *,
    command: Sequence[str] = (),
    args: Sequence[str] = (),
    labels: dict[str, str] | None = None,
    secret: str = "",
    port: int = 0,
) -> dict[str, Any]:
    """A pod's manifest: restricted, without a token, its root read-only, with nothing to write to but /tmp.

    Args:
        name: of the pod and of a Service beside it.
        image: to run, as the user that it names.
        command: instead of the image's entry point.
        args: of the entry point or the command.
        labels: of the pod.
        secret: a Secret whose keys are files of the folder ``SECRET``.
        port: that it serves; the pod is ready when it is open.
    """
    container: dict[str, Any] = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    container |= {"command": list(command)} if command else {}
    container |= {"args": list(args)} if args else {}
    container |= {"readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1}} if port else {}
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {}}]
    if secret:
        volumes.append({"name": "secret", "secret": {"secretName": secret}})
        container["volumeMounts"].append({"name": "secret", "mountPath": SECRET, "readOnly": True})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": volumes,
        },
    }


def run(cluster: Cluster, namespace: str, manifest: dict[str, Any]) -> Ended:
    """Run a pod until it ends."""
    name = manifest["metadata"]["name"]
    cluster.apply(manifest, namespace=namespace)

    terminated = "{.status.containerStatuses[0].state.terminated}"
    cluster.kubectl(
        "wait", f"--for=jsonpath={terminated}", f"pod/{name}", f"--timeout={_POD_SECONDS}s", namespace=namespace
    )
    code = cluster.kubectl(
        "get", "pod", name, f"-o=jsonpath={terminated.replace('}', '.exitCode}')}", namespace=namespace
    )
    return Ended(int(code), cluster.kubectl("logs", name, namespace=namespace))


def python(cluster: Cluster, namespace: str, name: str, image: str, script: str, **settings: Any) -> Ended:
    """Run a Python script in an image of ours."""
    return run(cluster, namespace, pod(name, image, command=["python", "-c", script], **settings))
