"""``kubegym validate``: manifests, rows and environments, without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kubegym.cli.adversarial import TASKS, outcomes_json, played, print_outcomes, stated_chance
from kubegym.cli.errors import BAD_INPUT, guarded, print_json
from kubegym.core.errors import InvalidRows, KubeGymError

if TYPE_CHECKING:
    from kubegym.core.spec import Manifest
    from kubegym.data.dataset import Dataset
    from kubegym.local.adversarial import Outcome
    from kubegym.local.episodes import LocalEpisodes
    from kubegym.local.runspec import Entry, RunSpec
    from kubegym.resources import EnvironmentRuntime

ORACLE_ROWS = 50
"""Rows that the oracle plays, unless --limit says otherwise."""

_ALL = 1 << 40  # bad rows that are named: there is nothing else to see
_TOOLS = 6  # that are named; some environments have dozens


@dataclass
class Table:
    """What agents earned in an environment, and what its manifest states as chance."""

    environment: str
    outcomes: list[Outcome]
    chance: float | None


@dataclass(frozen=True)
class Depth:
    """How far to look: rows that the oracle plays, tasks of the adversarial table (None: no table)."""

    oracle_rows: int = ORACLE_ROWS
    adversarial_tasks: int | None = None


@dataclass
class Findings:
    """What was looked at, what is wrong, and what an environment lacks that still runs."""

    checked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    def attempt(self, work: Callable[[], Any]) -> Any:
        """The result of the work; None, and a problem noted, where it cannot be done."""
        try:
            return work()
        except KubeGymError as error:
            self.note(error)
            return None

    def note(self, error: KubeGymError) -> None:
        """Take an error as a problem; once, however often it is met."""
        problem = f"{error.message} [{error.reason}]" if "\n" not in error.message else error.message
        if isinstance(error, InvalidRows):
            problem = error.message.replace("; nothing was run", "", 1)
        if problem not in self.problems:
            self.problems.append(problem)


def validate(
    targets: Annotated[
        list[str], typer.Argument(metavar="TARGET...", help="Environments (folder or name) or manifest files.")
    ],
    dataset: Annotated[
        str | None, typer.Option(metavar="FILE", help="Rows to check. Default: the sample job's.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help=f"Rows that are played. Default: {ORACLE_ROWS}, with --adversarial {TASKS}."
        ),
    ] = None,
    adversarial: Annotated[
        bool, typer.Option("--adversarial", help="Let agents play that do not do the task; print what they earn.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check manifests, rows and environments, without a model.

    Where an environment has an oracle, it plays rows, and its reward has to be 1. With --adversarial no agent that does
    not do the task may earn more than the chance level.
    """

    def work() -> int:
        import asyncio

        depth = Depth(ORACLE_ROWS if limit is None else limit)
        if adversarial:
            depth = Depth(0, TASKS if limit is None else limit)
        findings = asyncio.run(check(targets, dataset, depth))
        if as_json:
            print_json(_as_json(findings))
        else:
            _print(findings)
        return BAD_INPUT if findings.problems else 0

    raise typer.Exit(guarded(work, as_json=as_json))


def _as_json(findings: Findings) -> dict[str, Any]:
    tables = {table.environment: outcomes_json(table.outcomes) for table in findings.tables}
    return {
        "valid": not findings.problems,
        "checked": findings.checked,
        "problems": findings.problems,
        "missing": findings.missing,
        **({"adversarial": tables} if tables else {}),
    }


def _print(findings: Findings) -> None:
    for line in findings.checked:
        print(f"checked  {line}")
    for table in findings.tables:
        print_outcomes(table.environment, table.outcomes, table.chance)
    for line in findings.missing:
        print(f"missing  {line}")
    for problem in findings.problems:
        print(f"problem  {problem}")
    if not findings.problems:
        print("all is well" if not findings.missing else "it runs; what is missing, others look for")


async def check(targets: Sequence[str], dataset: str | None, depth: Depth) -> Findings:
    """Check everything that targets name; never raises for what is wrong with them."""
    findings = Findings()
    sound = [_manifests(_manifest_files(target), findings) for target in targets]
    if not all(sound):
        return findings
    if len(targets) > 1 and all(_is_manifest(target) for target in targets):
        await _resolved(list(targets), dataset, depth, findings)
    else:
        for target in targets:
            await _resolved([target], dataset, depth, findings)
    return findings


def _is_manifest(target: str) -> bool:
    return target.endswith((".yaml", ".yml")) and not Path(target).is_dir()


def _manifest_files(target: str) -> list[Path]:
    """The manifests behind a target; none for what is no environment, which resolving it says better."""
    from kubegym.core.errors import EnvironmentNotFound
    from kubegym.local.resolve import MANIFEST, find_environment

    if _is_manifest(target):
        return [Path(target)]
    try:
        _, folder = find_environment(target)
    except EnvironmentNotFound:
        return []
    found = folder / MANIFEST if folder is not None else None
    return [found] if found is not None and found.is_file() else []


