"""``autoscaling.mode: External``: the real HorizontalPodAutoscaler scales a ModelServer, and the operator lets it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.build import CannotBuild, module_folder
from testbed.k8s.api import Object
from testbed.k8s.cluster import KubectlFailed
from testbed.k8s.external_metrics import external_metrics
from testbed.k8s.process import until
from testbed.operator_desk import ROOT, Desk, quiet
from testbed.operator_manifests import API
from testbed.required import unavailable

PAGE = ROOT / "docs" / "how-to" / "serve-models.md"


def documented(kind: str) -> Object:
    """The manifest of a kind that the page shows."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    found = [one for text in blocks for one in yaml.safe_load_all(text) if isinstance(one, dict)]
    (manifest,) = [one for one in found if one.get("kind") == kind]
    return manifest


def server(name: str) -> Object:
    scaling = {"mode": "External", "minReplicas": 1, "maxReplicas": 8}
    return {
        "apiVersion": API,
        "kind": "ModelServer",
        "metadata": {"name": name},
        "spec": {"engine": "embedded", "autoscaling": scaling},
    }


def test_the_horizontal_pod_autoscaler_scales_it(desk: Desk, tmp_path: Path) -> None:
    autoscaler = documented("HorizontalPodAutoscaler")
    autoscaler["spec"]["behavior"] = {"scaleDown": {"stabilizationWindowSeconds": 0}}
    name = autoscaler["spec"]["scaleTargetRef"]["name"]
    metric = autoscaler["spec"]["metrics"][0]["external"]
    per_replica = float(metric["target"]["averageValue"])
    place = (desk.namespace, metric["metric"]["name"])

    def replicas() -> tuple[Any, Any, Any]:
        wanted = (desk.get("ModelServer", name) or {}).get("spec", {}).get("replicas")
        pods = (desk.deployment(name) or {}).get("spec", {}).get("replicas")
        return wanted, pods, desk.status("ModelServer", name).get("readyReplicas")

    def autoscaled() -> Any:
        return (desk.get("HorizontalPodAutoscaler", autoscaler["metadata"]["name"], "autoscaling/v2") or {})["status"]

    def await_replicas(count: int) -> None:
        try:
            until(lambda: replicas() == (count, count, count), f"{count} replicas")
        except TimeoutError as error:
            raise TimeoutError(f"{error}, but {replicas()}; the autoscaler says {autoscaled()}") from None

    with external_metrics(desk.cluster.plane, tmp_path) as metrics:
        metrics.values[place] = per_replica
        desk.apply(server(name))
        desk.until("ModelServer", name, "Ready", "True", "Available")
        desk.apply(autoscaler)
        metrics.values[place] = 3.5 * per_replica
        await_replicas(4)
        quiet(desk)
        desk.apply(server(name))  # as GitOps does again and again: without `replicas`
        quiet(desk)
        assert replicas() == (4, 4, 4)
        desk.operator.stop()
        desk.operator.start()
        quiet(desk)
        assert replicas() == (4, 4, 4), "another operator leaves it, too"
        metrics.values[place] = 0.0
        await_replicas(1)
        assert autoscaled()["desiredReplicas"] == 1
    specs = [write for write in desk.writes() if "modelservers" in write and not write.endswith("/status")]
    assert not [write for write in specs if "scale" in write], specs


def test_keda_takes_the_example(desk: Desk) -> None:
    """Against KEDA's own definition, on the API server; its operator takes minutes to build and does not run here."""
    try:
        folder = module_folder("keda") / "config" / "crd" / "bases"
    except CannotBuild as error:
        unavailable(str(error))
    definition = str(folder / "keda.sh_scaledobjects.yaml")
    desk.cluster.kubectl("apply", "--server-side", "-f", definition)
    desk.cluster.kubectl("wait", "--for=condition=Established", "crd/scaledobjects.keda.sh")
    example = documented("ScaledObject")
    apply = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
    desk.cluster.kubectl(*apply, namespace=desk.namespace, stdin=yaml.safe_dump(example))
    example["spec"]["triggers"] = "none"
    with pytest.raises(KubectlFailed, match="triggers"):
        desk.cluster.kubectl(*apply, namespace=desk.namespace, stdin=yaml.safe_dump(example))
