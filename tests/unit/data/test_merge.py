import gc
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from kubegym.core.errors import KubeGymError
from kubegym.core.outcomes import Failure
from kubegym.core.protocols import Assignment, Attempt, EnvironmentInfo
from kubegym.core.rows import build_row, encode_row
from kubegym.data.aggregate import MetricHooks
from kubegym.data.merge import merge
from kubegym.storage.memory import MemoryStore

RUN = "0123456789abcdef0123456789abcdef"
INPUT = {"responses_create_params": {"input": "hi"}, "level": "easy"}
USAGE = {"policy": {"calls": 1, "input_tokens": 10, "output_tokens": 3}}


def line(task: int, rollout: int, attempt: Attempt, environment: str = "math") -> bytes:
    info = EnvironmentInfo(environment, "1", "v", "1", f"{environment}_agent", "m")
    assignment = Assignment(environment, INPUT, "t", task, rollout, f"x-{task}-{rollout}")
    return encode_row(build_row(assignment, attempt, info, RUN))


def scored(reward: float) -> Attempt:
    return Attempt("scored", reward, params={"input": "hi", "temperature": 1.0}, usage=USAGE)


def failed(stage: Any, reason: str, retryable: bool) -> Attempt:
    return Attempt("failed", failure=Failure(stage, reason, "why", retryable, 0), usage=USAGE)


async def stream(groups: Sequence[Sequence[bytes]]) -> AsyncIterator[Sequence[bytes]]:
    for group in groups:
        yield group


def rows(store: MemoryStore, key: str) -> list[dict[str, Any]]:
    return [orjson.loads(row) for row in store.objects[key].splitlines()]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore("memory://out", {})


async def test_scored_rows_are_copied_and_the_others_marked(store: MemoryStore, tmp_path: Path) -> None:
    groups = [
        [line(0, 0, scored(1.0)), line(0, 1, failed("judge", "JudgeUnreachable", True))],
        [],
        [line(1, 0, failed("tool", "ToolCrashed", False)), line(1, 1, Attempt("unscored")).rstrip()],
        [line(2, 0, scored(0.5)).rstrip()],
    ]
    summary = await merge(stream(groups), store, scratch=tmp_path)
    assert store.objects["rollouts.jsonl"] == groups[0][0] + groups[3][0] + b"\n"
    failures = rows(store, "rollouts_failures.jsonl")
    assert [
        (row["_ng_task_index"], row["_ng_rollout_index"], row["_ng_failure_class"], row.get("_ng_failure_terminal"))
        for row in failures
    ] == [(0, 1, "judge_failed", None), (1, 0, "tool_error", True), (1, 1, "unscored", True)]
    assert all(row["reward"] is None for row in failures)
    original = orjson.loads(groups[0][1])
    assert {name: value for name, value in failures[0].items() if name != "_ng_failure_class"} == original
    assert summary.files == ["rollouts.jsonl", "rollouts_failures.jsonl", "rollouts_aggregate_metrics.json"]
    (agent,) = orjson.loads(store.objects["rollouts_aggregate_metrics.json"])
    assert agent["agent_ref"] == {"type": "responses_api_agents", "name": "math_agent"}
    assert agent["kubegym"]["failed"] == {"JudgeUnreachable": 1, "ToolCrashed": 1}


async def test_the_result_table(store: MemoryStore, tmp_path: Path) -> None:
    groups = [
        [line(0, 0, scored(1.0)), line(0, 1, scored(0.0))],
        [line(1, 0, scored(0.0)), line(1, 1, failed("model", "ModelUnreachable", True))],
        [line(2, 0, Attempt("unscored"), "essay")],
    ]
    summary = await merge(stream(groups), store, scratch=tmp_path)
    math, essay = summary.environments
    assert (math.environment, math.tasks, math.rollouts, math.scored, math.unscored) == ("math", 2, 4, 3, 0)
    assert math.failed == {"ModelUnreachable": 1}
    assert math.mean_reward == pytest.approx(1 / 3)
    assert (math.pass_at_1, math.k, math.pass_at_k, math.coverage) == (25.0, 2, 100.0, 0.5)
    assert (math.input_tokens, math.output_tokens) == (40, 12)
    assert (essay.mean_reward, essay.pass_at_1, essay.k, essay.pass_at_k, essay.coverage) == (None, None, 0, None, 0.0)
    assert orjson.loads(orjson.dumps(summary.to_dict()))["environments"][1]["unscored"] == 1


async def test_marks_of_others_stay(store: MemoryStore, tmp_path: Path) -> None:
    marked = Attempt("failed", fields={"_ng_failure_class": "remote_agent_error", "_ng_failure_terminal": False})
    marked.failure = Failure("agent", "RemoteAgentError", "why", False, 0)
    await merge(stream([[line(0, 0, marked)]]), store, scratch=tmp_path)
    assert store.objects["rollouts_failures.jsonl"] == line(0, 0, marked)


