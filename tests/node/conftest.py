"""A real Kubernetes with real containers: kind, with this checkout's images, its chart, and an S3 server.

It is made for the session and leaves nothing behind, which is checked. ``KUBECONFIG`` names another to use instead,
such as that of ``make cluster``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import kind, kind_machine
from testbed.build import CannotBuild
from testbed.k8s.process import until
from testbed.kind import KindCluster
from testbed.required import unavailable

NAME = "kubegym-test"


@pytest.fixture(scope="session")
def cluster() -> Iterator[KindCluster]:
    """The cluster, its namespace ``rollouts`` ready for manifests."""
    given = os.environ.get("KUBECONFIG")
    if given:
        yield kind.given(Path(given))
        return
    try:
        kind.prepare()
    except CannotBuild as error:
        unavailable(f"no kind cluster: {error}")
    before = kind_machine.traces()
    try:
        yield kind.up(NAME)
    finally:
        kind.down(NAME)
    try:  # its last processes and interfaces take a moment to go
        until(lambda: not kind_machine.left_since(before), "nothing of the cluster is left")
    except TimeoutError:
        pytest.fail(f"the cluster has left something on the machine: {kind_machine.left_since(before)}")


@pytest.fixture
def namespace(cluster: KindCluster) -> Iterator[str]:
    """A namespace of the test's own, in which only restricted pods may run."""
    with cluster.namespace(labels=kind.RESTRICTED) as name:
        yield name
