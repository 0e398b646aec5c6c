import math
import statistics
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym.data.passk import PassMetrics, highest_k, pass_metrics, subset_metrics


def rows(*rewards: float, answers: list[Any] | None = None) -> list[dict[str, Any]]:
    return [{"reward": reward, "answer": None if answers is None else answers[i]} for i, reward in enumerate(rewards)]


def test_pass_at_k_is_the_unbiased_estimate() -> None:
    metrics = pass_metrics([rows(1, 0, 0, 0)])
    assert [metrics[f"pass@{k}/accuracy"] for k in (1, 2, 3, 4)] == pytest.approx([25.0, 50.0, 75.0, 100.0])
    assert pass_metrics([rows(0, 0)])["pass@2/accuracy"] == 0.0


def test_scores_between_give_the_best_of_the_first_k() -> None:
    metrics = pass_metrics([rows(0.25, 1.0, 0.5), rows(0, 0, 0)])
    assert [metrics[f"pass@{k}/accuracy"] for k in (1, 2, 3)] == [12.5, 50.0, 50.0]


def test_tasks_with_fewer_than_k_are_left_out_of_pass_at_k_only() -> None:
    collected = PassMetrics()
    for task in (rows(1, 0), rows(0), []):
        collected.add_task(task)
    metrics = collected.metrics()
    assert metrics["pass@2/accuracy"] == 100.0
    assert metrics["pass@1[avg-of-2]/accuracy"] == 25.0


def test_runs_and_their_spread() -> None:
    metrics = pass_metrics([rows(1, 0, 1), rows(1, 1, 0)])
    assert metrics["per_sample_aggregate"] == {"accuracy": [100.0, 50.0, 50.0]}
    deviation = statistics.stdev([100.0, 50.0, 50.0])
    assert metrics["pass@1[avg-of-3]/accuracy/std_dev_across_runs"] == pytest.approx(deviation)
    assert metrics["pass@1[avg-of-3]/accuracy/std_err_across_runs"] == pytest.approx(deviation / math.sqrt(3))
    assert "pass@1[avg-of-1]/accuracy/std_dev_across_runs" not in metrics


@pytest.mark.parametrize(
    ("answers", "rewards", "wanted"),
    [
        (["a", "b", "b"], [1, 0, 0], [100.0, 50.0, 0.0]),
        ([None, "a", "a"], [0, 1, 1], [0.0, 100.0, 100.0]),
        ([None, None, None], [1, 1, 1], [0.0, 0.0, 0.0]),
        ([["x"], ["x"], {"y": 1}], [1, 1, 0], [100.0, 100.0, 100.0]),
    ],
)
def test_majority(answers: list[Any], rewards: list[float], wanted: list[float]) -> None:
    metrics = pass_metrics([rows(*rewards, answers=answers)], answer_key="answer")
    assert [metrics[f"majority@{k}/accuracy"] for k in (1, 2, 3)] == wanted


def test_no_answer_is_a_score_with_an_answer_key() -> None:
    task = rows(1, 0, 0, answers=["a", None, None])
    metrics = pass_metrics([task], answer_key="answer")
    assert metrics["pass@1/no_answer"] == pytest.approx(100 * 2 / 3)
    assert metrics["pass@1[avg-of-2]/no_answer"] == 50.0
    assert metrics["majority@3/no_answer"] == 0.0
    assert not any("no_answer" in name or "majority" in name for name in pass_metrics([task]))


def test_several_scores_some_of_them_missing() -> None:
    def scores(row: Any) -> dict[str, float]:
        return {name: row[name] for name in ("a", "b") if name in row}

    metrics = pass_metrics([[{"a": 1}, {"a": 0, "b": 1}], [{"a": 0}, {"a": 0}]], scores=scores)
    assert metrics["pass@1/a"] == 25.0
    assert metrics["pass@1/b"] == 100.0
    assert "pass@2/b" not in metrics
    assert "pass@1[avg-of-1]/b" not in metrics
    assert metrics["pass@1[avg-of-2]/b"] == 100.0


def test_nothing_gives_nothing() -> None:
    assert pass_metrics([]) == {}
    assert pass_metrics([[]]) == {}


def test_subsets() -> None:
    tasks = [[{"reward": 1.0, "level": "easy"}], [{"reward": 0.0, "level": "hard"}], [{"reward": 0.0}]]
    metrics = subset_metrics(tasks, "level")
    assert metrics["easy/pass@1/accuracy"] == 100.0
    assert metrics["hard/pass@1/accuracy"] == 0.0
    assert not any("per_sample" in name for name in metrics)


def test_the_highest_k() -> None:
    metrics = pass_metrics([rows(*[1, 0] * 6, answers=["a"] * 12)], answer_key="answer")
    assert set(highest_k(metrics, "pass@{k}")) == {"pass@12/accuracy", "pass@12/no_answer"}
    assert set(highest_k(metrics, "pass@1[avg-of-{k}]", exclude=["no_answer"])) == {"pass@1[avg-of-12]/accuracy"}
    assert set(highest_k(metrics, "majority@{k}", names=["accuracy"])) == {"majority@12/accuracy"}
    assert highest_k(metrics, "other@{k}") == {}


def plainly(tasks: list[list[tuple[float, Any]]], k: int) -> dict[str, float]:
    """The formulas of contract 2.4, word by word."""
    passes, means, votes = [], [], []
    for task in tasks:
        scores = [score for score, _ in task]
        if len(scores) >= k:
            if set(scores) <= {0, 1}:
                wrong = scores.count(0)
                passes.append(1 - math.comb(wrong, k) / math.comb(len(scores), k))
            else:
                passes.append(max(scores[:k]))
        means.append(statistics.fmean(scores[:k]))
        valid = Counter((answer, score) for score, answer in task[:k] if answer is not None)
        most = max(valid.values(), default=0)
        winners = [score for (_, score), count in valid.items() if count == most]
        votes.append(statistics.fmean(winners) if winners else 0)
    found = {"pass@1[avg-of-k]": 100 * statistics.fmean(means), "majority@k": 100 * statistics.fmean(votes)}
    return found | ({"pass@k": 100 * statistics.fmean(passes)} if passes else {})


scored = st.tuples(st.sampled_from([0.0, 1.0, 0.0, 1.0, 0.5]), st.sampled_from([None, "a", "b", "c"]))


@given(st.lists(st.lists(scored, min_size=1, max_size=7), min_size=1, max_size=8))
def test_streaming_equals_the_formulas(tasks: list[list[tuple[float, Any]]]) -> None:
    metrics = pass_metrics(
        ([{"reward": score, "answer": answer} for score, answer in task] for task in tasks), answer_key="answer"
    )
    for k in range(1, max(map(len, tasks)) + 1):
        wanted = plainly(tasks, k)
        assert metrics[f"pass@{k}/accuracy"] == pytest.approx(wanted["pass@k"])
        assert metrics[f"pass@1[avg-of-{k}]/accuracy"] == pytest.approx(wanted["pass@1[avg-of-k]"])
        assert metrics[f"majority@{k}/accuracy"] == pytest.approx(wanted["majority@k"])
