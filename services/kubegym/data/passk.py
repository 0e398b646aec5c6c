"""pass@k, pass@1[avg-of-k], majority@k and their spread (contract 2.4), one task at a time. Percent, 0 to 100.

With n scored rollouts of a task, of which c are wrong, and in the order of their rollout index:

- ``pass@k/<score>``: 1 - C(c, k) / C(n, k) where all n scores are 0 or 1, else the best of the first k; mean over the
  tasks that have k. How many those are is the *coverage* of k.
- ``pass@1[avg-of-k]/<score>``: mean of the first k, then over tasks; a task with fewer than k gives what it has.
- ``majority@k/<score>`` (with an answer key): the score that the most frequent (answer, score) among the first k
  has, leaving null answers out; ties are averaged, no answers give 0; mean over all tasks.
- ``no_answer`` (with an answer key) is a score of its own: 1 where the answer is null.
- ``per_sample_aggregate``: score -> list; its i-th number is the mean of the i-th rollouts of all tasks.
- ``pass@1[avg-of-k]/<score>/std_dev_across_runs`` and ``.../std_err_across_runs`` (n - 1), from k = 2: the spread of
  the first k of that list.

Memory grows with the number of rollouts of a task and of scores, not with the number of tasks.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any

from kubegym.core.ids import canonical_json

Row = Mapping[str, Any]
ScoreFunction = Callable[[Row], Mapping[str, float]]
"""Named scores of a scored row."""

NO_ANSWER = "no_answer"
_Values = tuple[float | None, ...]
_ALIKE = 256  # different outcomes of tasks that are counted before they are summed
_SPREADS = ("std_dev_across_runs", "std_err_across_runs", "avg_sample_std_dev")


def accuracy(row: Row) -> Mapping[str, float]:
    """The default score: the reward, by the name ``accuracy``."""
    return {"accuracy": row["reward"]}


class PassMetrics:
    """Collects tasks and gives the pass family.

    Args:
        scores: names and values of a row's scores.
        answer_key: the field with the extracted answer; None leaves majority@k and no_answer out.
    """

    def __init__(self, scores: ScoreFunction = accuracy, answer_key: str | None = None) -> None:
        self._of = scores
        self._answer_key = answer_key
        self._scores: dict[str, _Score] = {}
        self._tasks = 0
        self._max_k = 0

    def add_task(self, rows: Sequence[Row]) -> None:
        """Take the scored rollouts of a task, by rollout index. A task without any does not count."""
        if not rows:
            return
        count = len(rows)
        self._tasks += 1
        self._max_k = max(self._max_k, count)
        answers: tuple[Hashable, ...] | None = None
        if self._answer_key is None:
            scores = [self._of(row) for row in rows]
        else:
            answers = tuple([_hashable(row.get(self._answer_key)) for row in rows])
            scores = [
                {**self._of(row), NO_ANSWER: 1 if answer is None else 0}
                for row, answer in zip(rows, answers, strict=True)
            ]
        names = scores[0] if count == 1 else dict.fromkeys(name for row_scores in scores for name in row_scores)
        for name in names:
            score = self._scores.get(name)
            if score is None:
                score = self._scores[name] = _Score()
            score.add(tuple([row_scores.get(name) for row_scores in scores]), answers)

    def metrics(self) -> dict[str, Any]:
        """The pass family of all tasks so far; empty without any."""
        if not self._tasks:
            return {}
        metrics: dict[str, Any] = {}
        names = sorted(self._scores)
        for collected in self._scores.values():
            collected.fold()
        passes = {name: self._scores[name].pass_at(self._max_k) for name in names}
        for k in range(1, self._max_k + 1):
            for name in names:
                score = self._scores[name]
                _put(metrics, f"pass@{k}/{name}", passes[name][k - 1])
                _put(metrics, f"pass@1[avg-of-{k}]/{name}", score.average.mean(k))
                if self._answer_key is not None:
                    # A task in which no row has the score votes for nothing: 0, as one without answers.
                    metrics[f"majority@{k}/{name}"] = 100.0 * score.majority.total(k) / self._tasks
        runs = {name: self._scores[name].run_means() for name in names}
        metrics["per_sample_aggregate"] = runs
        for k in range(2, self._max_k + 1):
            for name in names:
                _put_spread(metrics, f"pass@1[avg-of-{k}]/{name}", runs[name][:k])
        return metrics


class _Score:
    """One named score. Tasks that ended alike, as most do with 0 and 1, are counted before they are summed."""

    def __init__(self) -> None:
        self.average = _Series()
        self.majority = _Series()
        self._alike: dict[tuple[_Values, tuple[Hashable, ...] | None], int] = {}
        self._binary: Counter[tuple[int, int]] = Counter()  # (scored, wrong) -> tasks
        self._best = _Series()
        self._runs = _Series()

    def add(self, values: _Values, answers: tuple[Hashable, ...] | None) -> None:
        task = (values, answers)
        self._alike[task] = self._alike.get(task, 0) + 1
        if len(self._alike) >= _ALIKE:
            self.fold()

    def fold(self) -> None:
        """Bring what was counted into the sums."""
        for (values, answers), times in self._alike.items():
            present = [value for value in values if value is not None]
            if all(value == 0 or value == 1 for value in present):
                self._binary[len(present), len(present) - int(sum(present))] += times
            else:
                self._best.add(_running_max(present), times)
            self._runs.add(values, times)
            self.average.add(_running_mean(values), times)
            if answers is not None:
                self.majority.add(_running_majority(values, answers), times)
        self._alike.clear()

    def pass_at(self, max_k: int) -> list[float | None]:
        """pass@1 to pass@max_k, as fractions."""
        totals, tasks = [0.0] * max_k, [0] * max_k
        for (count, wrong), times in self._binary.items():
            none_right = 1.0  # C(wrong, k) / C(count, k), factor by factor
            for k in range(1, count + 1):
                none_right *= max(0, wrong - k + 1) / (count - k + 1)
                totals[k - 1] += (1.0 - none_right) * times
                tasks[k - 1] += times
        for k in range(1, max_k + 1):
            totals[k - 1] += self._best.exact_total(k)
            tasks[k - 1] += self._best.exact_count(k)
        return [total / count if count else None for total, count in zip(totals, tasks, strict=True)]

    def run_means(self) -> list[float]:
        """Percent by rollout position, over all tasks that have it."""
        means = (self._runs.exact_mean(k) for k in range(1, self._runs.length + 1))
        return [100.0 * mean for mean in means if mean is not None]


class _Series:
    """Sums over tasks of values by k = 1, 2, ..., where a task's last value stands for every larger k."""

    __slots__ = ("_counts", "_last_counts", "_last_totals", "_totals")

    def __init__(self) -> None:
        self._totals: list[float] = []
        self._counts: list[int] = []
        self._last_totals: list[float] = []
        self._last_counts: list[int] = []

    @property
    def length(self) -> int:
        return len(self._totals)

    def add(self, values: Sequence[float | None], times: int) -> None:
        missing = len(values) - len(self._totals)
        if missing > 0:
            for numbers in (self._totals, self._last_totals):
                numbers.extend([0.0] * missing)
            for tasks in (self._counts, self._last_counts):
                tasks.extend([0] * missing)
        totals, counts = self._totals, self._counts
        for place, value in enumerate(values):
            if value is not None:
                totals[place] += value * times
                counts[place] += times
        if values and values[-1] is not None:
            self._last_totals[len(values) - 1] += values[-1] * times
            self._last_counts[len(values) - 1] += times

    def exact_total(self, k: int) -> float:
        """Over the tasks that have a k-th value."""
        return self._totals[k - 1] if k <= len(self._totals) else 0.0

    def exact_count(self, k: int) -> int:
        """How many those are."""
        return self._counts[k - 1] if k <= len(self._counts) else 0

    def exact_mean(self, k: int) -> float | None:
        """Over the tasks that have a k-th value; None where there is none."""
        count = self.exact_count(k)
        return self.exact_total(k) / count if count else None

    def total(self, k: int) -> float:
        """Over all tasks, shorter ones by their last value."""
        return self.exact_total(k) + math.fsum(self._last_totals[: k - 1])

    def mean(self, k: int) -> float | None:
        """Over all tasks that have a value by then."""
        count = self.exact_count(k) + sum(self._last_counts[: k - 1])
        return self.total(k) / count if count else None


