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


def obey(desk: Desk, version: int, told: Told) -> set[str]:
    """Those that were ordered to serve a version say this from now on; the addresses of those that were news."""
    answers = desk.operator.answers

    def ordered() -> set[str]:
        """An order that was on its way is said twice."""
        addresses = {order.address for order in list(answers.orders) if order.body["version"] == version}
        return {address for address in addresses if answers.told[address] != told}

    until(lambda: bool(ordered()), f"somebody is told of version {version}")
    addresses = ordered()
    answers.told.update(dict.fromkeys(addresses, told))
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
    for _ in range(3):
        assert len(obey(desk, 7, Told(7))) == 1, "one after the other"
        assert versions()[0] in (6, 7)
    until(lambda: versions() == (7, 7), "all serve version 7")
    desk.until("ModelServer", "m", "Ready", "True", "Available")
    assert replicas(desk) == before, "no pod was replaced"
    quiet(desk)

    desk.apply(manifest(8))
    failed = Told(7, failed=8, reason="WeightsCorrupt", message="they differ by 2.3 nats a token")
    for _ in range(2):  # the second one shows that it is not the fault of the first
        assert len(obey(desk, 8, failed)) == 1, "one after the other"
    assert {order.address for order in desk.operator.answers.orders} <= set(before.values()), "of ours"
    assert "2.3 nats" in desk.until("ModelServer", "m", "Stalled", "True", "WeightsCorrupt")
    assert desk.condition("ModelServer", "m", "Serving")[:2] == ("True", "Available")
    assert versions() == (7, 8)
    config = desk.get("ConfigMap", "m-weights", "v1")
    assert config is not None
    announced = json.loads(config["data"]["announced.json"])
    assert (announced["wanted"]["version"], announced["good"]["version"]) == (8, 7)

    def told() -> set[str]:
        events = json.loads(desk.cluster.kubectl("get", "events", "-o", "json", namespace=desk.namespace))["items"]
        return {event["reason"] for event in events if event["involvedObject"]["name"] == "m"}

    until(lambda: told() >= {"WeightsUpdated", "WeightsCorrupt"}, "events tell of both")
