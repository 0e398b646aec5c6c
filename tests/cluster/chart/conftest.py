"""The real helm for the tests of the chart."""

from __future__ import annotations

import pytest

from testbed.build import CannotBuild
from testbed.helm import Helm
from testbed.required import unavailable


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm without a cluster."""
    try:
        return Helm(tmp_path_factory.mktemp("helm"))
    except CannotBuild as error:
        unavailable(str(error))
