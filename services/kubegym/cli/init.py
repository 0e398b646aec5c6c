"""``kubegym init``: a small environment of a kind, complete, to be changed into one's own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from kubegym.cli.choices import Kind
from kubegym.cli.errors import guarded, print_json
from kubegym.core.errors import InvalidSpec

KINDS = Path(__file__).with_name("kinds")
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,50}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Sketch:
    """What a kind's manifest says.

    Attributes:
        structure, capabilities, task_type, verification, chance: its traits.
        steps: model calls of a rollout.
        roles: of its other models.
    """

    structure: str
    capabilities: str
    task_type: str
    verification: str
    chance: str = "0"
    steps: int = 1
    roles: tuple[str, ...] = ()


SKETCHES = {
    Kind.single_step: Sketch("single-turn", "text", "question-answering", "exact-match"),
    Kind.multi_step: Sketch("multi-step", "tool-calling", "tool-use", "number", steps=8),
    Kind.stateful: Sketch("multi-step", "tool-calling, session-state", "tool-use", "state-match", steps=8),
    Kind.multi_turn: Sketch("multi-turn", "text", "game", "exact-match", "0.02", 12),
    Kind.judge: Sketch("single-turn", "text", "question-answering", "llm-judge", roles=("judge",)),
    Kind.code: Sketch("single-turn", "code-execution", "program-synthesis", "unit-tests"),
}


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name: lower-case words joined by -.")],
    kind: Annotated[Kind, typer.Option(help="What kind of environment.")] = Kind.single_step,
    into: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Where its folder shall be. Default: environments/ if there.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a small environment that passes its tests, to be changed into your own."""

    def work() -> int:
        place = Path(into) if into is not None else Path("environments") if Path("environments").is_dir() else Path()
        folder = written(name, kind, place)
        files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        if as_json:
            print_json({"folder": str(folder), "kind": kind.value, "files": files})
            return 0
        print(f"wrote {folder}: {', '.join(files)}\n\nnext")
        for command in (f"pytest {folder}", f"kubegym validate {folder} --adversarial", f"kubegym run {folder}"):
            print(f"  {command}")
        return 0

    raise typer.Exit(guarded(work, as_json=as_json))


def written(name: str, kind: Kind, place: Path) -> Path:
    """Write an environment of a kind into a folder of its own below ``place``; that folder.

    Raises:
        InvalidSpec: a name that no manifest takes, or a folder that is there already.
    """
    if not _NAME.fullmatch(name.replace("_", "-")):
        raise InvalidSpec(f"{name!r} is no name: lower-case letters and digits, joined by -, such as web-shop")
    folder = place / name.replace("-", "_")
    if folder.exists():
        raise InvalidSpec(f"{folder} is there already; choose another name, or --into another folder")
    words = _words(name, kind, folder)
    own = KINDS / kind.value
    words["task"] = (own / "task.py.txt").read_text(encoding="utf-8")
    for file, source in (
        ("environment.yaml", KINDS / "environment.yaml.txt"),
        ("app.py", own / "app.py.txt"),
        ("data/generate.py", KINDS / "generate.py.txt"),
        (f"tests/test_{folder.name}.py", KINDS / "test.py.txt"),
    ):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(_filled(source.read_text(encoding="utf-8"), words), encoding="utf-8")
    words["rollout"] = _with_rows(folder, SKETCHES[kind].roles)
    readme = _filled((KINDS / "README.md.txt").read_text(encoding="utf-8"), words)
    (folder / "README.md").write_text(readme, encoding="utf-8")
    return folder


def _words(name: str, kind: Kind, folder: Path) -> dict[str, str]:
    sketch = SKETCHES[kind]
    server = "server: {engine: embedded}  # a model that can do the job"
    return {
        "name": name.replace("_", "-"),
        "folder": folder.name,
        "path": str(folder),
        "class": "".join(part.capitalize() for part in folder.name.split("_")),
        "structure": sketch.structure,
        "capabilities": sketch.capabilities,
        "task_type": sketch.task_type,
        "verification": sketch.verification,
        "chance": sketch.chance,
        "steps": str(sketch.steps),
        "models": "".join(f"    {role}:\n      {server}\n" for role in sketch.roles),
        "test_models": repr(dict.fromkeys(sketch.roles, "stand-in")).replace("'", '"'),
    }


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


def _with_rows(folder: Path, roles: tuple[str, ...]) -> str:
    """Write the rows; the block of a README that shows how the oracle plays the first of them."""
    import json
    import runpy

    from kubegym.cli.transcript import readme_block
    from kubegym.testing import play

    made = runpy.run_path(str(folder / "data/generate.py"))
    content: str = made["content"]()
    (folder / "data" / "example.jsonl").write_text(content, encoding="utf-8")
    stand_ins: dict[str, Any] = dict.fromkeys(roles, "stand-in")
    played = play(folder, json.loads(content.splitlines()[0]), "oracle", models=stand_ins)
    return f"<!-- rollout 0 -->\n```\n{readme_block(played.row)}```\n<!-- /rollout -->"
