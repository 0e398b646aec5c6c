"""A cluster that knows our kinds and the classes that golden files name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from testbed.k8s.api import Refused
from testbed.k8s.cluster import Cluster

CRDS = sorted((Path(__file__).resolve().parents[3] / "crds").glob("*.yaml"))
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="session")
def kinds(cluster: Cluster) -> None:
    """The three kinds are established, and there is a PriorityClass ``low``."""
    cluster.apply([yaml.safe_load(path.read_text()) for path in CRDS])
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", *(f"-f={path}" for path in CRDS))
    low = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "low"}, "value": 1}
    try:
        cluster.api.create(low)
    except Refused as refused:
        if refused.reason != "AlreadyExists":
            raise


@pytest.fixture
def restricted(cluster: Cluster, kinds: None) -> Iterator[str]:
    """A namespace that admits restricted pods only."""
    with cluster.namespace("restricted", labels=RESTRICTED) as name:
        yield name
