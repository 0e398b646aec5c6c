"""One run, composed in different ways: the rows are the same."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kubegym.core.errors import InvalidSpec, RunFailed
from kubegym.local.localrun import LocalRun
from kubegym.local.resolve import RunFlags, resolve
from kubegym.local.results import read_results
from kubegym.local.runspec import RunSpec
from kubegym.local.split import split_servers
from kubegym.testing import ScriptedModel
from testbed.comparable import rows_of

ROOT = Path(__file__).resolve().parents[2]
ARITHMETIC = str(ROOT / "environments" / "arithmetic")
FOLDERS = sorted(path.parent for path in (ROOT / "environments").glob("*/app.py"))
# The simulated engine says the same to the same conversation, at any time and beside any other.
FLAGS = RunFlags(engine="simulated", temperature=0.0, rollouts_per_task=2, concurrency=8, tokens="Samples")


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """A ``kubegym serve`` process; its URL."""
    command = [sys.executable, "-m", "kubegym.cli.main", "serve", *arguments, "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(300) == 0, "a server ends cleanly at SIGTERM"


@pytest.fixture
async def in_process(tmp_path: Path) -> list[Any]:
    rows = await rows_of(resolve([ARITHMETIC], FLAGS), tmp_path / "in-process")
    kinds = {kind for _, _, conversation, *_ in rows for kind, *_ in conversation}
    assert kinds == {"message", "function_call", "function_call_output"}, "tools are part of it"
    return rows


async def test_three_servers_give_the_rows_of_one_process(in_process: list[Any], tmp_path: Path) -> None:
    async with split_servers(resolve([ARITHMETIC], FLAGS)) as spec:
        assert all(entry.agent_urls for entry in spec.entries)
        assert await rows_of(spec, tmp_path / "split") == in_process


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
async def test_every_environment_gives_the_same_rows_split(folder: Path, tmp_path: Path) -> None:
    spec = resolve([str(folder)], replace(FLAGS, limit=3, rollouts_per_task=1, max_output_tokens=64))
    here = await rows_of(spec, tmp_path / "here")
    async with split_servers(spec) as split:
        assert await rows_of(split, tmp_path / "split") == here


async def test_sessions_served_and_the_agent_in_process(in_process: list[Any], tmp_path: Path) -> None:
    with serving("resources", ARITHMETIC, "--processes", "2") as url:
        spec = resolve([ARITHMETIC], replace(FLAGS, resources_urls=(url,)))
        assert await rows_of(spec, tmp_path / "mixed") == in_process


async def test_the_agent_served_with_the_environment_in_its_process(in_process: list[Any], tmp_path: Path) -> None:
    with serving("agent", ARITHMETIC, "--engine", "simulated") as url:
        spec = resolve([ARITHMETIC], replace(FLAGS, agent_urls=(url,)))
        assert await rows_of(spec, tmp_path / "mixed") == in_process


async def test_images_that_tools_show_are_the_same_wherever_they_run(tmp_path: Path) -> None:
    visual = str(ROOT / "environments" / "visual")

    def say(request: dict[str, Any]) -> Any:
        seen = any(item.get("type") == "function_call_output" for item in request["input"])
        rooms = re.findall(r"these rooms: (\w+)", json.dumps(request["input"]))
        return {"name": "look", "arguments": {"room": rooms[0]}, "call_id": "c"} if rooms and not seen else "100"

    async def shown(output: str, **flags: Any) -> list[Any]:
        spec = replace(resolve([visual], RunFlags(rollouts_per_task=1, **flags)), output=str(tmp_path / output))
        await LocalRun(spec, clients={"policy": ScriptedModel(say)}).run()
        rows = sorted((await read_results(tmp_path / output)).rows, key=lambda row: row["kubegym"]["task_index"])
        return [(row["responses_create_params"]["input"], row["response"]["output"][1:-1]) for row in rows]

    here = await shown("here")
    assert all(said[0]["content"][1]["image_url"].startswith("data:") for said, _ in here[::2])
    assert [output[0]["output"][1]["type"] for _, output in here[1::2]] == ["input_image"] * 4
    with serving("resources", visual, "--processes", "2") as url:
        assert await shown("there", resources_urls=(url,)) == here


BROUGHT = """
from kubegym import Environment, Verdict, tool

