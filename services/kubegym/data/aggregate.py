"""Aggregate metrics of a run (contract 2.4), fed task by task, in memory that does not grow with the number of tasks.

Two decisions where the contract leaves room:

- Usage fields are the numbers at the top level of ``response.usage``, by their own name (``input_tokens``,
  ``output_tokens``, ``total_tokens``). Nested details are not descended into, as NeMo Gym does not; per-role and
  cached or reasoning tokens stand in the row's ``kubegym.usage``.
- Positions (``_ng_*``) are numbers but no measurements, and have no statistics.

Only scored rows enter statistics; the others are counted (DESIGN 3.2).
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from kubegym.core.rows import AGENT_TYPE
from kubegym.data.columns import STATISTICS, Column, Spill, describe
from kubegym.data.disklines import DiskLines, DiskTasks
from kubegym.data.passk import PassMetrics, ScoreFunction, accuracy

logger = logging.getLogger(__name__)

Metrics = dict[str, Any]
Tasks = Sequence[list[dict[str, Any]]]
"""Scored rows by task, stripped (see ``stripped``). It lies on disk: iterate as often as you like, keep little."""

_WRITE = 1 << 20  # bytes of JSON handed on at a time
_HOOK_JSON = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


@dataclass(frozen=True, slots=True)
class MetricHooks:
    """What an environment adds to its metrics; every part is optional, functions may be async.

    Attributes:
        compute_metrics: all tasks -> metrics, which win over ours; ``per_task_metrics`` among them, a list of objects
            with ``_ng_task_index``, goes into the groups instead.
        get_key_metrics: all metrics -> the headline ones; without it they are all ``mean/*``.
        scores: named scores of a row for the pass family; default ``accuracy``, the reward.
        answer_key: the field with the extracted answer, for majority@k and no_answer. Where no row of the agent's
            first scored task has it, those two are left out.
    """

    compute_metrics: Callable[[Tasks], Metrics | Awaitable[Metrics]] | None = None
    get_key_metrics: Callable[[Metrics], Metrics | Awaitable[Metrics]] | None = None
    scores: ScoreFunction = accuracy
    answer_key: str | None = "extracted_answer"  # NeMo Gym's environments call it so


NO_HOOKS = MetricHooks()


@dataclass(slots=True)
class Counts:
    """How rollouts ended: ``failed`` by reason, ``depths`` counts tasks by their number of scored rollouts."""

    tasks: int = 0
    rollouts: int = 0
    scored: int = 0
    unscored: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    depths: Counter[int] = field(default_factory=Counter)

    @property
    def max_k(self) -> int:
        """The most scored rollouts that any task has."""
        return max(self.depths, default=0)

    def coverage(self, k: int) -> float:
        """Share of the tasks that have k scored rollouts: those on which pass@k rests."""
        return sum(tasks for depth, tasks in self.depths.items() if depth >= k) / self.tasks if self.tasks else 0.0

    def add(self, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Count a task; its scored rows."""
        self.tasks += 1
        self.rollouts += len(rows)
        scored = []
        for row in rows:
            if is_scored(row):
                scored.append(row)
            elif (reason := _failure_reason(row)) is not None:
                self.failed[reason] += 1
            else:
                self.unscored += 1
        self.scored += len(scored)
        self.depths[len(scored)] += 1
        return scored


@dataclass(slots=True)
class AgentMetrics:
    """The metrics of one agent; ``groups`` streams the per-task ones.

    Attributes:
        agent: its name.
        metrics: ``agent_metrics``.
        key_metrics: the headline ones.
        counts: what entered and what was left out.
        coverage: ``pass@k`` -> share of the tasks that have k scored rollouts.
        error: what went wrong in a hook of the environment, whose metrics are then missing.
        groups: called for the ``group_level_metrics``, JSON objects in the order of the tasks.
    """

    agent: str
    metrics: Metrics
    key_metrics: Metrics
    counts: Counts
    coverage: dict[str, float]
    error: str | None
    groups: Callable[[], Iterator[bytes]]


def is_scored(row: Mapping[str, Any]) -> bool:
    """Whether the row carries a reward that a verifier gave. A reply marked as failed is not, whatever its number."""
    ours = row.get("kubegym")
    if ours is not None and ours["outcome"] != "scored":
        return False
    return isinstance(row.get("reward"), int | float) and "_ng_failure_class" not in row


def _failure_reason(row: Mapping[str, Any]) -> str | None:
    ours = row.get("kubegym")
    failure = ours["failure"] if ours is not None else None
    if failure is not None:
        return str(failure["reason"])
    return row.get("_ng_failure_class")


def stripped(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as metric hooks get it: without conversations (``response`` keeps ``usage``), parameters and ``ng_*``."""
    kept = {
        name: value for name, value in row.items() if name != "responses_create_params" and not name.startswith("ng_")
    }
    response = row.get("response")
    kept["response"] = {"usage": response["usage"]} if response and response.get("usage") else {}
    return kept


class Aggregator:
    """Collects the final rows of tasks, by agent.

    Args:
        scratch: a folder on a local disk for what does not fit into bounded memory.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._agents: dict[str, _Agent] = {}
        self._doubles: Spill | None = None

    def add_task(
        self, agent: str, task_index: int, rows: Sequence[dict[str, Any]], hooks: MetricHooks = NO_HOOKS
    ) -> None:
        """Take the final rows of a task, sorted by rollout index.

        Args:
            agent: ``agent_ref.name``.
            task_index: ``_ng_task_index``.
            rows: of this task, also those without a reward.
            hooks: of the agent's environment; those of an agent's first task count.
        """
        collected = self._agents.get(agent)
        if collected is None:
            collected = self._agents[agent] = _Agent(agent, hooks, self._scratch, self._spill)
        collected.add_task(task_index, rows)

    async def finish(self) -> list[AgentMetrics]:
        """The metrics, by agent in order of first appearance."""
        return [await agent.finish() for agent in self._agents.values()]

    def close(self) -> None:
        """Free scratch files; ``groups`` of results cannot be read any more."""
        for agent in self._agents.values():
            agent.close()
        if self._doubles is not None:
            self._doubles.close()

    def _spill(self) -> Spill:
        if self._doubles is None:
            self._doubles = Spill(self._scratch)
        return self._doubles


class _Field:
    """A column and the names of its statistics."""

    __slots__ = ("column", "names")

    def __init__(self, name: str, column: Column) -> None:
        self.column = column
        self.names = tuple(f"{statistic}/{name}" for statistic in STATISTICS)


class _Agent:
    """What is collected of one agent."""

    def __init__(self, name: str, hooks: MetricHooks, scratch: Path, spill: Callable[[], Spill]) -> None:
        self._name = name
        self._hooks = hooks
        self._spill = spill
        self._counts = Counts()
        self._fields: dict[str, _Field] = {}
        self._passes: PassMetrics | None = None
        self._error: str | None = None
        self._groups = DiskLines(scratch)
        self._tasks = DiskLines(scratch) if hooks.compute_metrics is not None else None

    def add_task(self, task_index: int, rows: Sequence[dict[str, Any]]) -> None:
        scored = self._counts.add(rows)
        if not scored:
            return
        group: Metrics = {"_ng_task_index": task_index}
        for name, values in _numbers(scored).items():
            entry = self._fields.get(name)
            if entry is None:
                entry = self._fields[name] = _Field(name, Column(self._spill))
            entry.column.extend(values)
            mean, most, least, median, std = entry.names
            group[mean], group[most], group[least], group[median], group[std] = describe(values)
        self._groups.append(orjson.dumps(group, option=orjson.OPT_APPEND_NEWLINE))
        self._add_passes(task_index, scored)
        if self._tasks is not None:
            line = orjson.dumps([stripped(row) for row in scored], option=orjson.OPT_APPEND_NEWLINE)
            self._tasks.append(line)

    def _add_passes(self, task_index: int, scored: Sequence[dict[str, Any]]) -> None:
        if self._error is not None:
            return
        if self._passes is None:
            answer_key = self._hooks.answer_key
            answers = answer_key is not None and any(answer_key in row for row in scored)
            self._passes = PassMetrics(self._hooks.scores, answer_key if answers else None)
        try:
            self._passes.add_task(scored)
        except Exception as trouble:  # the environment's ``scores``; half of the tasks would be worse than none
            self._passes = None
            self._fail(f"scores, task {task_index}", trouble)

    async def finish(self) -> AgentMetrics:
        metrics: Metrics = {}
        for entry in self._fields.values():
            metrics.update(zip(entry.names, entry.column.statistics(), strict=True))
        if self._passes is not None:
            metrics.update(self._passes.metrics())
        per_task: dict[int, Metrics] = {}
        keys = None
        try:
            custom = await self._computed()
            per_task = {group["_ng_task_index"]: group for group in custom.pop("per_task_metrics", None) or ()}
            metrics.update(custom)
            keys = await self._keys(metrics)
        except Exception as trouble:
            self._fail("metric hooks", trouble)
        if keys is None:
            keys = {name: value for name, value in metrics.items() if name.startswith("mean/")}
        coverage = {f"pass@{k}": self._counts.coverage(k) for k in range(1, self._counts.max_k + 1)}
        return AgentMetrics(
            self._name, metrics, keys, self._counts, coverage, self._error, lambda: self._merged_groups(per_task)
        )

    def _fail(self, where: str, trouble: Exception) -> None:
        """An environment's own code broke, at the end of a run: its metrics are lost, the run's are not."""
        logger.error("%s of agent %s failed", where, self._name, exc_info=trouble)
        if self._error is None:
            self._error = f"{where}: {type(trouble).__name__}: {trouble}"

    async def _computed(self) -> Metrics:
        if self._hooks.compute_metrics is None or self._tasks is None:
            return {}
        # Through JSON and back: what cannot be written is the hook's fault here, and numpy numbers become numbers.
        return _plain(await _awaited(self._hooks.compute_metrics(DiskTasks(self._tasks))))

    async def _keys(self, metrics: Metrics) -> Metrics | None:
        if self._hooks.get_key_metrics is None:
            return None
        return _plain(await _awaited(self._hooks.get_key_metrics(metrics)))

    def _merged_groups(self, per_task: Mapping[int, Metrics]) -> Iterator[bytes]:
        for line in self._groups:
            if per_task:
                group = orjson.loads(line)
                more = per_task.get(group["_ng_task_index"])
                yield orjson.dumps({**group, **more}) if more else line
            else:
                yield line

    def close(self) -> None:
        self._groups.close()
        if self._tasks is not None:
            self._tasks.close()


def _numbers(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Numeric and boolean fields of a task's rows, usage included, as floats."""
    columns: dict[str, list[float]] = {}
    for row in rows:
        response = row.get("response")
        usage = response.get("usage") if response else None
        for fields in (row, usage or {}):
            for name, value in fields.items():
                kind = type(value)
                if kind is not float:
                    if kind is not int and kind is not bool:
                        continue
                    value = float(value)
                if usage is not None and fields is row and name in usage:
                    continue  # the usage's own wins, as in NeMo Gym
                values = columns.get(name)
                if values is None:
                    if name.startswith("_ng_"):
                        continue
                    columns[name] = [value]
                else:
                    values.append(value)
    return columns


async def _awaited(value: Metrics | Awaitable[Metrics]) -> Metrics:
    return await value if inspect.isawaitable(value) else value


def _plain(value: Metrics) -> Metrics:
    plain = orjson.loads(orjson.dumps(value, option=_HOOK_JSON))
    if not isinstance(plain, dict):
        raise TypeError(f"metrics must be a dict, not {type(value).__name__}")
    return plain


def metrics_json(agents: Sequence[AgentMetrics]) -> Iterator[bytes]:
    """``rollouts_aggregate_metrics.json`` (contract 2.2) in chunks: an array, one object an agent."""
    buffer = bytearray(b"[")
    for number, agent in enumerate(agents):
        head = {
            "agent_ref": {"type": AGENT_TYPE, "name": agent.agent},
            "agent_metrics": agent.metrics,
            "key_metrics": agent.key_metrics,
            "kubegym": _ours(agent),
        }
        buffer += b",\n" if number else b""
        buffer += orjson.dumps(head)[:-1] + b',"group_level_metrics":['
        for place, group in enumerate(agent.groups()):
            buffer += b",\n" if place else b"\n"
            buffer += group
            if len(buffer) >= _WRITE:
                yield bytes(buffer)
                buffer.clear()
        buffer += b"]}"
    buffer += b"]\n"
    yield bytes(buffer)


def _ours(agent: AgentMetrics) -> Metrics:
    counts = agent.counts
    ours: Metrics = {
        "tasks": counts.tasks,
        "rollouts": counts.rollouts,
        "scored": counts.scored,
        "unscored": counts.unscored,
        "failed": dict(sorted(counts.failed.items())),
        "coverage": agent.coverage,
    }
    if agent.error is not None:
        ours["metrics_error"] = agent.error
    return ours
