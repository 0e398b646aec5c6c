from pathlib import Path
from typing import Any

import orjson
import pytest

from kubegym.data.aggregate import AgentMetrics, Aggregator, MetricHooks, Tasks, is_scored, metrics_json, stripped
from kubegym.data.passk import highest_k, pass_metrics


def row(reward: float | None = 1.0, **fields: Any) -> dict[str, Any]:
    return {"_ng_task_index": 0, "_ng_rollout_index": 0, "reward": reward, **fields}


@pytest.fixture
def aggregator(tmp_path: Path) -> Any:
    aggregator = Aggregator(tmp_path)
    yield aggregator
    aggregator.close()


def groups(agent: AgentMetrics) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in agent.groups()]


async def test_numbers_and_flags_have_statistics_and_nothing_else(aggregator: Aggregator) -> None:
    rows = [
        row(
            1.0,
            right=True,
            text="x",
            some=None,
            nested={"a": 1},
            response={"usage": {"input_tokens": 5, "d": {"e": 1}}},
        ),
        row(0.0, right=False, only_here=3, response=None),
    ]
    aggregator.add_task("a", 4, rows)
    (agent,) = await aggregator.finish()
    assert {name.partition("/")[2] for name in agent.metrics if name.startswith("median/")} == {
        "reward",
        "right",
        "only_here",
        "input_tokens",
    }
    assert agent.metrics["mean/right"] == 0.5
    assert agent.metrics["std/only_here"] == 0.0
    assert agent.key_metrics == {name: value for name, value in agent.metrics.items() if name.startswith("mean/")}
    (group,) = groups(agent)
    assert group["_ng_task_index"] == 4
    assert group["max/reward"] == 1.0


async def test_usage_wins_over_a_field_of_its_name(aggregator: Aggregator) -> None:
    aggregator.add_task("a", 0, [row(input_tokens=999, response={"usage": {"input_tokens": 5}})])
    (agent,) = await aggregator.finish()
    assert agent.metrics["mean/input_tokens"] == 5.0


async def test_what_has_no_reward_is_counted_and_left_out(aggregator: Aggregator) -> None:
    failed = row(None, kubegym={"outcome": "failed", "failure": {"reason": "ToolCrashed"}}, size=9)
    declined = row(None, kubegym={"outcome": "unscored", "failure": None}, size=9)
    foreign = row(0.0, _ng_failure_class="judge_failed", size=9)
    aggregator.add_task("a", 0, [row(1.0), failed, declined, foreign])
    aggregator.add_task("a", 1, [failed])
    (agent,) = await aggregator.finish()
    assert agent.metrics["mean/reward"] == 1.0
    assert "mean/size" not in agent.metrics
    assert (agent.counts.tasks, agent.counts.rollouts, agent.counts.scored, agent.counts.unscored) == (2, 5, 1, 1)
    assert agent.counts.failed == {"ToolCrashed": 2, "judge_failed": 1}
    assert agent.coverage == {"pass@1": 0.5}
    assert len(groups(agent)) == 1


def test_only_a_verifier_makes_a_reward() -> None:
    assert is_scored(row(0.0))
    assert not is_scored(row(None))
    assert not is_scored(row(0.0, _ng_failure_class="agent_error"))
    assert not is_scored(row(0.0, kubegym={"outcome": "failed", "failure": {}}))


def test_what_hooks_get() -> None:
    full = row(
        responses_create_params={"input": "x"},
        ng_trajectory={},
        answer="a",
        response={"output": [1], "usage": {"input_tokens": 1}},
    )
    assert stripped(full) == row(answer="a", response={"usage": {"input_tokens": 1}})
    assert stripped(row(response=None))["response"] == {}


