"""Runs that must not start: manifests, rows and models that cannot be used. Each says what is wrong and where."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kubegym.core.errors import InputError, InvalidRows, InvalidSpec
from kubegym.core.spec.problems import InvalidManifests
from kubegym.local.localrun import LocalRun
from kubegym.local.resolve import RunFlags, resolve
from testbed.echo import APP, MANIFEST, rows, write_rows
from testbed.local_runs import assert_nothing_written, command

pytestmark = pytest.mark.contract


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    """An environment's folder whose sample job writes to ``out`` beside it."""
    folder = tmp_path / "echo"
    folder.mkdir()
    (folder / "app.py").write_text(APP)
    (folder / "environment.yaml").write_text(MANIFEST.replace("OUTPUT", f"file://{tmp_path}/out"))
    write_rows(folder / "data" / "example.jsonl", 5)
    return folder


async def refused(folder: Path, error: type[InputError], **flags: Any) -> str:
    """Run the folder's job; it must be refused before anything is written. What was said."""
    with pytest.raises(error) as caught:
        await LocalRun(resolve([str(folder)], RunFlags(**flags))).run()
    assert_nothing_written(folder.parent / "out")
    return str(caught.value)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("spec:\n  models:", "spec:\n  models: [", 8, "is not YAML"),
        ("rolloutsPerTask: 2", "\tgroup: {}", 22, "is not YAML"),
        ("rolloutsPerTask: 2", "rolloutPerTask: 2", 22, "unknown field; did you mean 'rolloutsPerTask'?"),
        ("agent: {maxSteps: 3}", "agent: {maxStep: 3}", 11, "unknown field; did you mean 'maxSteps'?"),
        ("onTruncated: Skip", "onTruncated: skip", 24, "did you mean 'Skip'?"),
        ('temperature: "0.5"', "temperature: 0.5", 25, 'write "0.5", in quotes'),
        ("kind: GymEnvironment", "kind: GymEnvironments", 3, "did you mean 'GymEnvironment'?"),
        ("concurrency: 5", "concurrency: many", 23, "must be an integer, not 'many'"),
    ],
)
async def test_a_malformed_manifest_is_refused_with_its_line(
    old: str, new: str, line: int, says: str, echo: Path
) -> None:
    edit(echo / "environment.yaml", old, new)
    said = await refused(echo, InvalidManifests)
    assert f"environment.yaml:{line}: " in said
    assert says in said


async def test_a_config_that_the_environment_does_not_take_is_refused(echo: Path) -> None:
    edit(echo / "environment.yaml", "{bonus: 1.0}", "{bonsu: 1.0}")
    assert "config: bonsu: unknown field; did you mean bonus?" in await refused(echo, InvalidSpec)


async def test_a_run_without_a_policy_model_says_how_to_give_one(echo: Path) -> None:
    edit(echo / "environment.yaml", "  models:\n    policy:\n      server: {engine: simulated}\n", "")
    said = await refused(echo, InvalidSpec)
    assert "policy" in said
    assert "--base-url" in said
    assert "--engine" in said


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "not JSON"),
        (b"[1]", "object"),
        (b"null", "object"),
        (b'{"word": "a"}', "responses_create_params"),
        (b'{"responses_create_params": {"input": 3}, "word": "a"}', "input"),
        (b'{"responses_create_params": {"input": "a"}}', "word: Field required"),
        (b'{"responses_create_params": {"input": "a"}, "word": 7}', "word: "),
        (b'{"responses_create_params": {"input": "a"}, "word": "\xff"}', ""),
        (b'{"responses_create_params": {"input": "a", "tools": "none"}, "word": "a"}', "tools"),
        (b'{"responses_create_params": {"input": "a", "temperature": "hot"}, "word": "a"}', "temperature"),
        (b'{"responses_create_params": {"input": "a"}, "word": "a", "agent_ref": {"name": 1}}', "agent_ref"),
        (b'{"responses_create_params": {"input": NaN}, "word": "a"}', "not JSON"),
    ],
)
async def test_a_malformed_row_is_refused_with_its_line(line: bytes, says: str, echo: Path) -> None:
    path = write_rows(echo / "data" / "example.jsonl", 3)
    path.write_bytes(path.read_bytes() + line + b"\n")
    edit(echo / "environment.yaml", ", limit: 3", "")
    said = await refused(echo, InvalidRows)
    assert said.startswith("1 row is invalid; nothing was run")
    assert "example.jsonl:4: " in said
    assert says in said