def _running_max(values: Sequence[float]) -> list[float]:
    best: list[float] = []
    for value in values:
        best.append(value if not best or value > best[-1] else best[-1])
    return best


def _running_mean(values: Sequence[float | None]) -> list[float | None]:
    means: list[float | None] = []
    total, count = 0.0, 0
    for value in values:
        if value is not None:
            total += value
            count += 1
        means.append(total / count if count else None)
    return means


def _running_majority(values: Sequence[float | None], answers: Sequence[Hashable]) -> list[float]:
    votes: Counter[tuple[Hashable, float]] = Counter()
    won: list[float] = []
    most, tied, total = 0, 0, 0.0  # votes of the winners, how many winners, the sum of their scores
    for value, answer in zip(values, answers, strict=True):
        if value is not None and answer is not None:
            vote = (answer, value)
            votes[vote] += 1
            if votes[vote] > most:
                most, tied, total = votes[vote], 1, value
            elif votes[vote] == most:
                tied += 1
                total += value
        won.append(total / tied if tied else 0.0)
    return won


def _hashable(answer: Any) -> Hashable:
    return canonical_json(answer) if isinstance(answer, dict | list) else answer


def _put(metrics: dict[str, Any], name: str, fraction: float | None) -> None:
    if fraction is not None:
        metrics[name] = 100.0 * fraction


