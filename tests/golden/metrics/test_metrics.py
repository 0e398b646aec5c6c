"""The aggregate metrics of a small run, computed by hand where it matters (contract 2.4)."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from kubegym.data.aggregate import Aggregator, MetricHooks, metrics_json


def row(task: int, rollout: int, reward: float | None, answer: str | None = None, **more: Any) -> dict[str, Any]:
    ours: dict[str, Any] = {"outcome": "scored" if reward is not None else "unscored", "failure": None}
    if more.pop("failed", False):
        ours = {"outcome": "failed", "failure": {"reason": "ModelUnreachable"}}
    return {
        "_ng_task_index": task,
        "_ng_rollout_index": rollout,
        "reward": reward,
        "answer": answer,
        "expected_answer": 42,
        "right_format": reward == 1.0,
        "response": {
            "usage": {
                "input_tokens": 10 + task,
                "input_tokens_details": {"cached_tokens": 5},
                "output_tokens": 2 * rollout,
                "total_tokens": 10 + task + 2 * rollout,
            }
        },
        "kubegym": ours,
        **more,
    }


async def test_the_file_of_a_small_run(tmp_path: Path, golden: Any) -> None:
    aggregator = Aggregator(tmp_path)
    hooks = MetricHooks(answer_key="answer")
    aggregator.add_task(
        "math_agent", 0, [row(0, 0, 1.0, "a"), row(0, 1, 0.0, "b"), row(0, 2, 0.0, "b"), row(0, 3, 1.0, "a")], hooks
    )
    aggregator.add_task(
        "math_agent", 1, [row(1, 0, 0.0), row(1, 1, None), row(1, 2, None, failed=True), row(1, 3, 1.0, "a")], hooks
    )
    aggregator.add_task("math_agent", 2, [row(2, 0, None, failed=True)], hooks)
    aggregator.add_task("essay_agent", 3, [row(3, 0, 0.25), row(3, 1, 0.75)])
    agents = await aggregator.finish()
    parsed = orjson.loads(b"".join(metrics_json(agents)))
    aggregator.close()

    math, essay = parsed
    assert math["kubegym"]["failed"] == {"ModelUnreachable": 2}
    metrics = math["agent_metrics"]
    assert metrics["mean/reward"] == 0.5
    assert metrics["std/reward"] == pytest.approx(0.5477225575051661)
    # Task 0: 2 of 4 wrong, 1 - C(2,2)/C(4,2) = 5/6; task 1 has 2 scored, 1 wrong: 1.
    assert metrics["pass@2/accuracy"] == pytest.approx(100 * (5 / 6 + 1) / 2)
    assert metrics["pass@3/accuracy"] == 100.0
    assert math["kubegym"]["coverage"]["pass@2"] == pytest.approx(2 / 3)
    assert math["kubegym"]["coverage"]["pass@3"] == pytest.approx(1 / 3)
    # Task 0: a tie of a and b after two; task 1: no answer, then a.
    assert metrics["majority@2/accuracy"] == pytest.approx(100 * (0.5 + 1) / 2)
    assert essay["agent_metrics"]["pass@2/accuracy"] == 75.0
    golden.check("rollouts_aggregate_metrics.json", orjson.dumps(parsed, option=orjson.OPT_INDENT_2))
