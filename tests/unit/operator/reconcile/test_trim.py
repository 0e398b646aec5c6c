from __future__ import annotations

from typing import Any

import orjson
import pytest

from kubegym_operator.reconcile.trim import SOLE_REPLICAS, trimmed

DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {
        "name": "a",
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "x" * 9999, "kept": "yes"},
        "managedFields": [],
    },
    "spec": {"replicas": 2},
    "status": {"readyReplicas": 1},
}


def owners(*entries: tuple[str, str]) -> list[dict[str, Any]]:
    return [
        {"manager": manager, "operation": operation, "fieldsV1": {"f:spec": {"f:replicas": {}}}}
        for manager, operation in entries
    ]


def test_bookkeeping_is_dropped_and_the_rest_is_kept() -> None:
    before = orjson.dumps(DEPLOYMENT)
    small = trimmed(DEPLOYMENT)
    assert small["metadata"] == {"name": "a", "annotations": {"kept": "yes"}}
    assert small["spec"] == {"replicas": 2}
    assert small["status"] == {"readyReplicas": 1}
    assert orjson.dumps(DEPLOYMENT) == before


@pytest.mark.parametrize(
    ("managed", "sole"),
    [
        (owners(("kubegym", "Apply")), True),
        (owners(("kubegym", "Apply"), ("kubegym-replicas", "Apply")), False),
        (owners(("kubegym", "Apply"), ("hpa", "Update")), False),
        (owners(("kubegym-scale", "Update")), False),
        (owners(), False),
    ],
)
def test_who_owns_replicas_is_remembered(managed: list[dict[str, Any]], sole: bool) -> None:
    deployment = {**DEPLOYMENT, "metadata": {"name": "a", "managedFields": managed}}
    assert (SOLE_REPLICAS in trimmed(deployment)["metadata"]) is sole


def test_of_a_pod_only_its_state_is_kept() -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "namespace": "n",
            "uid": "u",
            "resourceVersion": "7",
            "generateName": "p-",
            "labels": {"a": "b"},
            "annotations": {"kubegym.dev/x": "1", "cni": "long"},
            "ownerReferences": [{"uid": "o"}],
            "managedFields": [{}],
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "x"}], "volumes": [{}] * 9},
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "podIPs": [{"ip": "10.0.0.1"}],
            "qosClass": "Burstable",
            "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/4 nodes"}],
            "containerStatuses": [
                {
                    "name": "main",
                    "ready": False,
                    "restartCount": 3,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"exitCode": 1, "message": "last words"}},
                    "imageID": "sha256:...",
                }
            ],
        },
    }
    small = trimmed(pod)
    assert small["metadata"] == {
        "name": "p",
        "namespace": "n",
        "uid": "u",
        "resourceVersion": "7",
        "labels": {"a": "b"},
        "annotations": {"kubegym.dev/x": "1"},
        "ownerReferences": [{"uid": "o"}],
    }
    assert small["spec"] == {"nodeName": "n1"}
    assert small["status"]["conditions"][0]["message"] == "0/4 nodes"
    assert small["status"]["containerStatuses"][0]["lastState"]["terminated"]["message"] == "last words"
    assert "imageID" not in small["status"]["containerStatuses"][0]
    assert "podIPs" not in small["status"]