async def test_hooks_see_every_task_as_often_as_they_like(aggregator: Aggregator) -> None:
    def compute(tasks: Tasks) -> dict[str, Any]:
        assert [len(rows) for rows in tasks] == [len(rows) for rows in tasks] == [2, 1]
        assert tasks[1][0]["n"] == 2
        assert [rows[0]["n"] for rows in tasks[::-1]] == [2, 0]
        return {
            "mean/reward": -1.0,
            "mine": len(tasks),
            **pass_metrics(tasks, scores=lambda row: {"mine": row["reward"]}),
            "per_task_metrics": [{"_ng_task_index": 7, "hard": True}],
        }

    async def keys(metrics: dict[str, Any]) -> dict[str, Any]:
        return highest_k(metrics, "pass@{k}", names=["mine"])

    hooks = MetricHooks(compute, keys)
    aggregator.add_task("a", 5, [row(1.0, n=0), row(0.0, n=1)], hooks)
    aggregator.add_task("a", 7, [row(1.0, n=2)], hooks)
    (agent,) = await aggregator.finish()
    assert agent.error is None
    assert agent.metrics["mean/reward"] == -1.0, "the environment's own wins"
    assert agent.metrics["mine"] == 2
    assert "per_task_metrics" not in agent.metrics
    assert agent.key_metrics == {"pass@2/mine": 100.0}
    assert [group.get("hard") for group in groups(agent)] == [None, True]
    assert [group.get("hard") for group in groups(agent)] == [None, True], "groups can be read again"


BROKEN = [
    lambda tasks: 1 / 0,
    lambda tasks: {"x": object()},
    lambda tasks: [1],
    lambda tasks: {"per_task_metrics": [{"hard": True}]},
]


@pytest.mark.parametrize("broken", BROKEN)
async def test_a_broken_hook_costs_its_own_metrics_only(aggregator: Aggregator, broken: Any, caplog: Any) -> None:
    aggregator.add_task("a", 0, [row(1.0)], MetricHooks(broken))
    (agent,) = await aggregator.finish()
    assert agent.error is not None
    assert "metric hooks of agent a failed" in caplog.text
    assert agent.metrics["mean/reward"] == 1.0
    assert agent.key_metrics["mean/reward"] == 1.0
    assert orjson.loads(b"".join(metrics_json([agent])))[0]["kubegym"]["metrics_error"] == agent.error


async def test_an_extracted_answer_is_voted_on(aggregator: Aggregator) -> None:
    aggregator.add_task("mcqa", 0, [row(1.0, extracted_answer="A"), row(0.0, extracted_answer=None)])
    aggregator.add_task("other", 1, [row(1.0)])
    mcqa, other = await aggregator.finish()
    assert mcqa.metrics["majority@2/accuracy"] == 100.0
    assert mcqa.metrics["pass@1/no_answer"] == 50.0
    assert not any("majority" in name or "no_answer" in name for name in other.metrics)


async def test_broken_scores_cost_the_pass_family_only(aggregator: Aggregator) -> None:
    hooks = MetricHooks(scores=lambda row: {"x": row["x"]})
    for task, fields in enumerate([{"x": 1}, {}, {"x": 1}]):
        aggregator.add_task("a", task, [row(1.0, **fields)], hooks)
    (agent,) = await aggregator.finish()
    assert agent.error == "scores, task 1: KeyError: 'x'"
    assert agent.metrics["mean/reward"] == 1.0
    assert not any(name.startswith("pass@") for name in agent.metrics)
    assert agent.coverage == {"pass@1": 1.0}


async def test_numpy_numbers_of_hooks_become_numbers(aggregator: Aggregator) -> None:
    numpy = pytest.importorskip("numpy")
    aggregator.add_task("a", 0, [row(1.0)], MetricHooks(lambda tasks: {"x": numpy.float64(0.5), "y": numpy.arange(2)}))
    (agent,) = await aggregator.finish()
    assert (agent.metrics["x"], agent.metrics["y"]) == (0.5, [0, 1])


async def test_the_file_is_json_also_when_it_is_empty_or_large(aggregator: Aggregator) -> None:
    assert orjson.loads(b"".join(metrics_json(await aggregator.finish()))) == []
    for task in range(3000):
        aggregator.add_task(
            "a" if task % 3 else "b", task, [row(float(task % 2), **{f"field {n}": n for n in range(9)})]
        )
    chunks = list(metrics_json(await aggregator.finish()))
    assert len(chunks) > 1
    b, a = orjson.loads(b"".join(chunks))
    assert (b["agent_ref"]["name"], len(b["group_level_metrics"]), len(a["group_level_metrics"])) == ("b", 1000, 2000)
    assert [group["_ng_task_index"] for group in b["group_level_metrics"]] == list(range(0, 3000, 3))
