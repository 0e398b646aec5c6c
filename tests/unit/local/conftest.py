"""A small environment as a user would write it: a folder with code, a manifest and rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.echo import APP, MANIFEST, write_rows


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, where default outputs go."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def echo(home: Path) -> Path:
    """The environment, in ``echo``."""
    folder = home / "echo"
    folder.mkdir()
    (folder / "app.py").write_text(APP)
    (folder / "environment.yaml").write_text(MANIFEST.replace("OUTPUT", f"file://{home}/out"))
    write_rows(folder / "data" / "example.jsonl", 5)
    return folder
