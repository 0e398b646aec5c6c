"""Agents that are programs and know a base URL: the same rows however the run is composed, and honest ends."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from kubegym.agent.attempt import AgentSettings
from kubegym.agent.program import Program, run_program
from kubegym.core.errors import InvalidSpec
from kubegym.core.ids import rollout_id, task_id
from kubegym.core.protocols import Assignment, CallContext, SeenCalls
from kubegym.local.episodes import build_episodes
from kubegym.local.localrun import LocalRun
from kubegym.local.resolve import RunFlags, resolve
from kubegym.local.results import read_results
from kubegym.local.split import split_servers
from kubegym.resources import EnvironmentRuntime, load_environment
from testbed.comparable import rows_of
from testbed.program_environment import AGENT, program_environment
from testbed.raw_server import Peer, raw_server
from testbed.runs import until

pytestmark = pytest.mark.contract

FLAGS = RunFlags(engine="simulated", temperature=0.0, rollouts_per_task=2, concurrency=4, tokens="Samples")


@pytest.mark.parametrize("dialect", ["chat", "responses", "messages"])
async def test_three_dialects_in_process_split_and_by_the_command_line(dialect: str, tmp_path: Path) -> None:
    folder = program_environment(tmp_path / "asked", AGENT, dialect)
    here = await rows_of(resolve([folder], FLAGS), tmp_path / "here")
    assert [row[0] for row in here] == [1.0] * 6
    for _, _, conversation, _, stated, samples in here:
        assert [kind for kind, *_ in conversation] == ["message"] * 3, "said, asked again, said"
        assert "Are you sure?" in conversation[1][-1]
        assert stated["stop_reason"] == "completed"
        assert len(samples) == 1, "the second call continues the first"
    async with split_servers(resolve([folder], FLAGS)) as spec:
        assert await rows_of(spec, tmp_path / "split") == here
    command = [sys.executable, "-m", "kubegym.cli.main", "run", folder, "--engine", "simulated", "--temperature", "0"]
    command += ["--rollouts-per-task", "2", "--tokens", "samples", "--output", str(tmp_path / "cli"), "--json", "-q"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rollouts"]["scored"] == 6
    results = await read_results(tmp_path / "cli")
    said = [[str(item.get("content")) for item in row["response"]["output"]] for row in results.rows]
    assert said == [[content for *_, content in conversation] for _, _, conversation, *_ in here]
    for row in results.rows:
        assert row["kubegym"]["usage"]["policy"]["calls"] == len(row["kubegym"]["turns"]) == 2


async def test_the_runs_sampling_and_seeds_win_over_the_programs(tmp_path: Path) -> None:
    seen: list[Any] = []
    folder = program_environment(tmp_path / "asked", AGENT, "chat", tasks=1)
    async with raw_server(lambda peer: _engine(peer, seen)) as url:
        flags = RunFlags(base_url=f"{url}/v1", model="m", temperature=0.5, max_output_tokens=9, seed=3)
        await LocalRun(replace(resolve([folder], flags), output=str(tmp_path / "run"))).run()
    chats = [body for body in seen if "messages" in body]
    assert [(body["temperature"], body["max_tokens"]) for body in chats] == [(0.5, 9)] * 2
    assert len({body["seed"] for body in chats}) == 2


async def _engine(peer: Peer, seen: list[Any]) -> None:
    while True:
        head, body = await peer.request()
        if head.startswith(b"GET"):
            peer.ok(orjson.dumps({"object": "list", "data": [{"id": "m"}]}))
            continue
        seen.append(orjson.loads(body))
        message = {"role": "assistant", "content": "four"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        peer.ok(orjson.dumps({"object": "chat.completion", "model": "m", "choices": [choice]}))


async def ended(folder: str, output: Path, **flags: Any) -> dict[str, Any]:
    """The one row of a run."""
    spec = resolve([folder], replace(RunFlags(engine="simulated"), **flags))
    await LocalRun(replace(spec, output=str(output), max_attempts=1, max_failed_fraction=1.0)).run()
    (row,) = (await read_results(output)).rows
    return row


@pytest.mark.parametrize(
    ("agent", "reason", "words"),
    [
        ("import sys; sys.exit('no idea')", "ProgramFailed", "ended with 1: no idea"),
        ("print('done')", "NoModelCall", "asked the model nothing: done"),
        ("import os; print(sorted(os.environ)); raise SystemExit(2)", "ProgramFailed", "OPENAI_BASE_URL"),
    ],
)
async def test_how_a_program_fails(
    agent: str, reason: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    row = await ended(program_environment(tmp_path / "asked", agent, tasks=1), tmp_path / "run")
    failure = row["kubegym"]["failure"]
    assert (failure["stage"], failure["reason"], failure["retryable"]) == ("agent", reason, False)
    assert words in failure["message"]
    assert "AWS" not in failure["message"]
    assert row["reward"] is None


async def test_a_bound_of_calls_is_a_stop_reason(tmp_path: Path) -> None:
    row = await ended(program_environment(tmp_path / "asked", AGENT, "chat", tasks=1, maxSteps=1), tmp_path / "run")
    assert (row["kubegym"]["outcome"], row["kubegym"]["stop_reason"]) == ("scored", "max_steps")
    assert len(row["kubegym"]["turns"]) == 1


async def test_a_model_in_trouble_is_the_attempts_failure_whatever_the_program_makes_of_it(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        while True:
            head, _ = await peer.request()
            if head.startswith(b"GET"):
                peer.ok(orjson.dumps({"object": "list", "data": [{"id": "m"}]}))
            else:
                peer.say(b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno")

    brave = AGENT.replace("ask(task)", "try:\n    ask(task)\nexcept Exception:\n    sys.exit(0)")
    folder = program_environment(tmp_path / "asked", brave, "chat", tasks=1)
    async with raw_server(script) as url:
        row = await ended(folder, tmp_path / "run", engine=None, base_url=f"{url}/v1", model="m")
    failure = row["kubegym"]["failure"]
    assert (failure["stage"], failure["reason"], failure["retryable"]) == ("model", "ModelUnavailable", True)
    assert row["reward"] is None


class NoModel:
    """Base URLs behind which nobody is; keeps the context of the rollout that it was asked for."""

    model = "m"
    context: CallContext

    def open(self, context: CallContext, **_: Any) -> str:
        self.context = context
        return "http://127.0.0.1:9"

    def shut(self, rollout_id: str) -> SeenCalls:
        return SeenCalls([], None, False)


async def test_at_the_deadline_it_is_killed_with_what_it_started(tmp_path: Path) -> None:
    """The deadline comes when the program has started what it starts, however long that takes."""
    agent = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open(os.environ['PROBE'], 'w').write(f'{child.pid} {os.getcwd()}\\n')\n"
        "child.wait()\n"
    )
    folder = program_environment(tmp_path / "asked", agent, tasks=1)
    (entry,) = resolve([folder], RunFlags(engine="simulated")).entries
    program = Program.parse(entry.harness_config, "asked", Path(folder))
    row = {"responses_create_params": {"input": "Say 0"}}
    assignment = Assignment("asked", row, task_id("asked", row), 0, 0, rollout_id("1" * 8, 0, 0))
    runtime = EnvironmentRuntime(load_environment(folder).cls)
    await runtime.start()
    urls, probe = NoModel(), Path(folder) / "probe"
    settings = AgentSettings(deadline_seconds=600.0)
    attempting = asyncio.ensure_future(run_program(assignment, runtime.session(assignment), program, urls, settings))
    async with asyncio.timeout(300):
        await until(lambda: attempting.done() or (probe.exists() and "\n" in probe.read_text()))
        urls.context.deadline.take_back(600.0)
        attempt = await attempting
    await runtime.close()
    assert attempt.failure is not None
    assert (attempt.failure.reason, attempt.stop_reason) == ("DeadlineExceeded", "deadline")
    assert_gone(probe)


def assert_gone(probe: Path) -> None:
    """The child is killed, and reaped by whoever comes after its parent at most; the folder is away."""
    pid, place = probe.read_text().split()
    assert not Path(place).exists()
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize(
    "config", [{}, {"command": "ls"}, {"command": []}, {"command": ["ls"], "cwd": "/"}, {"command": ["ls"], "env": [1]}]
)
def test_settings_that_cannot_be_are_refused(config: dict[str, Any], tmp_path: Path) -> None:
    folder = program_environment(tmp_path / "asked")
    spec = resolve([folder], RunFlags(engine="simulated"))
    entry = replace(spec.entries[0], harness_config=config)
    with pytest.raises(InvalidSpec, match=r"agent\.config"):
        build_episodes(replace(spec, entries=(entry,)))
