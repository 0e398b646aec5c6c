"""``kubegym.run``: classes, functions and rows from Python, with and without a running event loop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import kubegym
from kubegym import Environment, Row, Verdict
from kubegym.core.errors import InvalidRows, InvalidSpec, PlanConflict
from kubegym.core.messages import Done, Message, Turn
from kubegym.core.protocols import CallContext, ModelReply
from kubegym.core.trajectory import Rollout
from kubegym.local.episodes import load as load_class
from kubegym.local.episodes import of_class
from kubegym.local.localrun import LocalRun
from kubegym.local.resolve import RunFlags
from kubegym.local.runspec import DatasetRef, Entry, ModelRef, RunSpec
from kubegym.testing import scripted_response
from testbed.echo import rows, write_rows

pytestmark = pytest.mark.unit


class Echo(Environment):
    """The answer has to be the row's word."""

    class Config(kubegym.Model):
        bonus: float = 0.0

    class Task(Row):
        word: str

    def verify(self, rollout: Rollout) -> Verdict:
        return Verdict(reward=float(rollout.final_text == self.task.word) + self.config.bonus)


class Outer:
    class Inner(Echo):
        """A class within a class."""


def right(request: dict[str, Any]) -> str:
    return str(request["messages"][-1]["content"]).removeprefix("say ")


def never(request: dict[str, Any]) -> str:
    raise AssertionError("a finished run asked its model")


def test_a_class_a_function_and_rows(home: Path) -> None:
    results = kubegym.run(Echo, model=right, dataset=rows(4), rollouts_per_task=2, config={"bonus": 0.5})
    assert results.complete
    assert [row["reward"] for row in results.rows] == [1.5] * 8
    assert results.rows[0]["kubegym"]["policy"]["model"] == "right"
    assert results.output.startswith("runs/echo/")
    again = kubegym.run(Echo, model=right, dataset=rows(4), rollouts_per_task=2, config={"bonus": 0.5})
    assert again.lines == results.lines


async def test_inside_a_running_loop(home: Path) -> None:
    results = kubegym.run(Echo, model=right, dataset=rows(2), output="out")
    assert len(results) == 2
    assert await asyncio.sleep(0, "the loop goes on") == "the loop goes on"
    assert len(kubegym.load("out")) == 2


def test_n_takes_the_first_rows_and_may_grow(home: Path) -> None:
    first = kubegym.run(Echo, model=right, dataset=rows(6), n=2, output="out")
    grown = kubegym.run(Echo, model=right, dataset=rows(6), n=5, output=home / "out")
    assert [row["word"] for row in grown.rows] == [f"word{n}" for n in range(5)]
    assert grown.lines[:2] == first.lines
    with pytest.raises(PlanConflict, match="shrink"):
        kubegym.run(Echo, model=right, dataset=rows(6), n=2, output="out")


def test_a_folder_with_rows_a_file_or_its_sample(echo: Path, home: Path) -> None:
    given = kubegym.run("echo", model=right, dataset=rows(4), output="a")
    assert [row["reward"] for row in given.rows] == [2.0] * 4, "the sample job's limit and rollouts do not count"
    file = kubegym.run(echo, model=right, dataset=write_rows(home / "rows.jsonl", 3), output="b")
    assert len(file) == 3
    sample = kubegym.run(echo, model=right, output="c")
    assert len(sample) == 3 * 2


