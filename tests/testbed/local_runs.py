"""Whole runs on one machine with something wrong in them, and what must come of it (DESIGN 3.2).

The rows are numbered from 0. The trouble is met by the rollout of row ``BAD`` alone, unless a test says otherwise.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from kubegym import Environment, Rollout, Row, Verdict
from kubegym.core.protocols import ModelClient
from kubegym.core.retry import Backoff
from kubegym.local.episodes import of_class
from kubegym.local.localrun import Display, LocalRun, RunResult
from kubegym.local.python import as_client
from kubegym.local.runspec import DatasetRef, Entry, ModelRef, RunSpec
from kubegym.local.tasks import GIVEN
from kubegym.model.engine_client import EngineClient
from kubegym.resources import SessionLimits
from kubegym.storage import open_store
from testbed.runs import assert_exactly_once

BAD = 2
TASKS = 5
QUICK = Backoff(base=0.01)
"""Tries of a model client that cost no time."""

Answer = Callable[[dict[str, Any]], str | dict[str, Any]]
Chat = Callable[[dict[str, Any]], dict[str, Any] | Awaitable[dict[str, Any]]]


class Fine(Environment):
    """Nothing is wrong with it."""

    class Task(Row):
        n: int

    @property
    def bad(self) -> bool:
        return bool(self.row["n"] == BAD)

    def verify(self, rollout: Rollout) -> Verdict:
        return Verdict(1.0)


def numbered(count: int = TASKS) -> list[dict[str, Any]]:
    return [{"responses_create_params": {"input": f"Say {n}."}, "n": n} for n in range(count)]


def number_asked(request: Mapping[str, Any]) -> int:
    """Which row a chat request comes from."""
    said = next(message["content"] for message in request["messages"] if message["role"] == "user")
    found = re.search(r"Say (\d+)\.", said)
    assert found is not None, said
    return int(found[1])


def completion(content: str | None = "fine", **message: Any) -> dict[str, Any]:
    """A chat completion as a sound endpoint gives it."""
    calls = message.get("tool_calls")
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, **message},
                "finish_reason": "tool_calls" if calls else "stop",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def tool_call(name: str, arguments: str) -> dict[str, Any]:
    """The part of an assistant message that calls a tool."""
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"content": None, "tool_calls": [call]}


def last_role(request: Mapping[str, Any]) -> str:
    return str(request["messages"][-1]["role"])


class ChatEngine:
    """An engine in this process that does what a function says: answers, waits, raises."""

    def __init__(self, chat: Chat) -> None:
        self.name = "m"
        self._chat = chat

    async def chat(self, body: dict[str, Any], timeout: float) -> dict[str, Any]:
        answer = self._chat(body)
        return await answer if inspect.isawaitable(answer) else answer

    def close(self) -> None:
        return None


def engine_client(chat: Chat, **options: Any) -> ModelClient:
    return EngineClient(ChatEngine(chat), **{"faults": QUICK, **options})


def says_fine(request: dict[str, Any]) -> str:
    return "fine"


def never(request: dict[str, Any]) -> str:
    raise AssertionError("a model was asked that has nothing to say any more")


@dataclass
class Ended:
    """A run that settled everything.

    Attributes:
        result: how it ended.
        rows: its rows by the input's number.
    """

    result: RunResult
    rows: dict[int, dict[str, Any]] = field(repr=False)


def spec_of(
    output: str | Path,
    model: str = "m",
    *,
    tasks: int | None = None,
    config: dict[str, Any] | None = None,
    **of_run: Any,
) -> RunSpec:
    """A run of the entry ``made``; its environment and rows are given in Python."""
    of_entry = {name: of_run.pop(name) for name in Entry.__dataclass_fields__ if name in of_run}
    entry = Entry(
        name="made",
        environment="made",
        models={"policy": ModelRef("endpoint", model)},
        dataset=DatasetRef(GIVEN, limit=tasks),
        config=config or {},
        **of_entry,
    )
    return RunSpec("made", (entry,), output=str(output), **{"max_attempts": 2, "max_failed_fraction": 1.0, **of_run})


async def start(
    output: str | Path,
    environment: type[Environment] = Fine,
    model: ModelClient | Answer = says_fine,
    *,
    rows: list[dict[str, Any]] | None = None,
    limits: SessionLimits | None = None,
    display: Display | None = None,
    retry: list[str] | None = None,
    **options: Any,
) -> RunResult:
    """Run it; ``options`` are of the entry or the run."""
    client = as_client(model)
    run = LocalRun(
        spec_of(output, client.model, **options),
        classes={"made": of_class(environment)},
        clients={"policy": client},
        rows={"made": numbered() if rows is None else rows},
        limits=limits,
        display=display,
        retry=retry,
    )
    return await run.run()


async def settle_all(output: str | Path, *args: Any, **options: Any) -> Ended:
    """Run it to its end: every rollout has one result, in the record and in the merged files."""
    result = await start(output, *args, **options)
    assert result.manifest.complete
    return Ended(result, await settled(output))


async def settled(output: str | Path) -> dict[int, dict[str, Any]]:
    """The rows of a finished run, each exactly once, by the input's number."""
    store = open_store(output)
    try:
        rows = await assert_exactly_once(store)
        merged = []
        for name in ("rollouts.jsonl", "rollouts_failures.jsonl"):
            stored = await store.get(name)
            assert stored is not None, f"{name} was not written"
            merged += [orjson.loads(line) for line in stored.data.splitlines()]
    finally:
        await store.close()
    assert sorted(row["kubegym"]["rollout_id"] for row in merged) == sorted(
        row["kubegym"]["rollout_id"] for row in rows
    )
    return {row["n"]: row for row in rows}


def assert_fails_alone(
    ended: Ended, stage: str, reason: str, *, retryable: bool = False, message: str = "", number: int = BAD
) -> dict[str, Any]:
    """One rollout failed like this, without a reward; all the others are scored. Its row.

    What is retryable was tried twice, as the run allows; the rest once.
    """
    row = ended.rows[number]
    ours = row["kubegym"]
    assert (ours["outcome"], row["reward"]) == ("failed", None)
    failure = ours["failure"]
    assert (failure["stage"], failure["reason"], failure["retryable"]) == (stage, reason, retryable), failure
    assert message in failure["message"]
    assert failure["attempt"] == ours["attempt"] == (1 if retryable else 0)
    assert ended.result.manifest.totals.failures == {reason: 1}
    assert_scored(ended, *(set(ended.rows) - {number}))
    return row


def assert_scored(ended: Ended, *numbers: int) -> None:
    for number in numbers:
        row = ended.rows[number]
        assert (row["kubegym"]["outcome"], row["kubegym"]["failure"], row["reward"]) == ("scored", None, 1.0), row


def assert_nothing_written(output: Path) -> None:
    """A run that must not start leaves no file."""
    assert [path for path in output.rglob("*") if path.is_file()] == []


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``kubegym`` to its end, which is never a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "kubegym.cli.main", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done
