"""``autoscaling.mode: External``: the real autoscalers scale a ModelServer, and the operator lets them.

They are Kubernetes' HorizontalPodAutoscaler and KEDA, with the manifests that the page shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kubegym_operator.metrics import ObjectsCollector
from kubegym_operator.plan.demand import wanted_rollouts
from testbed.build import CannotBuild
from testbed.k8s.api import Object
from testbed.k8s.external_metrics import external_metrics
from testbed.k8s.keda import keda
from testbed.k8s.process import until
from testbed.operator_desk import ROOT, Desk, quiet
from testbed.operator_manifests import API, environment, rollout_job
from testbed.prometheus import prometheus
from testbed.required import unavailable

KEDA_API = "keda.sh/v1alpha1"
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


class Scaled:
    """A server that others scale, as everybody sees it."""

    def __init__(self, desk: Desk, name: str) -> None:
        self._desk = desk
        self._name = name

    def replicas(self) -> tuple[Any, Any, Any]:
        """Those that the scaler wrote, those of the Deployment, and those that are ready."""
        wanted = (self._desk.get("ModelServer", self._name) or {}).get("spec", {}).get("replicas")
        pods = (self._desk.deployment(self._name) or {}).get("spec", {}).get("replicas")
        return wanted, pods, self._desk.status("ModelServer", self._name).get("readyReplicas")

    def autoscaler(self) -> Object | None:
        """The HorizontalPodAutoscaler."""
        found = self._desk.cluster.api.list("autoscaling/v2", "HorizontalPodAutoscaler", self._desk.namespace)
        return found[0] if found else None

    def to(self, count: int) -> None:
        """Wait for a number of replicas."""
        try:
            until(lambda: self.replicas() == (count, count, count), f"{count} replicas")
        except TimeoutError as error:
            said = (self.autoscaler() or {}).get("status")
            raise TimeoutError(f"{error}, but {self.replicas()}; the autoscaler says {said}") from None

    def written_by_operator(self) -> int:
        """How often the operator wrote the spec, or the scale."""
        writes = [write for write in self._desk.writes() if "modelservers" in write]
        return sum(not write.endswith("/status") for write in writes)


class Calls(Collector):
    """What the model servers of the pods there are export: their engines' calls.

    Attributes:
        total: over all of them.
    """

    def __init__(self, desk: Desk, name: str) -> None:
        self.total = 0.0
        self._desk = desk
        self._labels = f"kubegym.dev/modelserver-name={name}"

    def collect(self) -> Iterator[Metric]:
        """At a scrape."""
        pods = [pod["metadata"]["name"] for pod in self._desk.cluster.pods.list(self._desk.namespace, self._labels)]
        for name, share in {"vllm:num_requests_running": 0.75, "vllm:num_requests_waiting": 0.25}.items():
            family = GaugeMetricFamily(name, "Calls", labels=["namespace", "pod"])
            for pod in pods:
                family.add_metric([self._desk.namespace, pod], share * self.total / len(pods))
            yield family


def hurried(example: Object, url: str, namespace: str) -> Object:
    """The example in another namespace and with another Prometheus, without its long times."""
    spec = {**example["spec"], "pollingInterval": 1, "cooldownPeriod": 1}
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 0}}
    spec["advanced"] = {"horizontalPodAutoscalerConfig": {"behavior": behavior}}
    spec["triggers"] = [
        trigger
        | {
            "metadata": {
                **trigger["metadata"],
                "serverAddress": url,
                "query": trigger["metadata"]["query"].replace('namespace="rl"', f'namespace="{namespace}"'),
            }
        }
        for trigger in example["spec"]["triggers"]
    ]
    return {**example, "spec": spec}


def test_the_horizontal_pod_autoscaler_scales_it(desk: Desk, tmp_path: Path) -> None:
    autoscaler = documented("HorizontalPodAutoscaler")
    autoscaler["spec"]["behavior"] = {"scaleDown": {"stabilizationWindowSeconds": 0}}
    name = autoscaler["spec"]["scaleTargetRef"]["name"]
    metric = autoscaler["spec"]["metrics"][0]["external"]
    per_replica = float(metric["target"]["averageValue"])
    place = (desk.namespace, metric["metric"]["name"])

    scaled = Scaled(desk, name)

    with external_metrics(desk.cluster.plane, tmp_path) as metrics:
        metrics.values[place] = per_replica
        desk.apply(server(name))
        desk.until("ModelServer", name, "Ready", "True", "Available")
        desk.apply(autoscaler)
        metrics.values[place] = 3.5 * per_replica
        scaled.to(4)
        quiet(desk)
        desk.apply(server(name))  # as GitOps does again and again: without `replicas`
        quiet(desk)
        assert scaled.replicas() == (4, 4, 4)
        desk.operator.stop()
        desk.operator.start()
        quiet(desk)
        assert scaled.replicas() == (4, 4, 4), "another operator leaves it, too"
        metrics.values[place] = 0.0
        scaled.to(1)
        until(lambda: (scaled.autoscaler() or {})["status"]["desiredReplicas"] == 1, "the autoscaler says so, too")
    assert scaled.written_by_operator() == 1, "the first number, and none after it"


def test_keda_scales_it_to_zero_and_back(desk: Desk, tmp_path: Path) -> None:
    """The example as it is shown, over the real Prometheus; only its times are shorter."""
    example = documented("ScaledObject")
    name = example["spec"]["scaleTargetRef"]["name"]
    per_replica = float(example["spec"]["triggers"][0]["metadata"]["threshold"])
    scaled = Scaled(desk, name)
    calls = Calls(desk, name)
    registry = CollectorRegistry()
    registry.register(calls)
    registry.register(ObjectsCollector(desk.objects, lambda: wanted_rollouts(desk.objects)))
    try:
        with prometheus(registry, tmp_path / "prometheus") as url, keda(desk.cluster, tmp_path / "keda"):
            desk.apply(server(name))
            desk.until("ModelServer", name, "Ready", "True", "Available")
            desk.apply(hurried(example, url, desk.namespace))
            scaled.to(0)
            desk.until("ModelServer", name, "Ready", "True", "NoReplicas")

            desk.apply(environment(models={"policy": {"serverRef": {"name": name}}}), rollout_job())
            scaled.to(1)  # the run wakes it: without a pod nobody knows of calls
            desk.until("RolloutJob", "run", "Progressing", "True", "Collecting")
            calls.total = 3.5 * per_replica
            scaled.to(4)
            quiet(desk)
            desk.apply(server(name))  # as GitOps does again and again: without `replicas`
            desk.operator.stop()
            desk.operator.start()
            quiet(desk)
            assert scaled.replicas() == (4, 4, 4), "another operator leaves it, too"
            calls.total = 0.0
            scaled.to(1)  # the run is not finished
            desk.cluster.api.delete(API, "RolloutJob", "run", desk.namespace)
            scaled.to(0)
            desk.apply(rollout_job())
            scaled.to(1)
            assert scaled.written_by_operator() == 1, "the first number, and none after it"

            desk.cluster.api.delete(KEDA_API, "ScaledObject", name, desk.namespace)
            until(lambda: scaled.autoscaler() is None, "KEDA takes its autoscaler along")
            assert scaled.replicas() == (1, 1, 1)
    except CannotBuild as error:
        unavailable(str(error))
    demand = {"mode": "Demand", "minReplicas": 2, "maxReplicas": 8}
    desk.edit("ModelServer", name, {"autoscaling": demand})
    until(lambda: scaled.replicas()[1:] == (2, 2), "the operator scales it again")
    assert desk.status("ModelServer", name)["demand"]["replicas"] == 2