def _manifests(files: Iterable[Path], findings: Findings) -> bool:
    """Syntax, fields and values of manifests; whether they can be used."""
    from kubegym.core.spec import load_manifests

    sound = True
    for file in files:
        loaded: list[Manifest] | None = findings.attempt(lambda file=file: load_manifests(file))  # type: ignore[misc]
        if loaded is None:
            sound = False
        else:
            findings.checked.append(f"{file}: " + ", ".join(f"{one.kind} {one.name}" for one in loaded))
    return sound


async def _resolved(targets: list[str], dataset: str | None, depth: Depth, findings: Findings) -> None:
    """References, environments and rows of what ``run`` would make of the targets."""
    from kubegym.local.resolve import RunFlags, resolve

    flags = RunFlags(dataset=dataset, engine="simulated")  # no model is asked; any will do
    spec: RunSpec | None = findings.attempt(lambda: resolve(targets, flags))
    if spec is None:
        return
    from kubegym.local.episodes import build_episodes
    from kubegym.local.gaps import gaps
    from kubegym.local.tasks import open_tasks

    spec = _without_models(spec)
    episodes: LocalEpisodes | None = findings.attempt(lambda: build_episodes(spec))
    if episodes is None:
        return
    try:
        for name, part in episodes.parts.items():
            findings.checked.append(f"environment {name}: {_described(part.runtime)}")
            findings.missing += gaps(part.loaded.folder) if part.loaded.folder is not None else []
        tasks = await open_tasks(spec, episodes)
        try:
            await _rows(tasks, episodes, findings)
            for entry in spec.entries:
                if depth.adversarial_tasks is None:
                    await _oracle(entry, episodes, tasks.datasets[entry.name], depth.oracle_rows, findings)
                elif not findings.problems:
                    await _adversarial(entry, episodes, tasks.datasets[entry.name], depth.adversarial_tasks, findings)
        finally:
            await tasks.close()
    except KubeGymError as error:
        findings.note(error)
    finally:
        await episodes.close()


def _without_models(spec: RunSpec) -> RunSpec:
    """The spec with simulated engines for every role."""
    from dataclasses import replace

    from kubegym.local.runspec import ModelRef

    simulated = ModelRef("simulated", "simulated")
    return replace(
        spec,
        entries=tuple(replace(entry, models=dict.fromkeys(entry.models, simulated)) for entry in spec.entries),
    )


def _described(runtime: EnvironmentRuntime) -> str:
    tools = [*runtime.tools.by_name, *(["any"] if runtime.tools.catch_all else [])]
    more = f" and {len(tools) - _TOOLS} more" if len(tools) > _TOOLS else ""
    offered = f"tools {', '.join(tools[:_TOOLS])}{more}" if tools else "no tools"
    return f"{runtime.cls.__name__} {runtime.version}, {offered}"


async def _rows(tasks: Any, episodes: LocalEpisodes, findings: Findings) -> None:
    try:
        await tasks.validate(episodes, shown=_ALL)
    except KubeGymError as error:
        findings.note(error)
        return
    for name, dataset in tasks.datasets.items():
        findings.checked.append(f"rows of {name}: {dataset.rows:,} in {dataset.source}")


async def _adversarial(entry: Entry, episodes: LocalEpisodes, dataset: Dataset, tasks: int, findings: Findings) -> None:
    part = episodes.parts[entry.name]
    outcomes, problems = await played(part, dataset, tasks)
    findings.tables.append(Table(entry.name, outcomes, stated_chance(part.loaded.folder)))
    findings.problems += problems


async def _oracle(entry: Entry, episodes: LocalEpisodes, dataset: Dataset, count: int, findings: Findings) -> None:
    """Let the environment's own perfect replies earn their reward."""
    import orjson

    part = episodes.parts[entry.name]
    others = sorted(role for role in entry.models if role != "policy")
    skipped = None
    if not part.runtime.has_oracle:
        skipped = "there is none"
    elif others and not part.runtime.has_stand_ins:
        skipped = f"not played, the environment asks models of its own ({', '.join(others)})"
    elif count == 0:
        skipped = "not played"
    if skipped is not None:
        findings.checked.append(f"oracle of {entry.name}: {skipped}")
        return
    import asyncio

    from kubegym.testing import play

    rows = await dataset.read(0, min(count, dataset.rows))
    bad = 0
    for number, line in enumerate(rows, 1):
        row = orjson.loads(line)
        if part.runtime.validate_row(row) is not None:
            continue  # said already, with the other rows
        stand_ins: dict[str, Any] = dict.fromkeys(others, "stand-in")
        rollout = await asyncio.to_thread(play, part.runtime.cls, row, "oracle", entry.config, models=stand_ins)
        if rollout.reward != 1.0:
            bad += 1
            failure = rollout.failure
            why = f"{failure.stage} {failure.reason}: {failure.message}" if failure else f"reward {rollout.reward}"
            findings.problems.append(f"{dataset.source}: row {number}: the oracle of {entry.name} earns no 1: {why}")
    if not bad:
        findings.checked.append(f"oracle of {entry.name}: reward 1 on {len(rows)} rows")
