"""Our conditions as kstatus reads them, by the real helm: ``--wait`` ends when objects are healthy. So does Flux's."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
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
Helm = subprocess.Popen[str]


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


UNHEALTHY: dict[str, tuple[dict[str, Any] | None, str]] = {
    "new": (None, "InProgress"),
    "older-generation": (status(0, Reconciling="False", Stalled="False", Ready="True"), "InProgress"),
    "reconciling": (status(Reconciling="True", Stalled="False", Ready="False"), "InProgress"),
    "not-ready": (status(Reconciling="False", Stalled="False", Ready="False"), "InProgress"),
    "stalled": (status(Reconciling="False", Stalled="True", Ready="False"), "Failed"),
}
"""By name: what is said of an environment, and what helm makes of it."""


def install(cluster: Cluster, namespace: str, folder: Path, *objects: dict[str, Any], flags: Sequence[str]) -> Helm:
    """Start ``helm install --wait`` of some objects."""
    (folder / "templates").mkdir()
    (folder / "Chart.yaml").write_text("apiVersion: v2\nname: one\nversion: 0.1.0\n")
    (folder / "templates" / "objects.yaml").write_text(yaml.safe_dump_all(objects))
    command = [binary("helm"), "install", "one", folder, f"--namespace={namespace}", "--wait", *flags]
    environment = {"KUBECONFIG": str(cluster.kubeconfig), "HOME": str(folder)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def complaint_of(helm: Helm) -> str:
    """What it complains of in the end."""
    _, complaint = helm.communicate(timeout=600)
    assert bool(complaint) == bool(helm.returncode)
    return complaint


@pytest.mark.parametrize("kind", KINDS)
def test_helm_stops_waiting_when_nothing_is_left_to_do(
    cluster: Cluster, namespace: str, tmp_path: Path, kind: str
) -> None:
    healthy = {"Ready": "True"} if kind != "RolloutJob" else {"Progressing": "True"}
    seen = status(Reconciling="False", Stalled="False", **healthy)

    with install(cluster, namespace, tmp_path, manifest(kind), flags=["--timeout=300s"]) as helm:
        until(lambda: cluster.api.get(API_VERSION, kind, "x", namespace) is not None, "helm has created the object")
        cluster.api.patch(API_VERSION, kind, "x", {"status": seen}, namespace, subresource="status")
        assert complaint_of(helm) == ""


@pytest.fixture(scope="module")
def verdicts(cluster: Cluster, crds: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What helm says of unhealthy environments that it finds with their status, when it has waited for long enough."""
    with cluster.namespace() as namespace:
        for name, (seen, _) in UNHEALTHY.items():
            cluster.api.create(manifest("GymEnvironment", name=name), namespace)
            if seen is not None:
                told = {"status": seen}
                cluster.api.patch(API_VERSION, "GymEnvironment", name, told, namespace, subresource="status")
        objects = [manifest("GymEnvironment", name=name) for name in UNHEALTHY]
        folder, flags = tmp_path_factory.mktemp("unhealthy"), ["--take-ownership", "--timeout=30s"]
        with install(cluster, namespace, folder, *objects, flags=flags) as helm:
            complaint = complaint_of(helm)
    return dict(re.findall(rf"{namespace}/(\S+) not ready\. status: (\w+)", complaint))


@pytest.mark.parametrize("name", UNHEALTHY)
def test_helm_gives_up_on_what_is_not_healthy(verdicts: dict[str, str], name: str) -> None:
    _, verdict = UNHEALTHY[name]
    assert verdicts[name] == verdict
