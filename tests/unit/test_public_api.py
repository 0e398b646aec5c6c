"""What ``import kubegym`` promises: these names, no others, and a quick start."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import kubegym

pytestmark = pytest.mark.unit

PUBLIC = [
    "Collector",
    "Done",
    "Environment",
    "Image",
    "Message",
    "Model",
    "Rollout",
    "Row",
    "ToolError",
    "Turn",
    "Verdict",
    "VerifierError",
    "__version__",
    "batches",
    "load",
    "offload",
    "read_file",
    "run",
    "tool",
]
ENGINES_AND_TABLES = {"pandas", "pyarrow", "numpy", "torch", "transformers", "xllamacpp"}
HEAVY = ENGINES_AND_TABLES | {"typer", "rich", "obstore", "pydantic"}


def test_public_names() -> None:
    assert kubegym.__all__ == PUBLIC
    assert dir(kubegym) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_there(name: str) -> None:
    assert getattr(kubegym, name) is not None


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Enviroment'"):
        _ = kubegym.Enviroment  # type: ignore[attr-defined]


def test_type_checkers_see_the_same_names_at_the_same_places() -> None:
    tree = ast.parse(Path(kubegym.__file__).read_bytes())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == kubegym._HOMES


def test_version_is_the_distribution_s() -> None:
    assert kubegym.__version__ == version("kubegym")


def loaded_by(module: str) -> set[str]:
    """Top-level packages that importing a module brings into a fresh interpreter."""
    program = f"import sys, {module}; print(*(name.partition('.')[0] for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_import_loads_nothing_heavy() -> None:
    assert loaded_by("kubegym") & HEAVY == set()


def test_command_line_loads_no_engine_and_no_table_library() -> None:
    assert loaded_by("kubegym.cli.main") & ENGINES_AND_TABLES == set()
