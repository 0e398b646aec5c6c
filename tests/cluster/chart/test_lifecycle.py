"""The life of a release on a real API server with the real helm: install, test, upgrade, rollback, uninstall, again.

Nodes are fake: pods become ready by themselves, and nothing runs in them.
"""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from testbed.definitions import await_definitions
from testbed.helm import CHART, NAMESPACE, RELEASE, Helm, HelmFailed
from testbed.k8s.cluster import Cluster
from testbed.k8s.process import until

CRD = "apiextensions.k8s.io/v1", "CustomResourceDefinition"
ENVIRONMENTS = "gymenvironments.kubegym.dev"
WAIT = (f"--namespace={NAMESPACE}", "--wait", "--timeout=600s")
ENVIRONMENT = {
    "apiVersion": "kubegym.dev/v1alpha1",
    "kind": "GymEnvironment",
    "metadata": {"name": "arithmetic", "namespace": "team-a"},
    "spec": {"resources": {"image": "example.org/arithmetic:1"}},
}
NEXT_COLUMN = {"name": "Next", "type": "string", "jsonPath": ".metadata.name"}


def install(helm: Helm, *flags: str | Path, release: str = RELEASE, chart: Path = CHART, **values: Any) -> None:
    helm.run("install", release, chart, *WAIT, *flags, values=values)


def upgrade(helm: Helm, *flags: str | Path, chart: Path = CHART, **values: Any) -> None:
    helm.run("upgrade", RELEASE, chart, *WAIT, *flags, values=values)


def uninstall(helm: Helm, release: str = RELEASE) -> None:
    helm.run("uninstall", release, *WAIT)


def next_chart(folder: Path) -> Path:
    """The chart as a later version may have it: another image, and a further column of the environments."""
    chart = folder / "kubegym"
    shutil.copytree(CHART, chart)
    metadata = chart / "Chart.yaml"
    metadata.write_text(metadata.read_text().replace("ersion: 0.1.0", "ersion: 0.1.1"))
    crd = chart / "files" / "crds" / "kubegym.dev_gymenvironments.yaml"
    text = crd.read_text()
    assert text.count("additionalPrinterColumns:\n") == 1
    before, after = text.split("additionalPrinterColumns:\n")
    indent = after[: len(after) - len(after.lstrip(" "))]
    crd.write_text(f"{before}additionalPrinterColumns:\n{indent}- {json.dumps(NEXT_COLUMN)}\n{after}")
    return chart


def columns(cluster: Cluster) -> list[str]:
    crd = cluster.api.get(*CRD, ENVIRONMENTS)
    assert crd is not None
    return [column["name"] for column in crd["spec"]["versions"][0]["additionalPrinterColumns"]]


def image(cluster: Cluster) -> str:
    deployment = cluster.api.get("apps/v1", "Deployment", "kubegym-operator", NAMESPACE)
    assert deployment is not None
    return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])


def uid(cluster: Cluster) -> str | None:
    found = cluster.api.get("kubegym.dev/v1alpha1", "GymEnvironment", "arithmetic", "team-a")
    return found["metadata"]["uid"] if found else None


def definitions(cluster: Cluster) -> dict[str, dict[str, str]]:
    """Our CRDs, and the annotations by which helm knows whose they are."""
    return {
        crd["metadata"]["name"]: crd["metadata"].get("annotations", {})
        for crd in cluster.api.list(*CRD)
        if crd["spec"]["group"] == "kubegym.dev"
    }


def apply_definitions(cluster: Cluster) -> None:
    """What somebody does who does not leave them to helm."""
    cluster.apply("---\n".join(path.read_text() for path in sorted((CHART / "files" / "crds").glob("*.yaml"))))


