"""What manifests are rendered into, file for file: ``<case>/input.yaml`` becomes ``<case>/expected/*.yaml``.

A case is a folder; ``context.yaml`` in it sets fields of the BuildContext. ``--update-golden`` writes what is expected.
Inline ModelServers are rendered as objects; what becomes of a ModelServer has cases of its own.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubegym.core.spec import manifest_from
from kubegym_operator.build.context import BuildContext, DnsPeers, Images, PodPeer
from testbed.rendered import render, with_identity

CASES = sorted(path.parent for path in Path(__file__).parent.glob("*/input.yaml"))


class Readable(yaml.SafeDumper):
    """Text of several lines as such; nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


Readable.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def context_of(case: Path) -> BuildContext:
    path = case / "context.yaml"
    values: dict[str, Any] = yaml.safe_load(path.read_text()) if path.exists() else {}
    for name, value in values.items():
        if name == "images":
            values[name] = Images(**value)
        elif name == "dns":
            values[name] = DnsPeers(**{key: tuple(item) for key, item in value.items()})
        elif name == "monitoring":
            values[name] = tuple(PodPeer(**peer) for peer in value)
        elif isinstance(value, list):
            values[name] = tuple(value)
    return BuildContext(**values)


def rendered_files(case: Path) -> dict[str, str]:
    documents = yaml.safe_load_all((case / "input.yaml").read_text())
    manifests = [manifest_from(with_identity(raw), case.name) for raw in documents]
    objects = render(manifests, context_of(case), inline=False).objects
    files = {
        f"{obj['kind'].lower()}-{obj['metadata']['name']}.yaml": yaml.dump(obj, Dumper=Readable, sort_keys=False)
        for obj in objects
    }
    assert len(files) == len(objects), "two objects have one kind and name"
    return files


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_manifests_are_rendered_into(case: Path, request: pytest.FixtureRequest) -> None:
    expected, files = case / "expected", rendered_files(case)
    if request.config.getoption("--update-golden"):
        shutil.rmtree(expected, ignore_errors=True)
        expected.mkdir()
        for name, text in files.items():
            (expected / name).write_text(text)
        return
    assert sorted(files) == sorted(path.name for path in expected.iterdir()), "--update-golden writes what is expected"
    for name, text in files.items():
        assert text == (expected / name).read_text(), f"{expected / name} differs; --update-golden"


def test_there_are_cases() -> None:
    assert len(CASES) >= 10


@pytest.mark.parametrize("name", ["sglang", "nim"])
def test_the_engines_of_the_documentation_are_cases(name: str) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "how-to" / "serve-models.md").read_text()
    shown = [yaml.safe_load(block.partition("```")[0]) for block in page.split("```yaml\n")[1:]]
    case = Path(__file__).parent / f"model-custom-{name}" / "input.yaml"
    assert yaml.safe_load(case.read_text()) in shown
