"""What a kind cluster of ours gets besides Kubernetes: NetworkPolicies that hold, metrics, and an S3 server.

The manifests are those of the programs' own modules, with our images; only the S3 server's is ours.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from testbed.build import module_folder
from testbed.k8s.cluster import Cluster

FILES = Path(__file__).resolve().parent / "kind_files"
Manifest = dict[str, Any]


def network_policies(image: str) -> list[Manifest]:
    """kube-network-policies on every node, for clusters whose network plugin enforces none."""
    objects = _objects((module_folder("kube-network-policies") / "install.yaml").read_text())
    for container in _containers(objects):
        container["image"] = image
        container["args"] = ["--hostname-override=$(MY_NODE_NAME)", "--nfqueue-id=89", "--disable-nri", "--v=2"]
        container["args"] += [
            "--netfilter-bug-1766-fix=false"
        ]  # there the kernel has nothing to fix, and no module for it
        container["securityContext"]["runAsUser"] = 0
        container["imagePullPolicy"] = "IfNotPresent"
        container["resources"] = {"requests": {"cpu": "10m", "memory": "32Mi"}}
        container["volumeMounts"] = []
    for pod in _pods(objects):
        pod["volumes"] = []
    return objects


def metrics_server(cluster: Cluster, image: str) -> list[Manifest]:
    """metrics-server, which takes a kubelet's certificate as it is: kubeadm's are signed by nobody."""
    folder = module_folder("metrics-server") / "manifests" / "base"
    objects = _objects(cluster.kubectl("kustomize", str(folder)))
    for container in _containers(objects):
        container["image"] = image
        container["args"] += ["--kubelet-insecure-tls"]
        container["readinessProbe"] |= {"initialDelaySeconds": 0, "periodSeconds": 2}
        container["resources"] = {"requests": {"cpu": "20m", "memory": "64Mi"}}
    return objects


def s3_server(namespace: str, image: str, base: str) -> list[Manifest]:
    """An S3 server with the bucket and the Secret that the sample RolloutJobs use."""
    text = string.Template((FILES / "s3.yaml").read_text())
    return _objects(text.substitute(NAMESPACE=namespace, S3=image, BASE=base))


def _objects(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


def _pods(objects: list[Manifest]) -> Iterator[Manifest]:
    for manifest in objects:
        if manifest["kind"] in ("DaemonSet", "Deployment"):
            yield manifest["spec"]["template"]["spec"]


def _containers(objects: list[Manifest]) -> Iterator[Manifest]:
    for pod in _pods(objects):
        yield from pod["containers"]