def test_a_release_lives(installer: Helm, chart_cluster: Cluster, tmp_path: Path) -> None:
    install(installer, operator={"replicas": 2})
    chart_cluster.pods.wait(NAMESPACE, "app.kubernetes.io/component=operator", count=2)
    await_definitions(chart_cluster, "kubegym.dev")
    chart_cluster.apply(ENVIRONMENT)
    environment = uid(chart_cluster)

    upgrade(installer, chart=next_chart(tmp_path))
    assert image(chart_cluster).endswith("kubegym-operator:0.1.1")
    assert "Next" in columns(chart_cluster)  # Helm itself leaves a chart's crds/ folder alone; ours is upgraded

    installer.run("rollback", RELEASE, "1", *WAIT)
    assert image(chart_cluster).endswith("kubegym-operator:0.1.0")
    assert "Next" not in columns(chart_cluster)
    assert uid(chart_cluster) == environment

    uninstall(installer)
    assert chart_cluster.api.list("apps/v1", "Deployment", NAMESPACE) == []
    assert len(definitions(chart_cluster)) == 3
    assert uid(chart_cluster) == environment

    install(installer, chart=next_chart(tmp_path / "again"))
    assert "Next" in columns(chart_cluster)
    assert uid(chart_cluster) == environment
    chart_cluster.kubectl("delete", "genv", "arithmetic", "--wait=false", namespace="team-a")


def test_nothing_of_a_release_is_left_but_the_definitions(installer: Helm, chart_cluster: Cluster) -> None:
    kinds = "all,serviceaccounts,networkpolicies,pdb,roles,rolebindings,clusterroles,clusterrolebindings,configmaps"
    kinds += ",servicemonitors,podmonitors,prometheusrules"
    ours = ("get", kinds, "-A", "-o", "name", "-l", f"app.kubernetes.io/instance={RELEASE}")
    install(
        installer, operator={"replicas": 2}, monitoring={"dashboards": {"enabled": True}}, watchNamespaces=["team-a"]
    )
    assert "podmonitor.monitoring.coreos.com/kubegym-pods" in chart_cluster.kubectl(*ours).split()

    uninstall(installer)
    until(lambda: chart_cluster.kubectl(*ours).split() == [], "everything of the release is gone")


def test_another_release_takes_the_definitions_when_told_to(
    installer: Helm, chart_cluster: Cluster, tmp_path: Path
) -> None:
    install(installer)
    uninstall(installer)

    with pytest.raises(HelmFailed, match="invalid ownership metadata"):
        install(installer, release="other")
    install(installer, "--take-ownership", release="other", chart=next_chart(tmp_path))

    owners = {annotations["meta.helm.sh/release-name"] for annotations in definitions(chart_cluster).values()}
    assert owners == {"other"}
    assert "Next" in columns(chart_cluster)


def test_definitions_that_kubectl_applied_are_taken_over(
    installer: Helm, chart_cluster: Cluster, tmp_path: Path
) -> None:
    apply_definitions(chart_cluster)

    install(installer, "--take-ownership", "--force-conflicts", chart=next_chart(tmp_path))
    assert "Next" in columns(chart_cluster)
    upgrade(installer)
    assert "Next" not in columns(chart_cluster)


def test_a_release_works_beside_definitions_of_others(installer: Helm, chart_cluster: Cluster) -> None:
    apply_definitions(chart_cluster)

    install(installer, crds={"install": False})
    uninstall(installer)

    assert all("meta.helm.sh/release-name" not in found for found in definitions(chart_cluster).values())


def test_definitions_go_with_the_release_if_asked(installer: Helm, chart_cluster: Cluster) -> None:
    install(installer)
    upgrade(installer, crds={"keep": False})
    uninstall(installer)
    until(lambda: definitions(chart_cluster) == {}, "the definitions are gone")


def test_helm_test_believes_its_pod(installer: Helm, chart_cluster: Cluster) -> None:
    install(installer)
    said: list[str] = []

    def ask() -> None:
        try:
            said.append(installer.run("test", RELEASE, f"--namespace={NAMESPACE}", "--timeout=600s"))
        except HelmFailed as failed:
            said.append(str(failed))

    for end in (chart_cluster.pods.succeed, chart_cluster.pods.fail):
        asking = threading.Thread(target=ask)
        asking.start()
        chart_cluster.pods.wait(NAMESPACE, "app.kubernetes.io/component=test")
        end(NAMESPACE, "kubegym-operator-test")
        asking.join()
    assert "Phase:          Succeeded" in said[0]
    assert "failed" in said[1]
