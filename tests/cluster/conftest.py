"""A real Kubernetes for the tests of this tier.

Each pytest process has a control plane of its own, so each worker of pytest-xdist, too: tests take the API server away,
drain nodes and replace CRDs, and would do that to each other. It costs 4 s and 0.6 GB. Within a process tests share it,
and keep apart by namespaces.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from testbed.build import CannotBuild
from testbed.k8s.cluster import Cluster, NotOurs
from testbed.k8s.control_plane import control_plane
from testbed.k8s.controllers import KUEUE, LWS
from testbed.k8s.process import until
from testbed.required import unavailable

HERE = Path(__file__).resolve().parent
_GIVEN = "KUBEGYM_TEST_KUBECONFIG"
_ANY_CLUSTER = ("api", "kube")  # folders whose tests need an API server, and nothing that runs


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster without Kueue, and without our CRDs until a test applies them.

    It is a control plane of its own, with the fake nodes ``cpu-0``, ``cpu-1`` (no GPU), ``gpu-0`` and ``gpu-1`` (eight
    each), unless ``KUBEGYM_TEST_KUBECONFIG`` or ``KUBECONFIG`` names one on this machine.
    """
    given = _given()
    if given is not None:
        found = Cluster(given, tmp_path_factory.mktemp("cluster"))
        with closing(found.api):
            _refuse_elsewhere(found)
            yield found
        return
    with _own(tmp_path_factory) as own:
        yield own


@pytest.fixture(scope="session")
def kueue_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane of its own with the real Kueue and LeaderWorkerSet.

    In ``cluster`` their webhooks would meet every pod of the other tests, and none could show how it is without them.
    """
    with _own(tmp_path_factory) as own:
        own.plane.start_controllers(LWS, KUEUE)  # in this order: Kueue looks which kinds there are
        yield own


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own in ``cluster``."""
    with cluster.namespace() as name:
        yield name


@pytest.fixture
def kueue_namespace(kueue_cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own in ``kueue_cluster``."""
    with kueue_cluster.namespace() as name:
        yield name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On a cluster that was given, only what asks its API server and no more; it has real nodes, or none."""
    if _given() is None:
        return
    for item in items:
        if not item.path.is_relative_to(HERE) or "cluster" not in getattr(item, "fixturenames", ()):
            continue
        if item.path.relative_to(HERE).parts[0] not in _ANY_CLUSTER:
            item.add_marker(pytest.mark.skip(reason="needs fake nodes, and KUBECONFIG names a cluster of its own"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """The same for single tests that ask for more."""
    try:
        yield
    except NotOurs as error:
        pytest.skip(str(error))


@contextmanager
def _own(folders: pytest.TempPathFactory) -> Iterator[Cluster]:
    try:
        with control_plane() as plane:
            own = Cluster(plane.kubeconfig, folders.mktemp("cluster"), plane)
            with closing(own.api):
                yield own
    except CannotBuild as error:
        unavailable(str(error))


def _given() -> Path | None:
    named = os.environ.get(_GIVEN) or os.environ.get("KUBECONFIG")
    return Path(named) if named else None


def _refuse_elsewhere(cluster: Cluster) -> None:
    """A developer's KUBECONFIG may name a cluster that others work with: tests use one on this machine, or none."""
    host = urlsplit(cluster.api.server).hostname or ""
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    if not here:
        pytest.fail(f"{cluster.kubeconfig} leads to {host}; tests use a cluster on this machine only", pytrace=False)
    until(cluster.api.answers, f"the cluster of {cluster.kubeconfig} answers")
