"""Results in Python: rows, groups, a table."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

import kubegym
from kubegym.core.outcomes import Failure
from kubegym.core.protocols import Assignment, Attempt
from kubegym.local.results import load
from kubegym.rollout import GroupPolicy, NoSuchRun
from kubegym.storage import LocalStore
from testbed.episodes import ScriptedEpisodes, draft, scored
from testbed.runs import collect

pytestmark = pytest.mark.unit


def attempt(assignment: Assignment) -> Attempt:
    if assignment.task_index == 1:
        return Attempt("failed", failure=Failure("tool", "ToolCrashed", "no", False, assignment.attempt))
    made = scored(assignment)
    made.fields = {"answer": assignment.task_index, "parts": [1, 2]}
    return made


@pytest.fixture
def output(tmp_path: Path) -> Path:
    async def make() -> None:
        store = LocalStore(tmp_path / "run")
        await collect(store, draft(3, 2), ScriptedEpisodes(attempt))
        await store.close()

    asyncio.run(make())
    return tmp_path / "run"


def test_rows_and_groups(output: Path) -> None:
    results = load(output)
    assert (results.complete, len(results), len(results.rows)) == (True, 6, 6)
    assert [group.task_index for group in results.groups] == [0, 1, 2]
    assert [group.rewards for group in results.groups] == [[0.0, 1.0], [], [0.0, 1.0]]
    assert results.groups[0].rollouts[1] is results.rows[1], "groups and rows are one set of objects"
    assert results.groups[0].environment == "env0"
    assert [g.task_index for g in results.groups if GroupPolicy(on_partial="Drop").delivers(g)] == [0, 2]


def test_a_table_has_one_line_a_rollout(output: Path) -> None:
    pandas: Any = pytest.importorskip("pandas", reason="to_pandas needs pandas: pip install 'kubegym[dataframe]'")
    table = load(output).to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert len(table) == 6
    assert list(table["task_index"]) == [0, 0, 1, 1, 2, 2]
    assert list(table["outcome"]) == ["scored", "scored", "failed", "failed", "scored", "scored"]
    assert list(table["reward"].isna()) == [False, False, True, True, False, False]
    assert list(table["failure_reason"].dropna()) == ["ToolCrashed"] * 2
    assert list(table["answer"].dropna()) == [0, 0, 2, 2]
    assert set(table["policy_input_tokens"].dropna()) == {10}
    assert set(table["total_seconds"].dropna()) == {0.5}
    assert "parts" not in table
    assert table["rollout_id"].is_unique


def test_without_pandas_it_says_what_to_install(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'kubegym\[dataframe\]'"):
        load(output).to_pandas()


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(NoSuchRun, match="holds no run"):
        kubegym.load(tmp_path / "absent")
    assert not (tmp_path / "absent").exists(), "reading made a folder"