def test_a_config_with_tuples_is_the_same_config_again(home: Path) -> None:
    class Sized(Echo):
        class Config(kubegym.Model):
            sizes: tuple[int, ...] = ()

        def verify(self, rollout: Rollout) -> Verdict:
            return Verdict(reward=float(sum(self.config.sizes)))

    for model in (right, never):
        model.__name__ = "same"
        results = kubegym.run(Sized, model=model, dataset=rows(1), config={"sizes": (1, 2)}, output="out")
    assert results.rows[0]["reward"] == 3.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "magic"}, "'embedded' or 'simulated', not 'magic'"),
        ({"model": "name"}, "--model needs --base-url"),
        ({"base_url": "http://127.0.0.1:1/v1"}, "--base-url needs --model"),
        ({"model": right, "n": 0}, "--limit must be at least 1"),
        ({"model": right, "config": {"bonsu": 1}}, r"bonsu.*did you mean .*bonus"),
        ({"model": right, "dataset": []}, "has no rows"),
    ],
)
def test_what_cannot_be_meant(home: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        kubegym.run(Echo, **{"dataset": rows(1), "output": "out", **options})
    assert not (home / "out").exists()


def test_rows_that_cannot_be_run(home: Path) -> None:
    with pytest.raises(InvalidRows, match="echo:2: word"):
        kubegym.run(Echo, model=right, dataset=[*rows(1), {"responses_create_params": {"input": "x"}}], output="out")
    with pytest.raises(InvalidRows, match="echo:1: "):
        kubegym.run(Echo, model=right, dataset=[{"x": object()}], output="out")
    assert not list((home / "out").rglob("*.json"))


def test_a_class_is_found_again_by_module_and_name_unless_it_is_local() -> None:
    class Local(Echo):
        """Of this function only."""

    def isolated(cls: type[Environment]) -> bool:
        entry = Entry(
            "e", f"{cls.__module__}:{cls.__qualname__}", {"policy": ModelRef("simulated", "s")}, DatasetRef("x")
        )
        run = LocalRun(RunSpec("e", (entry,)), classes={"e": of_class(cls)})
        return run._child() is not None

    assert load_class(f"{__name__}:Outer.Inner").cls is Outer.Inner
    assert isolated(Echo)
    assert isolated(Outer.Inner)
    assert not isolated(Local)
    with pytest.raises(InvalidSpec, match="does not import"):
        load_class("absent_module:Echo")


def test_a_run_with_models_given_in_python_is_not_isolated() -> None:
    entry = Entry("e", f"{__name__}:Echo", {"policy": ModelRef("simulated", "s")}, DatasetRef("x"))
    assert LocalRun(RunSpec("e", (entry,)))._child() is not None
    from kubegym.local.python import as_client

    assert LocalRun(RunSpec("e", (entry,)), clients={"policy": as_client(right)})._child() is None


def test_flags_default_to_nothing() -> None:
    assert RunFlags().policy() is None
    assert RunFlags().sampling() == {}


class Twice(Environment):
    """Two turns."""

    async def respond(self, turn: Turn) -> Message | Done:
        return Done() if turn.index else Message("user", "again")

    def verify(self, rollout: Rollout) -> Verdict:
        return Verdict(1.0)


class Moving:
    """A policy whose weights change between its calls."""

    model = "moving"

    def __init__(self, *versions: int) -> None:
        self.versions = list(versions)

    async def respond(self, request: dict[str, Any], context: CallContext) -> ModelReply:
        said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "so"}]}
        return ModelReply(scripted_response([said]), self.versions.pop(0))

    def leave(self, rollout_id: str) -> None:
        return None

    async def close(self) -> None:
        return None


@pytest.mark.parametrize(("lag", "stale"), [(0, [1, 3]), (1, [3]), (None, [])])
def test_rollouts_that_the_policy_left_behind_are_recorded_and_not_delivered(
    lag: int | None, stale: list[int], tmp_path: Path
) -> None:
    def run(model: Moving, lag: int | None) -> kubegym.Results:
        tasks = [{"responses_create_params": {"input": "go"}}]
        return kubegym.run(
            Twice,
            model=model,
            dataset=tasks,
            rollouts_per_task=4,
            concurrency=1,
            output=tmp_path,
            max_policy_version_lag=lag,
        )

    results = run(Moving(1, 1, 1, 2, 2, 2, 2, 4), lag)
    assert results.complete
    assert [row["_ng_rollout_index"] for row in results.rows if row["kubegym"]["stale"]] == stale
    assert results.manifest.totals.stale == len(stale)
    assert results.manifest.totals.scored == 4
    (group,) = results.groups
    assert [row["_ng_rollout_index"] for row in group.rollouts] == [n for n in range(4) if n not in stale]
    assert run(Moving(), lag).lines == results.lines
    with pytest.raises(PlanConflict, match="maxPolicyVersionLag"):
        run(Moving(), 7)
