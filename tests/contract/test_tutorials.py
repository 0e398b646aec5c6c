"""The tutorials, followed: files as the pages show them, their tests, rows, cheats, Python and manifests."""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from kubegym.cli.validate import Depth, check
from kubegym.core.spec import load_manifests

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs/tutorials").glob("*.md"))
FILE = re.compile(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^In Python.*?:\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LAST = re.compile(r"```sh\n(kubectl apply -f environments/(\w+)/environment\.yaml\nkubectl wait [^\n]*)\n```\n\Z")


@pytest.fixture(params=PAGES, ids=lambda page: page.stem)
def page(request: pytest.FixtureRequest) -> str:
    return request.param.read_text(encoding="utf-8")


@pytest.fixture
def folder(page: str, tmp_path: Path) -> Path:
    """The environment's folder, below ``environments`` of a working directory."""
    ends = LAST.search(page)
    assert ends is not None, "a tutorial ends with kubectl apply"
    folder = tmp_path / "environments" / ends.group(2)
    for name, text in FILE.findall(page):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    if (folder / "data/generate.py").exists():
        runpy.run_path(str(folder / "data/generate.py"), run_name="__main__")
    return folder


def test_there_is_a_page_for_each_step_of_the_way() -> None:
    wanted = {"single-step", "multi-step", "stateful", "real-world", "judge", "aggregate-metrics"}
    assert wanted <= {page.stem for page in PAGES}


async def test_it_is_valid_and_pays_nobody_but_the_oracle(page: str, folder: Path) -> None:
    findings = await check([str(folder)], None, Depth(adversarial_tasks=200))
    assert findings.problems == []
    (table,) = findings.tables
    assert table.outcomes[0].mean == 1.0
    assert {one.mean for one in table.outcomes[1:]} == {0.0}
    without_readme = [one for one in findings.missing if "README.md" not in one]
    assert without_readme == []


def test_its_tests_pass(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        cwd=folder.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_manifests_are_what_kubectl_applies(page: str, folder: Path) -> None:
    ends = LAST.search(page)
    assert ends is not None
    environment, job = load_manifests(folder / "environment.yaml")
    assert (environment.kind, job.kind) == ("GymEnvironment", "RolloutJob")
    assert f"rolloutjob/{job.name} " in ends.group(1)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if PYTHON.search(page.read_text())], ids=lambda page: page.stem, indirect=True
)
def test_its_python_prints_what_it_says(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = PYTHON.findall(page)
    monkeypatch.chdir(folder.parents[1])
    said = re.findall(r"^print\(.*\)  # (.*)$", shown[0], re.MULTILINE)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(shown[0], "page", "exec"), {"__name__": "page"})
    assert printed.getvalue().splitlines()[-len(said) :] == said