class Brought(Environment):
    def seed(self):
        schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
        self.offered_tools = [{"type": "function", "name": self.row["name"], "parameters": schema}]

    @tool
    def rest(self) -> str:
        return "of the class, and not offered here"

    @tool(catch_all=True)
    def act(self, name, arguments):
        return f"{name} of {self.row['name']}"

    def verify(self, rollout):
        return Verdict(1.0)
"""


async def test_tools_that_the_seed_brings_are_offered_wherever_it_runs(tmp_path: Path) -> None:
    folder = tmp_path / "brought"
    (folder / "data").mkdir(parents=True)
    (folder / "app.py").write_text(BROUGHT)
    rows = [{"responses_create_params": {"input": "?"}, "name": name} for name in ("hop", "skip")]
    (folder / "data" / "example.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def say(request: dict[str, Any]) -> Any:
        (offered,) = request["tools"]
        called = request["input"][-1].get("type") == "function_call_output"
        return "." if called else {"name": offered["name"], "arguments": {}, "call_id": "c"}

    async def outputs(output: str, **flags: Any) -> list[str]:
        spec = replace(resolve([str(folder)], RunFlags(**flags)), output=str(tmp_path / output))
        await LocalRun(spec, clients={"policy": ScriptedModel(say)}).run()
        rows = (await read_results(tmp_path / output)).rows
        assert all(row["responses_create_params"]["tools"][0]["name"] == row["name"] for row in rows)
        return sorted(row["response"]["output"][1]["output"] for row in rows)

    assert await outputs("here") == ["hop of hop", "skip of skip"]
    with serving("resources", str(folder)) as url:
        assert await outputs("there", resources_urls=(url,)) == ["hop of hop", "skip of skip"]


DICE = """
from kubegym import Environment, Verdict

class Dice(Environment):
    def verify(self, rollout):
        return Verdict(self.rng.random(), fields={"task": self.task_rng.random()})
"""


async def test_random_numbers_follow_from_the_task_wherever_it_runs(tmp_path: Path) -> None:
    folder = tmp_path / "dice"
    (folder / "data").mkdir(parents=True)
    (folder / "app.py").write_text(DICE)
    rows = [{"responses_create_params": {"input": f"Roll {n}"}, "agent_ref": {"name": "mine"}} for n in range(4)]
    (folder / "data" / "example.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    flags = RunFlags(engine="simulated", rollouts_per_task=3, temperature=0.5)

    async def rolled(spec: RunSpec, output: str) -> list[tuple[float, float]]:
        await LocalRun(replace(spec, output=str(tmp_path / output))).run()
        return [(row["reward"], row["task"]) for row in (await read_results(tmp_path / output)).rows]

    here = await rolled(resolve([str(folder)], flags), "here")
    assert len(set(here)) == 12
    assert len({task for _, task in here}) == 4
    with serving("resources", str(folder)) as url:
        assert await rolled(resolve([str(folder)], replace(flags, resources_urls=(url,))), "sessions") == here
    async with split_servers(resolve([str(folder)], flags)) as spec:
        assert await rolled(spec, "split") == here


async def test_servers_that_cannot_start_say_so(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import sys\nsys.exit('not today')\n")
    entry = resolve([ARITHMETIC], FLAGS).entries[0]
    spec = RunSpec("broken", (replace(entry, environment=str(tmp_path)),))
    with pytest.raises(RunFailed, match="resources server ended"):
        async with split_servers(spec):
            raise AssertionError("it started")


async def test_a_model_that_is_only_had_in_process_is_refused() -> None:
    entry = resolve([ARITHMETIC], FLAGS).entries[0]
    policy = replace(entry.models["policy"], options={"latency": 1.0})
    with pytest.raises(InvalidSpec, match="in process"):
        async with split_servers(RunSpec("run", (replace(entry, models={"policy": policy}),))):
            raise AssertionError("it started")


async def test_the_servers_end_with_the_run() -> None:
    before = children_of(os.getpid())
    started: set[int] = set()

    @contextlib.asynccontextmanager
    async def running() -> AsyncIterator[None]:
        async with split_servers(resolve([ARITHMETIC], FLAGS)):
            started.update(children_of(os.getpid()) - before)
            yield

    async with running():
        assert len(started) >= 3
    await asyncio.sleep(0)
    assert not started & children_of(os.getpid())


def children_of(pid: int) -> set[int]:
    """Process ids of the children that serve."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == pid and b"serve" in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
    return found