async def test_of_many_malformed_rows_the_first_fifty_and_the_count_are_told(echo: Path) -> None:
    path = echo / "data" / "example.jsonl"
    path.write_text("".join(json.dumps(row) + "\nnot json\n" for row in rows(120)))
    edit(echo / "environment.yaml", ", limit: 3", "")
    said = (await refused(echo, InvalidRows)).splitlines()
    assert said[0] == "120 rows are invalid; nothing was run"
    assert [line.split(":")[1] for line in said[1:-1]] == [str(number) for number in range(2, 102, 2)]
    assert said[-1].strip() == "... and 70 more"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "data" / "example.jsonl").unlink(), "example.jsonl"),
        (lambda folder: (folder / "data" / "example.jsonl").write_text("\n\n"), "no rows"),
        (lambda folder: (folder / "app.py").write_text("class Echo("), "app.py"),
        (lambda folder: (folder / "app.py").write_text("import no_such_package"), "no_such_package"),
        (lambda folder: (folder / "app.py").write_text("x = 1"), "app.py"),
        (lambda folder: (folder / "app.py").write_text("1 / 0"), "division by zero"),
        (lambda folder: (folder / "app.py").write_text("raise SystemExit(0)"), "SystemExit"),
        (lambda folder: (folder / "app.py").unlink(), "app.py"),
    ],
)
async def test_a_folder_that_is_no_environment_is_refused(spoil: Callable[[Path], None], says: str, echo: Path) -> None:
    spoil(echo)
    assert says in await refused(echo, InputError)


async def test_a_dataset_that_is_not_the_pinned_one_is_refused(echo: Path) -> None:
    spec = resolve([str(echo)], RunFlags())
    entry = spec.entries[0]
    assert entry.dataset is not None
    pinned = replace(entry, dataset=replace(entry.dataset, sha256="0" * 64))
    with pytest.raises(InvalidSpec, match="sha256"):
        await LocalRun(replace(spec, entries=(pinned,))).run()
    assert_nothing_written(echo.parent / "out")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"base_url": "localhost:8000/v1", "model": "m"}, "localhost:8000/v1"),
        ({"engine": "embedded", "model": "no/such.gguf"}, "no/such.gguf"),
        ({"base_url": "http://127.0.0.1:9/v1", "model": "m", "api_key_file": "no/such/key"}, "no/such/key"),
    ],
)
async def test_a_model_that_cannot_be_meant_is_refused(flags: dict[str, Any], says: str, echo: Path) -> None:
    assert says in await refused(echo, InputError, **flags)


@pytest.mark.parametrize(
    ("addition", "says"),
    [
        (
            "\n    @classmethod\n    def setup(cls, config):\n        raise RuntimeError('no licence')\n",
            "error: environment echo: setup: RuntimeError: no licence",
        ),
        ("\nraise SystemExit(0)\n", "app.py:22: SystemExit: 0"),
    ],
)
def test_the_command_line_says_why_a_run_did_not_start(addition: str, says: str, echo: Path) -> None:
    app = echo / "app.py"
    app.write_text(app.read_text() + addition)
    done = command("run", echo, cwd=echo.parent)
    assert done.returncode == 2
    assert done.stdout == ""
    assert says in done.stderr
    assert_nothing_written(echo.parent / "out")
