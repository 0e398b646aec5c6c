"""What an environment's folder lacks: the parts that a reader, ``kubegym list`` and CI look for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from kubegym.core.errors import KubeGymError
from kubegym.core.spec import GymEnvironment, RolloutJob, load_manifests
from kubegym.core.spec.traits import chance_of, trait_problems
from kubegym.local.resolve import MANIFEST

EXAMPLES = 5
"""Rows of ``data/example.jsonl``, at least."""

_CHANCE = re.compile(r"^Chance level: (\d+(?:\.\d+)?)", re.MULTILINE)
_ROLLOUT = re.compile(r"^## A rollout$", re.MULTILINE)


def gaps(folder: Path) -> list[str]:
    """What is missing in an environment's folder, each with the file and the remedy; never raises."""
    return [*_manifest(folder), *_examples(folder), *_tests(folder), *_readme(folder)]


def _manifest(folder: Path) -> Iterator[str]:
    file = folder / MANIFEST
    if not file.is_file():
        yield f"{file}: missing: the manifest, a GymEnvironment and a sample RolloutJob"
        return
    try:
        manifests = load_manifests(file)
    except KubeGymError:
        return  # a problem, which is said elsewhere
    environments = [one for one in manifests if isinstance(one, GymEnvironment)]
    if not environments:
        yield f"{file}: has no GymEnvironment"
    if not any(isinstance(one, RolloutJob) for one in manifests):
        yield f"{file}: has no sample RolloutJob"
    for environment in environments:
        yield from (f"{file}: {problem}" for problem in trait_problems(environment))


def _examples(folder: Path) -> Iterator[str]:
    file = folder / "data" / "example.jsonl"
    if not file.is_file():
        yield f"{file}: missing: at least {EXAMPLES} rows"
        return
    with file.open("rb") as lines:
        rows = sum(bool(line.strip()) for line in lines)
    if rows < EXAMPLES:
        yield f"{file}: has {rows} rows; at least {EXAMPLES}"


def _tests(folder: Path) -> Iterator[str]:
    if not any((folder / "tests").glob("test_*.py")):
        yield f"{folder / 'tests'}: missing: tests/test_*.py, plain pytest with kubegym.testing.play"


def _readme(folder: Path) -> Iterator[str]:
    file = folder / "README.md"
    if not file.is_file():
        yield f"{file}: missing: task, row fields, tools, reward, chance level, a rollout"
        return
    text = file.read_text(encoding="utf-8", errors="replace")
    if not _ROLLOUT.search(text):
        yield f"{file}: has no section `## A rollout` with a transcript"
    stated = _CHANCE.search(text)
    if stated is None:
        yield f"{file}: has no line that begins with `Chance level: ` and a number"
        return
    declared = _declared_chance(folder)
    if declared is not None and declared != float(stated.group(1)):
        yield f"{file}: says chance level {stated.group(1)}, {MANIFEST} says {declared:g}"


def _declared_chance(folder: Path) -> float | None:
    try:
        manifests = load_manifests(folder / MANIFEST)
    except (KubeGymError, OSError):
        return None
    return next((chance_of(one) for one in manifests if isinstance(one, GymEnvironment)), None)
