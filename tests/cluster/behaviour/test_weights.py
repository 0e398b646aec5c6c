"""Announced weights on a real API server, with answers in the place of model servers."""

from __future__ import annotations

import json
from collections.abc import Callable

from kubegym_operator.plan.snapshot import Told
from testbed.k8s.api import Object
from testbed.k8s.process import until
from testbed.operator_desk import Desk, quiet
from testbed.operator_manifests import API


def manifest(version: int, **weights: object) -> Object:
    spec = {
        "engine": "vllm",
        "source": {"uri": "pvc://models/base"},
        "weights": {"uri": f"pvc://models/{version}", "version": version, **weights},
        "replicas": 3,
        "accelerator": {"resourceName": "cpu"},
    }
    return {"apiVersion": API, "kind": "ModelServer", "metadata": {"name": "m"}, "spec": spec}


def claim(desk: Desk) -> None:
    """A claim whose pods the scheduler takes: it is bound to a volume of the fake nodes."""
    name = f"models-of-{desk.namespace}"
    size, modes = {"storage": "1Gi"}, ["ReadOnlyMany"]
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "accessModes": modes,
            "capacity": size,
            "hostPath": {"path": "/nowhere"},
            "storageClassName": "",
            "claimRef": {"name": "models", "namespace": desk.namespace},
        },
    }
    claimed = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models"},
        "spec": {"accessModes": modes, "resources": {"requests": size}, "storageClassName": "", "volumeName": name},
    }
    desk.apply(volume, claimed)
    until(
        lambda: ((desk.get("PersistentVolumeClaim", "models", "v1") or {}).get("status") or {}).get("phase") == "Bound",
        "the claim is bound",
    )


def replicas(desk: Desk) -> dict[str, str]:
    """Addresses of the pods, by name."""
    pods = desk.cluster.pods.list(desk.namespace, "app.kubernetes.io/component=model")
    return {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in pods if pod["status"].get("podIP")}


def obey(desk: Desk, told: Told) -> set[str]:
    """Those that were ordered do so; their addresses."""
    orders = desk.operator.answers.orders
    until(lambda: bool(orders), "somebody is told")
    addresses = {order.address for order in list(orders)}
    for address in addresses:
        desk.operator.answers.told[address] = told
    orders.clear()
    return addresses


def status(desk: Desk) -> Callable[[], tuple[int | None, int | None]]:
    def versions() -> tuple[int | None, int | None]:
        found = desk.status("ModelServer", "m")
        return found.get("policyVersion"), found.get("targetPolicyVersion")

    return versions


def test_weights_go_from_replica_to_replica_and_what_does_not_prove_is_told(desk: Desk) -> None:
    claim(desk)
    versions = status(desk)
    desk.apply(manifest(6))
    until(lambda: len(replicas(desk)) == 3, "three replicas run")
    desk.operator.answers.told.update(dict.fromkeys(replicas(desk).values(), Told(6)))
    until(lambda: versions() == (6, 6), "all serve version 6")
    desk.until("ModelServer", "m", "Ready", "True", "Available")
    before = replicas(desk)

    desk.apply(manifest(7))
    seen: list[set[str]] = []
    while len(seen) < 3:
        told = obey(desk, Told(7))
        if told not in seen:  # an order that was on its way is said twice
            seen.append(told)
        assert versions()[0] in (6, 7)
    until(lambda: versions() == (7, 7), "all serve version 7")
    assert all(len(one) == 1 for one in seen), "one after the other"
    desk.until("ModelServer", "m", "Ready", "True", "Available")
    assert replicas(desk) == before, "no pod was replaced"
    quiet(desk)

    desk.operator.answers.orders.clear()
    desk.apply(manifest(8))
    failed = Told(7, failed=8, reason="WeightsCorrupt", message="they differ by 2.3 nats a token")
    obey(desk, failed)
    until(lambda: len({one.address for one in desk.operator.answers.orders} - set(before.values())) == 0, "of ours")
    until(lambda: desk.condition("ModelServer", "m", "Stalled")[0] == "True" or bool(obey(desk, failed)), "it stands")
    assert "2.3 nats" in desk.until("ModelServer", "m", "Stalled", "True", "WeightsCorrupt")
    assert desk.condition("ModelServer", "m", "Serving")[:2] == ("True", "Available")
    assert versions() == (7, 8)
    config = desk.get("ConfigMap", "m-weights", "v1")
    assert config is not None
    announced = json.loads(config["data"]["announced.json"])
    assert (announced["wanted"]["version"], announced["good"]["version"]) == (8, 7)
    events = desk.cluster.kubectl("get", "events", "-o", "json", namespace=desk.namespace)
    reasons = [event["reason"] for event in json.loads(events)["items"] if event["involvedObject"]["name"] == "m"]
    assert "WeightsUpdated" in reasons
    assert "WeightsCorrupt" in reasons
