"""Our conditions as kstatus reads them, by the real helm: ``--wait`` ends when objects are healthy. So does Flux's."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.build import binary
from testbed.k8s.cluster import Cluster
from testbed.k8s.process import until
from testbed.manifest_corpus import API_VERSION, manifest

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("crds")]

KINDS = ("GymEnvironment", "ModelServer", "RolloutJob")


def status(observed: int = 1, **conditions: str) -> dict[str, Any]:
    """A status in which each condition has a status."""
    return {
        "observedGeneration": observed,
        "conditions": [
            {
                "type": name,
                "status": value,
                "reason": "Because",
                "message": "",
                "lastTransitionTime": "2026-11-28T09:00:00Z",
            }
            for name, value in conditions.items()
        ],
    }


def install(
    cluster: Cluster, namespace: str, folder: Path, kind: str, seen: dict[str, Any] | None, seconds: int
) -> str:
    """What ``helm install --wait`` of one object complains of; the object gets a status while helm waits."""
    (folder / "templates").mkdir()
    (folder / "Chart.yaml").write_text("apiVersion: v2\nname: one\nversion: 0.1.0\n")
    (folder / "templates" / "object.yaml").write_text(yaml.safe_dump(manifest(kind)))
    command = [binary("helm"), "install", "one", folder, f"--namespace={namespace}", "--wait", f"--timeout={seconds}s"]
    environment = {"KUBECONFIG": str(cluster.kubeconfig), "HOME": str(folder)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as helm:
        until(lambda: cluster.api.get(API_VERSION, kind, "x", namespace) is not None, "helm has created the object")
        if seen is not None:
            cluster.api.patch(API_VERSION, kind, "x", {"status": seen}, namespace, subresource="status")
        _, complaint = helm.communicate(timeout=90)
    assert bool(complaint) == bool(helm.returncode)
    return complaint


@pytest.mark.parametrize("kind", KINDS)
def test_helm_stops_waiting_when_nothing_is_left_to_do(
    cluster: Cluster, namespace: str, tmp_path: Path, kind: str
) -> None:
    healthy = {"Ready": "True"} if kind != "RolloutJob" else {"Progressing": "True"}
    seen = status(Reconciling="False", Stalled="False", **healthy)

    assert install(cluster, namespace, tmp_path, kind, seen, 60) == ""


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (None, "InProgress"),
        (status(0, Reconciling="False", Stalled="False", Ready="True"), "InProgress"),
        (status(Reconciling="True", Stalled="False", Ready="False"), "InProgress"),
        (status(Reconciling="False", Stalled="False", Ready="False"), "InProgress"),
        (status(Reconciling="False", Stalled="True", Ready="False"), "Failed"),
    ],
    ids=["new", "older-generation", "reconciling", "not-ready", "stalled"],
)
def test_helm_gives_up_on_what_is_not_healthy(
    cluster: Cluster, namespace: str, tmp_path: Path, seen: dict[str, Any] | None, verdict: str
) -> None:
    complaint = install(cluster, namespace, tmp_path, "GymEnvironment", seen, 5)

    assert f"{namespace}/x not ready. status: {verdict}" in complaint
