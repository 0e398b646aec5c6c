"""Every environment that comes with KubeGym, against agents that do not do the task; processes and sandbox are real."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubegym.cli.adversarial import stated_chance
from kubegym.cli.validate import Depth, check

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = sorted(path.parent for path in (ROOT / "environments").glob("*/app.py"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
async def test_the_oracle_earns_all_and_no_cheat_more_than_chance(folder: Path) -> None:
    findings = await check([str(folder)], None, Depth(adversarial_tasks=200))
    assert findings.problems == []
    (table,) = findings.tables
    assert len(table.outcomes) >= 6
    assert table.chance == stated_chance(folder) is not None
    assert {one.agent: one.failed for one in table.outcomes if one.failed} == {}
