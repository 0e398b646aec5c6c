from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from kubegym_operator.kube.client import KubeClient
from kubegym_operator.kube.config import load
from testbed.k8s.api import Refused
from testbed.k8s.cluster import Cluster
from testbed.k8s.process import until
from testbed.kube_contract import CONFIG_MAP, WIDGET, WIDGET_CRD, KubeContract, named


@pytest.fixture(scope="session")
def widgets(cluster: Cluster) -> Cluster:
    cluster.apply(WIDGET_CRD)

    def served() -> bool:
        try:
            cluster.api.list(*WIDGET)
        except Refused:  # at first unknown, then for a moment "storage is (re)initializing"
            return False
        return True

    until(served, "widgets are served")
    return cluster


class TestKubeClient(KubeContract):
    @pytest.fixture
    async def api(self, widgets: Cluster) -> AsyncIterator[KubeClient]:
        async with KubeClient(await load(widgets.kubeconfig), page=2) as client:
            yield client

    @pytest.fixture
    def space(self, namespace: str) -> str:
        return namespace

    async def test_a_list_is_read_page_by_page(self, api: KubeClient, space: str) -> None:
        for number in range(5):
            await api.create(named(CONFIG_MAP, space, f"page-{number}", metadata={"labels": {"paged": "yes"}}))
        found = await api.list(CONFIG_MAP, space, labels={"paged": "yes"})
        assert [one["metadata"]["name"] for one in found] == [f"page-{number}" for number in range(5)]
