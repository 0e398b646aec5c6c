"""The escape suite, with the sandbox started by root: every escape is contained, and every neighbour right."""

from __future__ import annotations

import pytest

from testbed.escapes import ESCAPES
from testbed.escapes.suite import Verdict, verdicts


@pytest.fixture(scope="module")
def found() -> dict[str, Verdict]:
    return verdicts(nobody=False)


@pytest.mark.parametrize("name", [*(escape.name for escape in ESCAPES), "afterwards"])
def test_contained(found: dict[str, Verdict], name: str) -> None:
    assert found[name].damage == []
    assert found[name].contained, found[name].detail
