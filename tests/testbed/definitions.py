"""Waiting for CustomResourceDefinitions to be served."""

from __future__ import annotations

from testbed.k8s.cluster import Cluster
from testbed.k8s.process import until


def await_definitions(cluster: Cluster, group: str, count: int = 3) -> None:
    """Wait until ``count`` definitions of a group are established. (`kubectl wait` fails on one without conditions.)"""

    def established() -> bool:
        crds = cluster.api.list("apiextensions.k8s.io/v1", "CustomResourceDefinition")
        return count == sum(
            condition["status"] == "True"
            for crd in crds
            if crd["spec"]["group"] == group
            for condition in crd.get("status", {}).get("conditions") or ()
            if condition["type"] == "Established"
        )

    until(established, f"the kinds of {group} are served")
