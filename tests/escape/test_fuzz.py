"""Random system calls inside: whoever is outside stays well."""

from __future__ import annotations

import pytest

from testbed.escapes.suite import verdicts

PROGRAMS = 60
SEED = 7


@pytest.mark.parametrize("nobody", [False, True], ids=["root", "nobody"])
def test_random_system_calls(nobody: bool) -> None:
    found = verdicts(nobody=nobody, module="fuzz", arguments=(str(PROGRAMS), str(SEED)))
    assert found["fuzz"].damage == []
    assert found["fuzz"].contained, found["fuzz"].detail
