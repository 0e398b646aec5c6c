"""Write the generated files of the chart, or say which differ: see the package."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from charts.generate.dashboards import dashboards
from charts.generate.reference import values_schema, values_table, values_yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "kubegym"
_TABLE = re.compile(r"(<!-- values -->\n).*?(<!-- /values -->)", re.DOTALL)


def outputs() -> dict[Path, str]:
    """Every generated file and what has to stand in it."""
    readme = CHART / "README.md"
    table = values_table()
    files = {
        CHART / "values.yaml": values_yaml(),
        CHART / "values.schema.json": values_schema(),
        readme: _TABLE.sub(lambda found: f"{found[1]}\n{table}\n{found[2]}", readme.read_text(encoding="utf-8")),
    }
    for crd in sorted((ROOT / "crds").glob("*.yaml")):
        files[CHART / "files" / "crds" / crd.name] = crd.read_text(encoding="utf-8")
    for name, text in dashboards().items():
        files[CHART / "files" / "dashboards" / f"{name}.json"] = text
    return files


def stale(files: dict[Path, str]) -> list[Path]:
    """Files of generated folders that nothing makes any more."""
    folders = (CHART / "files" / "crds", CHART / "files" / "dashboards")
    return [path for folder in folders for path in sorted(folder.glob("*")) if path not in files]


def main() -> int:
    """The exit code: 1 where ``--check`` found a difference."""
    parser = argparse.ArgumentParser(prog="python -m charts.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    check = parser.parse_args().check
    files = outputs()
    differing = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    old = stale(files)
    for path in [*differing, *old]:
        print(f"{'differs' if check else 'wrote' if path in files else 'removed'}: {path.relative_to(ROOT)}")
    if check:
        return 1 if differing or old else 0
    for path in differing:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
    for path in old:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
