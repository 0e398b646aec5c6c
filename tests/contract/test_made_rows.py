"""Rows that an environment's script makes, and scripts in trouble."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubegym.cli.adversarial import made_rows
from kubegym.core.errors import InvalidSpec


def script(folder: Path, body: str) -> Path:
    (folder / "generate.py").write_text(f"def rows(count, seed):\n    {body}\n")
    return folder / "generate.py"


def test_rows_are_made_by_count_and_seed(tmp_path: Path) -> None:
    made = made_rows(script(tmp_path, "return ({'n': seed + i, 'text': 'ä\\n'} for i in range(count))"), 3, 5)
    assert made == [{"n": n, "text": "ä\n"} for n in (5, 6, 7)]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("while True: pass", "took more than 0.5 s; can there be so many different ones"),
        ("raise ValueError('only 3')", "ValueError: only 3"),
        ("return [object()]", "not JSON serializable"),
    ],
)
def test_scripts_in_trouble_are_named(body: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=says):
        made_rows(script(tmp_path, body), 3, seconds=0.5 if "while" in body else 60)


def test_another_signature_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "generate.py").write_text("def rows():\n    return []\n")
    with pytest.raises(InvalidSpec, match=r"rows\(count, seed\) has to yield that many rows: TypeError"):
        made_rows(tmp_path / "generate.py", 3)
