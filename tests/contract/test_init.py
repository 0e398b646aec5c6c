"""What ``kubegym init`` writes: complete, clean, green, and nothing that a cheat could earn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kubegym.cli.choices import Kind
from kubegym.cli.init import SKETCHES, written
from kubegym.cli.main import invoke
from kubegym.cli.validate import Depth, check
from kubegym.core.errors import InvalidSpec
from kubegym.core.spec import load_manifests
from kubegym.local.gaps import gaps

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kind", Kind)
async def test_every_kind_is_complete_and_withstands_cheats(kind: Kind, tmp_path: Path) -> None:
    folder = written("web-shop", kind, tmp_path)
    assert folder == tmp_path / "web_shop"
    assert gaps(folder) == []
    assert [one.name for one in load_manifests(folder / "environment.yaml")] == ["web-shop", "web-shop"]
    findings = await check([str(folder)], None, Depth(adversarial_tasks=200 if kind is not Kind.code else 20))
    assert findings.problems == []
    assert findings.tables[0].outcomes[0].mean == 1.0
    roles = SKETCHES[kind].roles
    assert ("injection" in [one.agent for one in findings.tables[0].outcomes]) == bool(roles)


def test_the_tests_pass_and_the_code_is_clean(tmp_path: Path) -> None:
    for kind in Kind:
        written(f"an-{kind}", kind, tmp_path)
    environment = {**os.environ, "PYTEST_ADDOPTS": "", "PYTHONDONTWRITEBYTECODE": "1"}
    for command in (
        ["pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        [
            "ruff",
            "check",
            "--no-cache",
            "--extend-ignore",
            "D103",
            "--config",
            str(ROOT / "pyproject.toml"),
            str(tmp_path),
        ],
        ["ruff", "format", "--no-cache", "--check", "--config", str(ROOT / "pyproject.toml"), str(tmp_path)],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_says_what_it_wrote(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert invoke(["init", "shop", "--kind", "stateful", "--into", str(tmp_path), "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert said["folder"] == str(tmp_path / "shop")
    assert said["files"] == [
        "README.md",
        "app.py",
        "data/example.jsonl",
        "data/generate.py",
        "environment.yaml",
        "tests/test_shop.py",
    ]


@pytest.mark.parametrize("name", ["Shop", "1shop", "shop!", "", "a" * 80])
def test_names_that_no_manifest_takes_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="is no name"):
        written(name, Kind.code, tmp_path)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    written("shop", Kind.single_step, tmp_path)
    with pytest.raises(InvalidSpec, match="is there already"):
        written("shop", Kind.single_step, tmp_path)
