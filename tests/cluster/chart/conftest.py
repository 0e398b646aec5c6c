"""The real helm, and a control plane for the tests of the chart alone: they install and remove the CRDs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.build import CannotBuild
from testbed.definitions import await_definitions
from testbed.helm import NAMESPACE, Helm
from testbed.k8s.cluster import Cluster
from testbed.k8s.control_plane import control_plane
from testbed.monitoring import prometheus_operator_crds
from testbed.required import unavailable

TEAMS = ("team-a", "team-b")


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm without a cluster."""
    try:
        return Helm(tmp_path_factory.mktemp("helm"))
    except CannotBuild as error:
        unavailable(str(error))


@pytest.fixture(scope="session")
def chart_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with the Prometheus operator's kinds, the release's namespace (restricted pods only) and two teams'."""
    try:
        with control_plane() as plane:
            found = Cluster(plane.kubeconfig, tmp_path_factory.mktemp("cluster"), plane)
            found.apply(prometheus_operator_crds())
            await_definitions(found, "monitoring.coreos.com")
            restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
            found.apply(
                [
                    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": restricted}}
                    for name in (NAMESPACE, *TEAMS)
                ]
            )
            yield found
            found.api.close()
    except CannotBuild as error:
        unavailable(str(error))


@pytest.fixture
def installer(chart_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Helm]:
    """Helm in ``chart_cluster``; afterwards no release and none of our CRDs are left."""
    helm = Helm(tmp_path_factory.mktemp("helm"), chart_cluster.kubeconfig)
    yield helm
    for release in helm.run("list", "--short", f"--namespace={NAMESPACE}").split():
        helm.run("uninstall", release, f"--namespace={NAMESPACE}", "--wait")
    ours = [
        found["metadata"]["name"]
        for found in chart_cluster.api.list("apiextensions.k8s.io/v1", "CustomResourceDefinition")
        if found["spec"]["group"] == "kubegym.dev"
    ]
    if ours:
        chart_cluster.kubectl("delete", "crd", *ours, "--wait", "--timeout=60s")
