"""Queues of Kueue (``controllers.py`` starts it)."""

from __future__ import annotations

from typing import Any

_API = "kueue.x-k8s.io/v1beta2"


def queue(name: str, namespace: str, **quotas: str) -> list[dict[str, Any]]:
    """A LocalQueue ``name`` in ``namespace``, and the ClusterQueue ``<namespace>-<name>`` and flavor that it needs.

    ``quotas`` are by resource, with underscores: ``cpu="8"``, ``nvidia_com__gpu="4"`` for ``nvidia.com/gpu``.
    """
    above = f"{namespace}-{name}"
    resources = {resource.replace("__", "/").replace("_", "."): quota for resource, quota in quotas.items()}
    group = {
        "coveredResources": list(resources),
        "flavors": [
            {
                "name": above,
                "resources": [{"name": resource, "nominalQuota": quota} for resource, quota in resources.items()],
            }
        ],
    }
    preemption = {"withinClusterQueue": "LowerPriority"}
    return [
        {"apiVersion": _API, "kind": "ResourceFlavor", "metadata": {"name": above}},
        {
            "apiVersion": _API,
            "kind": "ClusterQueue",
            "metadata": {"name": above},
            "spec": {"namespaceSelector": {}, "resourceGroups": [group], "preemption": preemption},
        },
        {
            "apiVersion": _API,
            "kind": "LocalQueue",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterQueue": above},
        },
    ]
