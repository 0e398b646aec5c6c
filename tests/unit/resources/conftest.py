"""Environment folders written by tests."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

WriteFolder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> WriteFolder:
    """``folder(app_source, name="env", other="source")`` writes ``app.py`` and ``other.py``; returns the folder."""

    def write(app: str, name: str = "env", **modules: str) -> Path:
        place = tmp_path / name
        place.mkdir(parents=True, exist_ok=True)
        for module, source in {"app": app, **modules}.items():
            (place / f"{module}.py").write_text(textwrap.dedent(source))
        return place

    return write
