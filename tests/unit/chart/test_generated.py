"""What is generated is what is committed, and the versions agree."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "kubegym"


def test_committed_files_are_the_generated_ones() -> None:
    command = [sys.executable, "-m", "charts.generate", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nrun: python -m charts.generate"


def test_the_chart_carries_the_bytes_of_the_crds() -> None:
    crds = {path.name: path.read_bytes() for path in (ROOT / "crds").glob("*.yaml")}
    assert crds
    assert {path.name: path.read_bytes() for path in (CHART / "files" / "crds").iterdir()} == crds


def test_versions_agree() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (chart["appVersion"], chart["version"]) == (project["version"], project["version"])


def schemas(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, value in node.get("properties", {}).items():
        yield f"{path}.{key}", value
        yield from schemas(value, f"{path}.{key}")
    if isinstance(node.get("items"), dict):
        yield from schemas(node["items"], f"{path}[]")


def test_every_value_is_described_and_no_other_is_allowed() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    found = dict(schemas(schema, ""))
    assert [path for path, value in found.items() if not value.get("description")] == []
    open_ended = [path for path, value in {"": schema, **found}.items() if "properties" in value]
    assert [path for path in open_ended if {"": schema, **found}[path].get("additionalProperties") is not False] == []


def test_the_defaults_fit_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert list(Draft202012Validator(schema).iter_errors(values)) == []
