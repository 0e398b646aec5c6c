"""Fake nodes and pods (KWOK). What happens to a pod is told by annotations, or afterwards by ``testbed.k8s.pods``.

Annotations of a pod, all optional (``stages.yaml`` reads them):

=====================================  ================================================================================
``testbed.kubegym.dev/hold``           it stays Pending, as with an image that is being pulled, until a test tells more
``testbed.kubegym.dev/ready-after``    a duration such as ``2s`` until it runs and is ready; 0 by default
``testbed.kubegym.dev/run``            a duration after which it ends by itself; without, it runs until it is deleted
``testbed.kubegym.dev/exit-code``      with which it ends by itself; 0 by default
``testbed.kubegym.dev/message``        its last words (the termination message), in plain characters
``testbed.kubegym.dev/sigterm-code``   with which it ends when it is deleted or evicted; 143 by default
``testbed.kubegym.dev/sigterm-after``  a duration that it takes to end then; 0 by default
``testbed.kubegym.dev/ip``             its address, such as 127.0.0.1, where a test listens in its place
=====================================  ================================================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

HOLD = "testbed.kubegym.dev/hold"
READY_AFTER = "testbed.kubegym.dev/ready-after"
RUN = "testbed.kubegym.dev/run"
EXIT_CODE = "testbed.kubegym.dev/exit-code"
MESSAGE = "testbed.kubegym.dev/message"
SIGTERM_CODE = "testbed.kubegym.dev/sigterm-code"
SIGTERM_AFTER = "testbed.kubegym.dev/sigterm-after"
POD_IP = "testbed.kubegym.dev/ip"

_FAKE = {"kwok.x-k8s.io/node": "fake"}


def kwok_command(kubeconfig: Path) -> list[str]:
    """The arguments of KWOK for the nodes of ``node``."""
    (annotation,) = (f"{key}={value}" for key, value in _FAKE.items())
    return [
        f"--kubeconfig={kubeconfig}",
        f"--config={Path(__file__).with_name('stages.yaml')}",
        f"--manage-nodes-with-annotation-selector={annotation}",
        "--node-lease-duration-seconds=40",
        "--cidr=100.64.0.0/16",
        "--node-ip=127.0.0.1",
    ]


def node(
    name: str,
    *,
    gpus: int = 8,
    resource: str = "nvidia.com/gpu",
    cpu: str = "64",
    memory: str = "512Gi",
    pods: int = 110,
    zone: str = "zone-a",
    labels: dict[str, str] | None = None,
    taints: list[dict[str, str]] | None = None,
) -> dict[str, Any]:
    """A fake node: ``gpus`` of the extended resource ``resource``, and what real nodes say of themselves."""
    capacity = {"cpu": cpu, "memory": memory, "pods": str(pods), "ephemeral-storage": "1Ti"}
    described = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/zone": zone,
    }
    if gpus:
        capacity[resource] = str(gpus)
        described["nvidia.com/gpu.product"] = "NVIDIA-H200"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "annotations": _FAKE, "labels": {**described, **(labels or {})}},
        "spec": {"taints": taints or []},
        "status": {"capacity": capacity, "allocatable": capacity},
    }
