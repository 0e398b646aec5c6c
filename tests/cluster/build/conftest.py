"""Clusters that know our kinds, with namespaces that admit restricted pods only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.k8s.cluster import Cluster
from testbed.rendered_live import RESTRICTED, know_our_kinds


@pytest.fixture(scope="session")
def kinds(cluster: Cluster) -> None:
    """Our kinds in ``cluster``, and the kernel for untrusted code that a golden case asks for."""
    know_our_kinds(cluster)
    gvisor = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": "gvisor"},
        "handler": "runsc",
    }
    cluster.apply([gvisor])


@pytest.fixture(scope="session")
def kueue_kinds(kueue_cluster: Cluster) -> None:
    """Our kinds in ``kueue_cluster``."""
    know_our_kinds(kueue_cluster)


@pytest.fixture
def restricted(cluster: Cluster, kinds: None) -> Iterator[str]:
    """A namespace of ``cluster``."""
    with cluster.namespace("restricted", labels=RESTRICTED) as name:
        yield name


@pytest.fixture
def kueue_restricted(kueue_cluster: Cluster, kueue_kinds: None) -> Iterator[str]:
    """A namespace of ``kueue_cluster``."""
    with kueue_cluster.namespace("restricted", labels=RESTRICTED) as name:
        yield name