async def test_materialized_inputs_on_request(store: MemoryStore, tmp_path: Path) -> None:
    asked = []

    async def inputs(task: int) -> dict[str, Any]:
        asked.append(task)
        return INPUT

    groups = [[line(4, 0, scored(1.0)), line(4, 1, failed("model", "ModelUnreachable", True))]]
    summary = await merge(stream(groups), store, scratch=tmp_path, stem="eval", inputs=inputs)
    assert asked == [4], "once a task"
    assert "eval_materialized_inputs.jsonl" in summary.files
    assert rows(store, "eval_materialized_inputs.jsonl")[0] == {
        "responses_create_params": {"input": "hi", "temperature": 1.0},
        "level": "easy",
        "_ng_task_index": 4,
        "_ng_rollout_index": 0,
        "agent_ref": {"type": "responses_api_agents", "name": "math_agent"},
    }
    assert len(rows(store, "eval_materialized_inputs.jsonl")) == 2


async def test_hooks_go_by_environment_and_their_trouble_is_told(store: MemoryStore, tmp_path: Path) -> None:
    hooks = {"math": MetricHooks(lambda tasks: {"mine": len(tasks)}), "essay": MetricHooks(lambda tasks: 1 / 0)}
    groups = [[line(0, 0, scored(1.0))], [line(1, 0, scored(1.0), "essay")]]
    summary = await merge(stream(groups), store, scratch=tmp_path, hooks=hooks)
    assert orjson.loads(store.objects["rollouts_aggregate_metrics.json"])[0]["agent_metrics"]["mine"] == 1
    assert summary.metric_errors == {"essay_agent": "metric hooks: ZeroDivisionError: division by zero"}


async def test_a_merge_that_fails_leaves_nothing(store: MemoryStore, tmp_path: Path) -> None:
    with pytest.raises(KubeGymError, match="not JSON") as caught:
        await merge(stream([[line(0, 0, scored(1.0))], [b'{"half']]), store, scratch=tmp_path)
    assert caught.value.reason == "RowCorrupt"
    assert store.objects == {}


async def test_an_empty_run_has_empty_files(store: MemoryStore, tmp_path: Path) -> None:
    store.objects["rollouts.jsonl"] = b"of an older run\n"
    assert (await merge(stream([]), store, scratch=tmp_path)).environments == []
    assert store.objects["rollouts.jsonl"] == b""
    assert orjson.loads(store.objects["rollouts_aggregate_metrics.json"]) == []


async def test_large_files_are_written_in_pieces(store: MemoryStore, tmp_path: Path) -> None:
    long = line(0, 0, scored(1.0)).replace(b'"easy"', b'"' + b"x" * 200_000 + b'"')
    await merge(stream([[long]] * 12), store, scratch=tmp_path)
    assert store.objects["rollouts.jsonl"] == long * 12


class Nowhere(MemoryStore):
    """Takes files and keeps none."""

    async def put(self, key: str, data: bytes) -> str:
        return ""

    @asynccontextmanager
    async def writer(self, key: str) -> AsyncIterator[Any]:
        class Writer:
            async def write(self, data: bytes) -> None:
                pass

        yield Writer()


async def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    seen = []

    async def groups() -> AsyncIterator[list[bytes]]:
        for task in range(9001):
            if task in (4000, 9000):
                gc.collect()
                seen.append(tracemalloc.get_traced_memory()[0])
            yield [line(task, 0, Attempt("scored", task / 7, fields={"size": task}))]

    tracemalloc.start()
    try:
        await merge(groups(), Nowhere("memory://nowhere", {}), scratch=tmp_path)
    finally:
        tracemalloc.stop()
    buffers = 3 << 20  # one per file, of up to a MiB
    assert seen[1] - seen[0] < buffers, "5,000 more rows, 5 MB"


async def test_what_was_cut_short_is_counted_by_its_reason(store: MemoryStore, tmp_path: Path) -> None:
    attempts = [scored(1.0), scored(0.0), scored(0.0), Attempt("unscored"), failed("model", "ModelTimeout", True)]
    stops: list[Any] = ["completed", "context_window", "max_steps", "context_window", None]
    for attempt, stop in zip(attempts, stops, strict=True):
        attempt.stop_reason = stop
    group = [line(0, number, attempt) for number, attempt in enumerate(attempts)]
    summary = await merge(stream([group]), store, scratch=tmp_path)
    assert summary.environments[0].truncated == {"context_window": 2, "max_steps": 1}
