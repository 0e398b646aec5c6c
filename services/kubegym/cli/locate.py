"""Finding a run by what a user calls it: a folder, a URI, or the name of its RolloutJob or environment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubegym.core.errors import InputError

RUNS = "runs"
"""Where runs without ``--output`` lie, below the working directory."""

PLAN = "plan.json"


class RunNotFound(InputError):
    """Nothing of that name was run."""

    reason = "NoSuchRun"


@dataclass(frozen=True)
class FoundRun:
    """A run below ``runs/``."""

    folder: Path
    name: str
    created: float
    environments: tuple[str, ...]

    def is_called(self, name: str) -> bool:
        """Whether a user may mean it by ``name``: its job, an environment of it, its folders."""
        return name in (self.name, self.folder.name, self.folder.parent.name, *self.environments)


def local_runs(root: Path | None = None) -> Iterator[FoundRun]:
    """The runs in ``runs/<environment>/<digest>``, in no promised order. Folders without a readable plan are none."""
    import orjson

    for plan in (root or Path(RUNS)).glob(f"*/*/{PLAN}"):
        try:
            raw: dict[str, Any] = orjson.loads(plan.read_bytes())
            names = tuple(name for entry in raw["environments"] for name in (entry["name"], entry.get("environment")))
            yield FoundRun(plan.parent, raw["name"], raw["created"], tuple(filter(None, names)))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not a plan of ours, or being written


def locate(run: str) -> str:
    """Folder or URL of what a user calls a run: a place, else the newest below ``runs/`` of that name.

    Raises:
        RunNotFound: there is neither.
    """
    if "://" in run or (Path(run) / PLAN).is_file():
        return run
    called = [found for found in local_runs() if found.is_called(run)]
    if called:
        return str(max(called, key=lambda found: found.created).folder)
    if Path(run).is_dir():
        raise RunNotFound(f"{run} holds no run (there is no {PLAN})")
    known = sorted({found.name for found in local_runs()})
    from kubegym.core.spec import did_you_mean

    hint = did_you_mean(run, known) if known else "; there are no runs below ./runs yet"
    raise RunNotFound(f"no run is called {run!r}, and there is no such folder{hint}")
