"""``kubegym validate --adversarial``: what agents earn that do not do the task, beside the oracle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubegym.core.errors import InvalidSpec, KubeGymError

if TYPE_CHECKING:
    from kubegym.data.dataset import Dataset
    from kubegym.local.adversarial import Outcome
    from kubegym.local.episodes import Part

TASKS = 200
"""Tasks that every agent plays, where there are so many."""

MAKING_SECONDS = 60.0
"""How long ``data/generate.py`` may take to make them."""

_MAKE = """
import json, runpy, sys
script, count, seed = sys.argv[1:]
for row in runpy.run_path(script)["rows"](count=int(count), seed=int(seed)):
    print(json.dumps(row))
"""


async def played(part: Part, dataset: Dataset, tasks: int) -> tuple[list[Outcome], list[str]]:
    """The table of an environment, and what is wrong with it. Raises InvalidSpec: it cannot be played."""
    from kubegym.local.adversarial import Arena, complaints

    runtime = part.runtime
    roles = sorted(role for role in part.entry.models if role != "policy")
    if not runtime.has_oracle:
        raise InvalidSpec(f"{part.entry.name}: {runtime.cls.__name__} has no oracle; add one, whose replies earn 1.0")
    if roles and not runtime.has_stand_ins:
        raise InvalidSpec(f"{part.entry.name}: {runtime.cls.__name__} has no stand_in for {', '.join(roles)}; add one")
    rows = await tasks_of(part, dataset, tasks)
    for position, row in enumerate(rows):
        problem = runtime.validate_row(row)
        if problem is not None:
            raise InvalidSpec(f"{part.entry.name}: task {position}: {problem}")
    await runtime.start()
    outcomes = await Arena(runtime, rows, roles, part.settings, rollouts=tasks).play()
    chance = stated_chance(part.loaded.folder)
    problems = [f"adversarial table of {part.entry.name}: {one}" for one in complaints(outcomes, chance or 0.0)]
    return outcomes, problems


async def tasks_of(part: Part, dataset: Dataset, tasks: int) -> list[dict[str, Any]]:
    """Rows of the dataset; made by the environment's ``data/generate.py`` where that holds too few.

    Raises:
        InvalidSpec: the script cannot make so many.
    """
    import asyncio

    import orjson

    rows = [orjson.loads(line) for line in await dataset.read(0, min(tasks, dataset.rows))]
    script = (part.loaded.folder or Path()) / "data" / "generate.py"
    if len(rows) >= tasks or part.loaded.folder is None or not script.is_file():
        return rows
    return await asyncio.to_thread(made_rows, script, tasks)


def made_rows(script: Path, count: int, seed: int = 1, seconds: float = MAKING_SECONDS) -> list[dict[str, Any]]:
    """What an environment's ``rows(count, seed)`` yields, made in a process of its own: a loop without end is ended.

    Raises:
        InvalidSpec: the script fails, has no such function, or takes too long.
    """
    import json
    import subprocess

    command = [sys.executable, "-c", _MAKE, str(script), str(count), str(seed)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        problem = f"{script}: rows({count}, {seed}) took more than {seconds:g} s; can there be so many different ones?"
        raise InvalidSpec(problem) from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise InvalidSpec(f"{script}: rows(count, seed) has to yield that many rows: {said}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def stated_chance(folder: Path | None) -> float | None:
    """The chance level of the manifest in a folder; None where it states none."""
    from kubegym.core.spec import GymEnvironment, load_manifests
    from kubegym.core.spec.traits import chance_of
    from kubegym.local.resolve import MANIFEST

    if folder is None or not (folder / MANIFEST).is_file():
        return None
    try:
        manifests = load_manifests(folder / MANIFEST)
    except KubeGymError:
        return None
    return next((chance_of(one) for one in manifests if isinstance(one, GymEnvironment)), None)


def print_outcomes(name: str, outcomes: list[Outcome], chance: float | None) -> None:
    """The table of an environment, on stdout."""
    from kubegym.cli.tables import number, print_table

    cells = []
    for one in outcomes:
        interval = "-" if one.interval is None else f"{one.interval[0]:.3f} to {one.interval[1]:.3f}"
        left_out = one.unscored + one.failed
        cells.append(
            [one.agent, f"{len(one.rewards):,}", number(one.mean), interval, f"{left_out:,}" if left_out else "0"]
        )
    print(f"\n{name}, chance level {'not stated' if chance is None else f'{chance:g}'}")
    print_table(["agent", "scored", "mean reward", "95 % interval", "without reward"], cells, sys.stdout)


def outcomes_json(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """The same as data."""
    return [
        {
            "agent": one.agent,
            "scored": len(one.rewards),
            "unscored": one.unscored,
            "failed": one.failed,
            "mean_reward": one.mean,
            "interval": one.interval,
        }
        for one in outcomes
    ]
