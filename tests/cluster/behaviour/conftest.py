"""The controller on a real API server, with fake nodes: what users see."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.k8s.cluster import Cluster
from testbed.operator_desk import Desk, install


@pytest.fixture(scope="session")
def crds(cluster: Cluster) -> None:
    """Our kinds are served by ``cluster``."""
    install(cluster)


@pytest.fixture
def desk(cluster: Cluster, crds: None, namespace: str) -> Iterator[Desk]:
    """A namespace of the test's own with an operator that runs."""
    made = Desk(cluster, namespace)
    made.operator.start()
    yield made
    made.operator.stop()


@pytest.fixture(scope="session")
def kueue_crds(kueue_cluster: Cluster) -> None:
    """Our kinds are served by ``kueue_cluster``."""
    install(kueue_cluster)


@pytest.fixture
def queued(kueue_cluster: Cluster, kueue_crds: None, kueue_namespace: str) -> Iterator[Desk]:
    """The same beside the real Kueue."""
    made = Desk(kueue_cluster, kueue_namespace)
    made.operator.start()
    yield made
    made.operator.stop()
