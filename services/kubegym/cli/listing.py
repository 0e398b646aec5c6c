"""``kubegym list``: what there is to run, and what was run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kubegym.cli.choices import Listed
from kubegym.cli.errors import guarded, print_json
from kubegym.cli.locate import RUNS, FoundRun, local_runs
from kubegym.core.errors import InvalidSpec

if TYPE_CHECKING:
    from kubegym.resources.loader import AvailableEnvironment

_ANNOTATION = "kubegym.dev/"
_VERSION = "app.kubernetes.io/version"
_FILTERED = ("rollout-structure", "capabilities", "domain", "task-type", "verification", "license")


def _filter(trait: str, example: str) -> Any:
    return typer.Option(
        metavar="WORD", help=f"Only those with this {trait}, such as {example}. Repeatable: any of them."
    )


def list_(
    what: Annotated[Listed, typer.Argument(metavar="[environments|runs]")] = Listed.environments,
    structure: Annotated[list[str] | None, _filter("rollout structure", "multi-turn")] = None,
    capability: Annotated[list[str] | None, _filter("capability", "tool-calling")] = None,
    domain: Annotated[list[str] | None, _filter("domain", "math")] = None,
    task_type: Annotated[list[str] | None, _filter("task type", "tool-use")] = None,
    verification: Annotated[list[str] | None, _filter("way of verification", "llm-judge")] = None,
    license_: Annotated[list[str] | None, typer.Option("--license", metavar="SPDX", help="Likewise.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects with `name`.")] = False,
) -> None:
    """List environments that `run` takes by name, or the runs below ./runs."""
    given = zip(_FILTERED, (structure, capability, domain, task_type, verification, license_), strict=True)
    wanted = {trait: words for trait, words in given if words}

    def work() -> int:
        if what is Listed.environments:
            return _environments(wanted, as_json)
        if wanted:
            raise InvalidSpec("runs have no rollout structure, capability or the like: filters are for environments")
        import asyncio

        return asyncio.run(_runs(as_json))

    raise typer.Exit(guarded(work, as_json=as_json))


def _environments(wanted: Mapping[str, Sequence[str]], as_json: bool) -> int:
    from kubegym.resources.loader import available_environments

    known = [environment_facts(available) for available in available_environments()]
    found = [one for one in known if matches(one["traits"], wanted)]
    if as_json:
        print_json(found)
    elif not known:
        print("no environments: none in ./environments, none installed")
    elif not found:
        print(f"none of {len(known)} environments fits; the words that are in use:")
        for trait in wanted:
            words = sorted({word for one in known for word in one["traits"].get(trait, ())})
            print(f"  {trait}: {', '.join(words) or 'nothing'}")
    else:
        from kubegym.cli.tables import print_table

        shown = ("rollout-structure", "domain", "verification")
        cells = [
            [one["name"], *(", ".join(one["traits"].get(trait, ["-"])) for trait in shown), one["description"]]
            for one in found
        ]
        print_table(["environment", "structure", "domain", "verification", "description"], cells, sys.stdout, left=5)
    return 0


def matches(traits: Mapping[str, Sequence[str]], wanted: Mapping[str, Sequence[str]]) -> bool:
    """Whether an environment has, of every trait that is asked for, one of the words asked for."""
    return all(
        {word.casefold() for word in words} & {word.casefold() for word in traits.get(trait, ())}
        for trait, words in wanted.items()
    )


def environment_facts(available: AvailableEnvironment) -> dict[str, Any]:
    """What is known of an environment without importing it: from its manifest and its source's text."""
    facts: dict[str, Any] = {
        "name": available.name,
        "version": None,
        "description": "",
        "place": "installed" if available.folder is None else str(_near(available.folder)),
        "annotations": {},
        "traits": {},
    }
    folder = available.folder
    if folder is None:
        return facts
    facts["description"] = described_by(folder / "app.py")
    metadata = _metadata(folder / "environment.yaml")
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    facts["version"] = labels.get(_VERSION)
    facts["annotations"] = {
        name.removeprefix(_ANNOTATION): value for name, value in annotations.items() if name.startswith(_ANNOTATION)
    }
    facts["traits"] = {
        name: [word.strip() for word in str(value).split(",") if word.strip()]
        for name, value in facts["annotations"].items()
    }
    return facts


def described_by(source: Path) -> str:
    """First line of the docstring of the class that looks like the environment, else of the module."""
    import ast

    try:
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return ""  # listed all the same; `kubegym validate` says what is wrong
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for node in classes:
        if any(isinstance(base, ast.Name | ast.Attribute) and _name(base) == "Environment" for base in node.bases):
            return _first_line(ast.get_docstring(node)) or _first_line(ast.get_docstring(tree))
    return _first_line(ast.get_docstring(tree))


def _name(node: Any) -> str:
    return str(getattr(node, "id", None) or getattr(node, "attr", ""))


def _first_line(text: str | None) -> str:
    return text.strip().partition("\n")[0].replace("``", "") if text else ""


def _metadata(manifest: Path) -> dict[str, Any]:
    import yaml

    try:
        documents = list(yaml.safe_load_all(manifest.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError):
        return {}  # listed all the same; `kubegym validate` says what is wrong
    for document in documents:
        if isinstance(document, dict) and document.get("kind") == "GymEnvironment":
            metadata = document.get("metadata")
            return metadata if isinstance(metadata, dict) else {}
    return {}


def _near(folder: Path) -> Path:
    """The path from here where the folder lies below, else the whole one."""
    absolute, here = folder.resolve(), Path.cwd().resolve()
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute


async def _runs(as_json: bool) -> int:
    runs = sorted(local_runs(), key=lambda run: run.created, reverse=True)
    found = [await run_facts(run) for run in runs]
    if as_json:
        print_json(found)
    elif not found:
        print(f"no runs below ./{RUNS}")
    else:
        from kubegym.cli.tables import number, print_table

        cells = [
            [
                one["output"],
                one["name"],
                one["state"],
                f"{one['rollouts']['settled']:,}/{one['rollouts']['planned']:,}",
                f"{one['rollouts']['failed']:,}",
                number(one["mean_reward"]),
            ]
            for one in found
        ]
        print_table(["run", "name", "state", "rollouts", "failed", "mean reward"], cells, sys.stdout, left=2)
    return 0


async def run_facts(run: FoundRun) -> dict[str, Any]:
    """State and sums of a run, from its manifest or its heads."""
    from kubegym.rollout import read_run
    from kubegym.rollout.holder import is_gone
    from kubegym.rollout.reader import plan_heads, stream_heads
    from kubegym.storage import open_store

    store = open_store(run.folder)
    try:
        stored = await read_run(store)
        state = "finished" if stored.manifest.complete else "unfinished"
        if not stored.manifest.complete:
            heads = await (stream_heads(store) if stored.open_ended else plan_heads(store, stored.plan.shards))
            if any(head.state == "Claimed" and not is_gone(head.holder) for head in heads.values()):
                state = "running"
    finally:
        await store.close()
    totals = stored.manifest.totals
    return {
        "name": run.name,
        "output": str(run.folder),
        "run_id": stored.plan.run_id,
        "created": run.created,
        "state": state,
        "environments": [entry["name"] for entry in stored.plan.environments],
        "rollouts": {
            "planned": stored.manifest.planned,
            "settled": totals.settled,
            "scored": totals.scored,
            "unscored": totals.unscored,
            "failed": totals.failed,
        },
        "mean_reward": totals.reward / totals.scored if totals.scored else None,
    }
