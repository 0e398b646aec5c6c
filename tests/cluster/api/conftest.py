"""A cluster that knows our kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.k8s.cluster import Cluster

CRDS = sorted((Path(__file__).resolve().parents[3] / "crds").glob("*.yaml"))


@pytest.fixture(scope="session")
def crds(cluster: Cluster) -> None:
    """The three kinds are established."""
    for path in CRDS:
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(path))
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", *(f"-f={path}" for path in CRDS))
