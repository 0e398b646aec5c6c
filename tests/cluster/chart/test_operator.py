"""The real operator with the settings and the rights that the chart gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testbed.helm import CHART, NAMESPACE, RELEASE, Helm
from testbed.k8s.cluster import Cluster
from testbed.k8s.process import until
from testbed.operator_process import OperatorProcess
from testbed.released import released

ROOT = CHART.parents[1]
EVERYTHING: dict[str, Any] = {  # every value that reaches the operator
    "images": {"registry": "registry.example.org", "pullPolicy": "Always", "pullSecrets": ["mirror"]},
    "operator": {"logLevel": "debug", "settings": {"RESYNC_SECONDS": "120"}},
    "pods": {"proxy": {"httpsProxy": "http://proxy.example.org:3128"}, "caConfigMap": "corporate-ca"},
    "network": {
        "dns": {"cidrs": ["169.254.20.10/32"], "ports": [5353]},
        "podCidrs": ["10.0.0.0/16"],
        "serviceCidrs": ["10.96.0.0/12"],
        "identityEgress": [{"to": [{"ipBlock": {"cidr": "169.254.170.23/32"}}], "ports": [{"port": 80}]}],
    },
    "monitoring": {"scrapers": [{"namespaceLabels": {"kubernetes.io/metadata.name": "monitoring"}}]},
}

SERVED = {
    "apiVersion": "kubegym.dev/v1alpha1",
    "kind": "GymEnvironment",
    "metadata": {"name": "served", "namespace": "team-a"},
    "spec": {
        "models": {"policy": {"server": {"engine": "simulated", "replicas": 2}}},
        "resources": {"image": "registry.example.org/served:1"},
    },
}


def replicas(cluster: Cluster) -> dict[str, int]:
    """Of every Deployment of the environment ``served``."""
    found = cluster.api.list("apps/v1", "Deployment", "team-a", "kubegym.dev/modelserver-name=served-policy")
    found += cluster.api.list("apps/v1", "Deployment", "team-a", "kubegym.dev/gymenvironment-name=served")
    return {one["metadata"]["name"]: one["spec"]["replicas"] for one in found}


def told(cluster: Cluster) -> set[str]:
    """Reasons of the events that the operator wrote about the environment ``served``."""
    events = cluster.api.list("events.k8s.io/v1", "Event", "team-a")
    return {
        event["reason"]
        for event in events
        if event["reportingController"] == "kubegym.dev/kubegym-operator" and event["regarding"]["name"] == "served"
    }


def refused(operator: OperatorProcess) -> list[str]:
    """What the API server did not let it do."""
    lines = [line for line in operator.log.splitlines() if "orbidden" in line or " 403" in line]
    return lines + ["403"] * int(operator.metric("kubegym_api_requests_total", code="403"))


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["team-a", "team-b"]}], ids=["everywhere", "namespaced"])
def test_it_works_with_what_the_chart_gives_it(
    installer: Helm, chart_cluster: Cluster, tmp_path: Path, values: dict[str, Any]
) -> None:
    installer.run("install", RELEASE, CHART, f"--namespace={NAMESPACE}", values={**EVERYTHING, **values})
    operator = released(chart_cluster, "kubegym-operator", tmp_path).start()
    try:
        operator.await_leading()
        assert b"kubegym_build_info" in operator.get("/metrics")[1]  # what `helm test` looks for

        chart_cluster.apply((ROOT / "environments" / "arithmetic" / "environment.yaml").read_text(), "team-a")
        chart_cluster.apply(SERVED)
        parts = {"served-policy": 2, "served-agent": 1, "served-resources": 1}
        until(lambda: replicas(chart_cluster) == parts, "every part is deployed")
        deployment = chart_cluster.api.get("apps/v1", "Deployment", "served-policy", "team-a")
        assert deployment is not None
        pod = deployment["spec"]["template"]["spec"]
        assert {one["image"] for one in pod["containers"]} == {"registry.example.org/kubegym-model:0.1.0"}
        assert pod["imagePullSecrets"] == [{"name": "mirror"}]

        rest = {"spec": {"suspend": True}}
        chart_cluster.api.patch("kubegym.dev/v1alpha1", "GymEnvironment", "served", rest, "team-a")
        until(lambda: set(replicas(chart_cluster).values()) == {0}, "all parts rest")

        until(lambda: "Suspended" in told(chart_cluster), "its rest is told as an event")
        assert (
            "Suspended" in chart_cluster.kubectl("describe", "genv/served", namespace="team-a").partition("Events:")[2]
        )

        chart_cluster.kubectl("delete", "rj,genv", "--all", "--timeout=300s", namespace="team-a")
        until(
            lambda: chart_cluster.api.list("apps/v1", "Deployment", "team-a") == [],
            "the environments' children are gone",
        )
        assert refused(operator) == []
    finally:
        operator.terminate()
