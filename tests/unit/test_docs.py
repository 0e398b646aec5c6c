"""What the pages show has to work: code parses, manifests load, links lead somewhere."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

import kubegym
from kubegym.core.spec import manifest_from
from kubegym.core.spec.load import KINDS
from kubegym.testing import play

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "environments").glob("*/README.md")),
    *sorted((ROOT / "charts").glob("*/README.md")),
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)#\s]+)[^)]*\)")


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_python_parses_and_imports_public_names(page: Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(textwrap.dedent(code))):
            if isinstance(node, ast.ImportFrom) and node.module == "kubegym":
                assert {alias.name for alias in node.names} <= set(kubegym.__all__)


def test_manifests_load(page: Path) -> None:
    for text in blocks(page, "yaml"):
        for document in yaml.safe_load_all(text):
            # Kubernetes' own kinds, and pieces of a manifest, stand there, too.
            if isinstance(document, dict) and document.get("kind") in KINDS:
                assert manifest_from(document, source=page.name).kind == document["kind"]


def test_links_lead_to_files(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize(
    ("source", "row", "replies"),
    [
        (
            "README.md",
            {"expected_answer": 12},
            [{"name": "add", "arguments": {"a": 5, "b": 7}}, "The answer is 12."],
        ),
        ("docs/write-an-environment.md", {"expected": "Lima"}, ["It is Lima."]),
    ],
)
def test_shown_environments_run(source: str, row: dict[str, Any], replies: list[Any], tmp_path: Path) -> None:
    code = next(code for code in blocks(ROOT / source, "python") if "import Environment" in code)
    (tmp_path / "app.py").write_text(code)
    played = play(tmp_path, row, replies)
    assert (played.outcome, played.reward) == ("scored", 1.0)
    assert play(tmp_path, row, ["I do not know."]).reward == 0.0


def test_reasons_of_failures_exist() -> None:
    table = re.findall(
        r"^\| (?:model|agent|tool|verifier|worker) \| (`[^|]+) \|", (ROOT / "docs/concepts.md").read_text(), re.M
    )
    named = set(re.findall(r"`(\w+)`", " ".join(table)))
    sources = [path.read_text() for path in (ROOT / "services").rglob("*.py")]
    hooks = {f"{hook}Crashed" for hook in ("Seed", "Respond")}
    assert named
    assert {name for name in named - hooks if not any(f'"{name}"' in text for text in sources)} == set()
