from __future__ import annotations

import pytest

from kubegym_operator.kube.memory import MemoryKube
from testbed.kube_contract import WIDGET_INFO, KubeContract


class TestMemoryKube(KubeContract):
    @pytest.fixture
    def api(self) -> MemoryKube:
        return MemoryKube([WIDGET_INFO])

    @pytest.fixture
    def space(self) -> str:
        return "space"
