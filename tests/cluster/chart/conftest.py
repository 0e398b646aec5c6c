"""The real helm, and a control plane for the tests of the chart alone: they install and remove the CRDs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from testbed.build import CannotBuild
from testbed.definitions import await_definitions
from testbed.helm import NAMESPACE, Helm
from testbed.k8s.cluster import Cluster
from testbed.k8s.control_plane import control_plane
from testbed.monitoring import prometheus_operator_crds
from testbed.required import unavailable

TEAMS = ("team-a", "team-b")


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm without a cluster."""
    try:
        return Helm(tmp_path_factory.mktemp("helm"))
    except CannotBuild as error:
        unavailable(str(error))


@contextmanager
def new_cluster(scratch: Path) -> Iterator[Cluster]:
    """A cluster with the Prometheus operator's kinds, the release's namespace (restricted pods only) and two teams'."""
    try:
        with control_plane() as plane:
            found = Cluster(plane.kubeconfig, scratch, plane)
            with closing(found.api):
                found.apply(prometheus_operator_crds())
                await_definitions(found, "monitoring.coreos.com")
                restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
                found.apply(
                    [
                        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": restricted}}
                        for name in (NAMESPACE, *TEAMS)
                    ]
                )
                yield found
    except CannotBuild as error:
        unavailable(str(error))


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster for tests that install no release."""
    with new_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def chart_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of the test's own: an API server may take minutes to let go of a kind that it had twice."""
    with new_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def installer(chart_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm in ``chart_cluster``."""
    return Helm(tmp_path_factory.mktemp("helm"), chart_cluster.kubeconfig)
