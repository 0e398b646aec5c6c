"""A short training run, where the ``training`` extra is installed."""

import runpy
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

for library in ("torch", "transformers", "tokenizers", "safetensors", "gguf"):
    pytest.importorskip(library, reason=f"{library} is not installed: pip install 'kubegym[training]'")


def test_two_runs_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run in ("first", "second"):
        monkeypatch.setattr(sys, "argv", ["training", str(tmp_path / run / "tiny"), "--steps", "7"])
        runpy.run_module("kubegym.model.training", run_name="__main__")
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file())
    assert {path.parts[0] for path in files} == {"tiny", "ckpt-1", "ckpt-2", "ckpt-3"}
    assert Path("tiny/tiny.gguf") in files
    for path in files:
        assert (tmp_path / "first" / path).read_bytes() == (tmp_path / "second" / path).read_bytes(), path
    first, last = ((tmp_path / "first" / name / "model.safetensors").read_bytes() for name in ("ckpt-1", "tiny"))
    assert first != last
