"""The real API server takes every golden object, and every pod of them in a namespace that is ``restricted``."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from testbed.k8s.cluster import Cluster, KubectlFailed
from testbed.rendered import WORKLOADS, Object, pod_templates

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "build"
CASES = sorted(path.parent for path in GOLDEN.glob("*/input.yaml"))

NOT_SERVED = ("LeaderWorkerSet",)
"""Kinds of others that this cluster does not have; their pods are checked all the same."""


def objects_of(case: Path, namespace: str) -> list[Object]:
    objects = [yaml.safe_load(path.read_text()) for path in sorted((case / "expected").iterdir())]
    return [{**obj, "metadata": {**obj["metadata"], "namespace": namespace}} for obj in objects]


def dry_run(cluster: Cluster, objects: list[Object], namespace: str) -> list[str]:
    """What the API server would have made of them, as ``kind/name`` lines."""
    text = yaml.safe_dump_all(objects)
    arguments = ("apply", "--server-side", "--dry-run=server", "--field-manager=kubegym", "-f", "-")
    return cluster.kubectl(*arguments, namespace=namespace, stdin=text).splitlines()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_object_passes_a_server_side_dry_run(cluster: Cluster, restricted: str, case: Path) -> None:
    objects = [obj for obj in objects_of(case, restricted) if obj["kind"] not in NOT_SERVED]
    assert len(dry_run(cluster, objects, restricted)) == len(objects)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_pod_is_admitted_where_pods_are_restricted(cluster: Cluster, restricted: str, case: Path) -> None:
    workloads = [obj for obj in objects_of(case, restricted) if obj["kind"] in WORKLOADS]
    pods = []
    for workload in workloads:
        for number, template in enumerate(pod_templates(workload)):
            metadata = {**template["metadata"], "name": f"{workload['metadata']['name']}-{number}"}
            kind = workload["kind"].lower()
            metadata |= {"namespace": restricted, "name": f"{kind}-{metadata['name']}"[:63]}
            pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    accounts = sorted({pod["spec"]["serviceAccountName"] for pod in pods})
    cluster.apply(
        [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}} for name in accounts], restricted
    )
    assert len(dry_run(cluster, pods, restricted)) == len(pods) > 0


def test_the_namespace_does_refuse(cluster: Cluster, restricted: str) -> None:
    """Otherwise the tests above could not fail."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    with pytest.raises(KubectlFailed, match="violates PodSecurity"):
        dry_run(cluster, [pod], restricted)
