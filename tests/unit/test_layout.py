"""The shape of the repository (DESIGN section 4), as far as import-linter does not see it."""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

import kubegym

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = [folder for folder in (ROOT / "operator", ROOT / "services") if folder.is_dir()]
MODULE_LINES = 500  # aim at 400 (DESIGN section 4); this is where reading stops
SAYS_NOTHING = {"util", "utils", "helper", "helpers", "manager", "managers", "misc"}


def modules(*folders: str) -> list[Path]:
    """Python files below folders of the repository; missing folders hold none."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imported_names(path: Path) -> Iterator[str]:
    """Absolute imports of a module, ``from`` imports as ``module.name``."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_source_roots_are_not_packages() -> None:
    assert SOURCE_ROOTS
    assert [shown(root) for root in SOURCE_ROOTS if (root / "__init__.py").exists()] == []


def test_operator_is_the_standard_library_s() -> None:
    standard_library = sysconfig.get_path("stdlib")
    spec = PathFinder.find_spec("operator", [str(ROOT), standard_library])
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).is_relative_to(standard_library)
    assert Path(sys.modules["operator"].__file__ or "").is_relative_to(standard_library)


def test_the_data_plane_does_not_import_the_operator() -> None:
    offenders = {
        f"{shown(path)}: {name}"
        for path in modules("services", "environments")
        for name in imported_names(path)
        if ours(name, "kubegym_operator")
    }
    assert offenders == set()


def test_environments_import_public_names_only() -> None:
    public = {"kubegym", *(f"kubegym.{name}" for name in kubegym.__all__)}
    offenders = {
        f"{shown(path)}: {name}"
        for path in modules("environments")
        for name in imported_names(path)
        if ours(name, "kubegym")
        and name not in public
        and not any(ours(name, part) for part in ("kubegym.verify", "kubegym.sandbox", "kubegym.search"))
        and not ("tests" in path.parts and ours(name, "kubegym.testing"))
    }
    assert offenders == set()


def test_modules_stay_readable() -> None:
    sizes = {
        shown(path): len(path.read_bytes().splitlines())
        for path in modules("operator", "services", "environments", "benchmarks")
    }
    assert {name: size for name, size in sizes.items() if size > MODULE_LINES} == {}


def test_module_names_say_something() -> None:
    paths = modules("operator", "services", "environments", "benchmarks")
    assert [shown(path) for path in paths if {path.stem.strip("_"), path.parent.name} & SAYS_NOTHING] == []


def test_every_package_says_what_it_is() -> None:
    packages = [path for path in modules("operator", "services") if path.name == "__init__.py"]
    assert [shown(path) for path in packages if not ast.get_docstring(ast.parse(path.read_bytes()))] == []


def test_every_environment_is_complete() -> None:
    folders = [path.parent for path in (ROOT / "environments").glob("*/environment.yaml")]
    parts = ("app.py", "data/example.jsonl", "tests", "README.md")
    assert [shown(folder / part) for folder in folders for part in parts if not (folder / part).exists()] == []
    examples = {shown(folder): len((folder / "data/example.jsonl").read_bytes().splitlines()) for folder in folders}
    assert {name: rows for name, rows in examples.items() if rows < 5} == {}