def _put_spread(metrics: dict[str, Any], name: str, runs: Sequence[float]) -> None:
    count = len(runs)
    if count < 2:
        return
    mean = math.fsum(runs) / count
    deviation = math.sqrt(math.fsum([(run - mean) ** 2 for run in runs]) / (count - 1))
    metrics[f"{name}/std_dev_across_runs"] = deviation
    metrics[f"{name}/std_err_across_runs"] = deviation / math.sqrt(count)


def pass_metrics(
    tasks: Iterable[Sequence[Row]], *, scores: ScoreFunction = accuracy, answer_key: str | None = None
) -> dict[str, Any]:
    """The pass family of tasks, for an environment's ``compute_metrics``."""
    metrics = PassMetrics(scores, answer_key)
    for rows in tasks:
        metrics.add_task(rows)
    return metrics.metrics()


def subset_metrics(
    tasks: Iterable[Sequence[Row]],
    subset_key: str,
    *,
    scores: ScoreFunction = accuracy,
    answer_key: str | None = None,
) -> dict[str, Any]:
    """The pass family by the value of a field: ``<value>/pass@1/accuracy``. Tasks without a value are left out."""
    subsets: dict[Any, PassMetrics] = {}
    for rows in tasks:
        value = rows[0].get(subset_key) if rows else None
        if value:
            if value not in subsets:
                subsets[value] = PassMetrics(scores, answer_key)
            subsets[value].add_task(rows)
    return {
        f"{value}/{name}": number
        for value, subset in subsets.items()
        for name, number in subset.metrics().items()
        if name != "per_sample_aggregate"
    }


def highest_k(
    metrics: Mapping[str, Any],
    pattern: str,
    *,
    names: Collection[str] | None = None,
    exclude: Collection[str] = (),
) -> dict[str, Any]:
    """The entries of a pattern such as ``pass@{k}`` or ``pass@1[avg-of-{k}]`` at the highest k, spreads left out.

    Args:
        metrics: an agent's metrics.
        pattern: with ``{k}`` where the number stands.
        names: score names to take; None takes all.
        exclude: score names to leave out.
    """
    expression = re.compile(re.escape(pattern).replace(r"\{k\}", r"(\d+)") + "/(.+)")
    found: list[tuple[int, str]] = []
    for key in metrics:
        match = expression.fullmatch(key)
        if match is None or match[2].endswith(_SPREADS) or match[2] in exclude:
            continue
        if names is None or match[2] in names:
            found.append((int(match[1]), key))
    most = max((k for k, _ in found), default=0)
    return {key: metrics[key] for k, key in found if k == most}
