"""The same, from a real vLLM. It is built for CPUs and serves the shipped model; see ``testbed.images.vllm_image``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import kubegym.model
from testbed import kind
from testbed.build import CannotBuild
from testbed.images import vllm_image
from testbed.kind import NAMESPACE, KindCluster
from testbed.kind_results import results
from testbed.kind_runs import applied, finished, greedy, output
from testbed.vllm_server import ARGUMENTS, VARIABLES

WEIGHTS = Path(kubegym.model.__file__).parent / "tiny"
VOLUME = "tiny-weights"


@pytest.fixture(scope="module")
def image(cluster: KindCluster) -> Iterator[str]:
    """vLLM's image on the node, and a volume claim there with the weights of the shipped model."""
    if not cluster.name:
        pytest.skip("vLLM's image and weights are put on the node of the tests' own cluster; KUBECONFIG names another")
    try:
        reference = vllm_image()
    except CannotBuild as error:
        # Not a failure in CI: no package index has that wheel. The same runs are collected from the embedded engine.
        pytest.skip(f"{error}; the embedded engine serves in its place")
    kind.load(cluster, [reference])
    with kind.claimed(cluster, VOLUME, WEIGHTS):
        yield reference


def test_a_real_vllm_gives_scored_rows(cluster: KindCluster, image: str) -> None:
    manifests = greedy("vllm", "Worker", "Worker")
    engine = {"name": "engine", "image": image, "env": [{"name": k, "value": v} for k, v in VARIABLES.items()]}
    manifests[0]["spec"]["models"]["policy"]["server"] = {
        "engine": "vllm",
        "source": {"uri": f"pvc://{VOLUME}"},
        "accelerator": {"resourceName": "cpu"},
        "engineArgs": ARGUMENTS,
        "podTemplate": {"spec": {"containers": [engine]}},
    }
    with applied(cluster, manifests):
        status = finished(cluster, "vllm")
        rows = results(cluster, NAMESPACE, output("vllm")).rows
        assert status["rollouts"]["scored"] == status["rollouts"]["expected"] == len(rows)
        assert sum(row["reward"] for row in rows) / len(rows) > 0.5
