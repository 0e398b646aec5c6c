"""A cluster that knows our kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.k8s.api import Refused
from testbed.k8s.cluster import Cluster
from testbed.k8s.process import until
from testbed.manifest_corpus import API_VERSION, SPECS, manifest

CRDS = sorted((Path(__file__).resolve().parents[3] / "crds").glob("*.yaml"))
NOT_YET = (404, 504)  # the kind is not served, or its rules are still being compiled on a busy machine


@pytest.fixture(scope="session")
def crds(cluster: Cluster) -> None:
    """The three kinds are established, and taken at once."""
    for path in CRDS:
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(path))
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=300s", *(f"-f={path}" for path in CRDS))
    for kind in SPECS:
        until(lambda kind=kind: _takes(cluster, kind), f"the API server takes a {kind}")


def _takes(cluster: Cluster, kind: str) -> bool:
    try:
        path = cluster.api.path(API_VERSION, kind, "default")
        cluster.api.request("POST", path, manifest(kind, name="warm-up"), query={"dryRun": "All"})
    except Refused as refused:
        if refused.code in NOT_YET:
            return False
        raise
    return True
