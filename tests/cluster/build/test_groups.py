"""Replicas over several nodes, and queues: rendered servers under the real LeaderWorkerSet and the real Kueue."""

from __future__ import annotations

import pytest

from testbed.k8s.cluster import Cluster
from testbed.k8s.kueue import queue
from testbed.k8s.process import until
from testbed.rendered import Object
from testbed.rendered_live import component, created, stored

CLAIM = {"uri": "pvc://weights/model"}
TWO_NODES = {"tensor": 4, "pipeline": 2, "nodes": 2}


def claim(cluster: Cluster, namespace: str) -> None:
    """A claim that is bound, so that pods with it can be scheduled."""
    volume = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadOnlyMany"],
        "hostPath": {"path": "/nowhere"},
        "storageClassName": "",
        "claimRef": {"name": "weights", "namespace": namespace},
    }
    request = {
        "accessModes": ["ReadOnlyMany"],
        "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": "",
        "volumeName": f"weights-of-{namespace}",
    }
    cluster.apply(
        [
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": f"weights-of-{namespace}"},
                "spec": volume,
            },
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "weights"}, "spec": request},
        ],
        namespace,
    )


def serving(cluster: Cluster, namespace: str, service: str) -> list[str]:
    """The pods that a Service leads to."""
    slices = cluster.api.list(
        "discovery.k8s.io/v1", "EndpointSlice", namespace, f"kubernetes.io/service-name={service}"
    )
    return sorted(each["targetRef"]["name"] for one in slices for each in one.get("endpoints") or ())


def variables(pod: Object) -> set[str]:
    return {each["name"] for each in pod["spec"]["containers"][0]["env"]}


def test_a_replica_over_two_nodes_serves_from_its_leader(kueue_cluster: Cluster, kueue_restricted: str) -> None:
    claim(kueue_cluster, kueue_restricted)
    spec = {"engine": "vllm", "source": CLAIM, "parallelism": TWO_NODES}
    created(kueue_cluster, [stored(kueue_cluster, kueue_restricted, "ModelServer", "large", spec)])
    (leader,) = kueue_cluster.pods.wait(kueue_restricted, component("model"))
    (follower,) = kueue_cluster.pods.wait(kueue_restricted, component("model-follower"))
    assert leader["metadata"]["name"] == "large-group-0"
    assert follower["metadata"]["name"] == "large-group-0-1"
    for pod in (leader, follower):
        assert pod["spec"]["nodeName"].startswith("gpu-")
        # What the rendered arguments expand: $(VARIABLE) of a later entry stays as it is.
        assert {"LWS_LEADER_ADDRESS", "LWS_WORKER_INDEX"} <= variables(pod)
    until(
        lambda: serving(kueue_cluster, kueue_restricted, "large") == ["large-group-0"],
        "the Service leads to the leader alone",
    )


@pytest.mark.parametrize(
    ("shape", "waits"), [({"tensor": 8}, "model"), ({"tensor": 8, "pipeline": 2, "nodes": 2}, "model-follower")]
)
def test_a_queue_takes_the_accelerators_quota(
    kueue_cluster: Cluster, kueue_restricted: str, shape: dict[str, int], waits: str
) -> None:
    """Two servers, quota for one: the second one's pods are held back, in one piece."""
    claim(kueue_cluster, kueue_restricted)
    gpus = shape["tensor"] * shape.get("pipeline", 1)
    kueue_cluster.apply(queue("gpus", kueue_restricted, nvidia_com__gpu=str(gpus), cpu="64", memory="64Gi"))
    spec = {"engine": "vllm", "source": CLAIM, "parallelism": shape, "queue": {"name": "gpus"}}
    created(kueue_cluster, [stored(kueue_cluster, kueue_restricted, "ModelServer", "first", spec)])
    kueue_cluster.pods.wait(kueue_restricted, component(waits))
    created(kueue_cluster, [stored(kueue_cluster, kueue_restricted, "ModelServer", "second", spec)])

    def held_back() -> bool:
        pods = kueue_cluster.pods.list(kueue_restricted, "kubegym.dev/modelserver-name=second")
        return bool(pods) and all(pod["spec"].get("schedulingGates") for pod in pods)

    until(held_back, "the second server's pods are gated")
    kueue_cluster.api.delete("kubegym.dev/v1alpha1", "ModelServer", "first", kueue_restricted)
    kueue_cluster.pods.wait(kueue_restricted, f"{component(waits)},kubegym.dev/modelserver-name=second")
