"""The tutorials, done as they stand: files are written, commands and scripts run, in order, all but the cluster's.

`kubectl apply` of their manifests is tested on a real API server, in ``tests/cluster/api``.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract

TUTORIALS = sorted(
    path for path in (Path(__file__).resolve().parents[2] / "docs/tutorials").glob("*.md") if path.name != "README.md"
)
STEP = re.compile(r"(?:^`(?P<file>[\w./-]+)`:\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = {
    "kubegym": [sys.executable, "-m", "kubegym.cli.main"],
    "pytest": [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
    "python": [sys.executable],
}
LEFT_OUT = ("kubectl", "kubegym show s3://")


def test_there_are_tutorials() -> None:
    assert len(TUTORIALS) == 6


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_works_as_it_stands(page: Path, tmp_path: Path) -> None:
    ran: list[str] = []
    for step in STEP.finditer(page.read_text(encoding="utf-8")):
        if step["file"] is not None:
            file = tmp_path / step["file"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(step["text"])
        elif step["language"] == "sh":
            for line in step["text"].splitlines():
                ran.append(line)
                if not line.startswith(LEFT_OUT):
                    _run(line, tmp_path)
    assert any(line.startswith("kubegym validate") and line.endswith("--adversarial") for line in ran)
    assert f"kubectl apply -f {next(tmp_path.glob('environments/*/environment.yaml')).relative_to(tmp_path)}" in ran


def _run(line: str, folder: Path) -> None:
    program, *arguments = shlex.split(line)
    environment = {**os.environ, "PYTEST_ADDOPTS": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*PROGRAMS[program], *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
