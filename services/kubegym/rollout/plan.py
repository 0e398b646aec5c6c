"""The plan: what a run collects, frozen before the first rollout (DESIGN section 6, step 1).

A plan is written once, create-only. Everything that decides *what* is collected stands in it; a second plan that
differs is a PlanConflict. Growth (a larger ``limit`` or ``rollouts_per_task``) and ``retry`` open a further
generation, which adds ids and never changes old ones.

Tasks are numbered over the whole run. A *segment* is a range of tasks of one dataset; a *shard* is at most
``tasks_per_shard`` tasks of one segment, so all rollouts of a task lie in one shard, in every generation. Within a
shard and a generation, planned rollouts are numbered by *ordinal*, task by task.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import orjson

from kubegym.core.errors import PlanConflict
from kubegym.core.ids import canonical_json, digest
from kubegym.rollout.errors import reading

SCHEMA = 1


def plan_key(generation: int) -> str:
    """``plan.json``, later ``plan-<n>.json``."""
    return "plan.json" if generation == 1 else f"plan-{generation}.json"


@dataclass(frozen=True, slots=True)
class Segment:
    """A range of tasks of one dataset.

    Attributes:
        environment: the entry whose dataset it is.
        first_task: index of its first task in the run.
        first_row: position of that task's row in the dataset (after offset, limit and shuffle).
        tasks: how many.
        first_shard: index of its first shard.
        rollouts: the rollout indices ``[from, to)`` this generation adds to each task.
    """

    environment: str
    first_task: int
    first_row: int
    tasks: int
    first_shard: int
    rollouts: tuple[int, int]

    def shards(self, tasks_per_shard: int) -> int:
        """How many shards it has."""
        return -(-self.tasks // tasks_per_shard)


@dataclass(frozen=True, slots=True)
class Retry:
    """A failed rollout that a generation runs again: the attempt number to go on with, and why it had failed."""

    task_index: int
    rollout_index: int
    attempt: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One shard's part of a generation.

    Attributes:
        index: the shard.
        environment: entry whose dataset it reads.
        first_task, tasks, first_row: its tasks and where their rows begin.
        rollouts: ``[from, to)`` of every task, for a dense generation.
        retries: the chosen rollouts, for a retry generation, else None.
    """

    index: int
    environment: str
    first_task: int
    tasks: int
    first_row: int
    rollouts: tuple[int, int]
    retries: tuple[Retry, ...] | None = None

    @property
    def size(self) -> int:
        """How many rollouts this generation plans here."""
        if self.retries is not None:
            return len(self.retries)
        return self.tasks * (self.rollouts[1] - self.rollouts[0])

    def planned(self, ordinal: int) -> Retry:
        """Task, rollout and first attempt of an ordinal."""
        if self.retries is not None:
            return self.retries[ordinal]
        first, end = self.rollouts
        task, rollout = divmod(ordinal, end - first)
        return Retry(self.first_task + task, first + rollout, 0)

    def group_size(self, task_index: int) -> int:
        """How many rollouts of a task this generation plans."""
        if self.retries is None:
            return self.rollouts[1] - self.rollouts[0]
        return sum(retry.task_index == task_index for retry in self.retries)


@dataclass(frozen=True)
class Plan:
    """What a run collects.

    Attributes:
        run_id: made with the first generation; every later one and every resume has the same.
        name: the RolloutJob's or environment's name, for people.
        environments: the resolved entries, in order: versions, configuration, harness, model, dataset digest, ...
        settings: what else decides the content (sampling, seed, truncation, limits).
        segments: the tasks, with the rollouts this generation adds.
        tasks_per_shard: at most so many tasks in a shard.
        generation: from 1.
        retries: for a retry generation the rollouts it runs again, sorted; None for a dense one.
        created: wall-clock seconds since 1970.
    """

    run_id: str
    name: str
    environments: tuple[dict[str, Any], ...]
    settings: dict[str, Any]
    segments: tuple[Segment, ...]
    tasks_per_shard: int = 32
    generation: int = 1
    retries: tuple[Retry, ...] | None = None
    created: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def content(self) -> dict[str, Any]:
        """What two plans must share to be the same run, generation aside."""
        return {
            "environments": {entry["name"]: entry for entry in self.environments},
            "settings": self.settings,
        }

    @cached_property
    def digest(self) -> str:
        """Digest of everything but run id and time."""
        return digest(
            canonical_json(
                [
                    self.content,
                    self.tasks_per_shard,
                    [asdict(s) for s in self.segments],
                    self.generation,
                    [asdict(r) for r in self.retries or ()],
                ]
            )
        )

    @property
    def tasks(self) -> int:
        """Tasks of the run."""
        return sum(segment.tasks for segment in self.segments)

    @cached_property
    def shards(self) -> int:
        """Shards of the run."""
        last = self.segments[-1] if self.segments else None
        return last.first_shard + last.shards(self.tasks_per_shard) if last else 0

    @cached_property
    def expected(self) -> int:
        """Rollouts this generation adds."""
        if self.retries is not None:
            return len(self.retries)
        return sum(s.tasks * (s.rollouts[1] - s.rollouts[0]) for s in self.segments)

    @cached_property
    def planned(self) -> int:
        """Rollouts of the run up to and with this generation: every one has exactly one result when it is complete."""
        return sum(s.tasks * s.rollouts[1] for s in self.segments)

    @cached_property
    def _first_shards(self) -> list[int]:
        return [segment.first_shard for segment in self.segments]

    @cached_property
    def _retries_by_shard(self) -> dict[int, tuple[Retry, ...]]:
        grouped: dict[int, list[Retry]] = {}
        for retry in self.retries or ():
            grouped.setdefault(self.shard_of(retry.task_index), []).append(retry)
        return {index: tuple(retries) for index, retries in grouped.items()}

    def shard_of(self, task_index: int) -> int:
        """The shard a task lies in."""
        for segment in self.segments:
            offset = task_index - segment.first_task
            if 0 <= offset < segment.tasks:
                return segment.first_shard + offset // self.tasks_per_shard
        raise IndexError(f"task {task_index} is not in the plan, which has {self.tasks} tasks")

    def shard(self, index: int) -> ShardPlan:
        """One shard's part of this generation."""
        segment = self.segments[bisect_right(self._first_shards, index) - 1]
        offset = (index - segment.first_shard) * self.tasks_per_shard
        return ShardPlan(
            index,
            segment.environment,
            segment.first_task + offset,
            min(self.tasks_per_shard, segment.tasks - offset),
            segment.first_row + offset,
            segment.rollouts,
            None if self.retries is None else self._retries_by_shard.get(index, ()),
        )

    def work(self) -> Iterator[ShardPlan]:
        """The shards in which this generation plans anything."""
        for index in range(self.shards):
            shard = self.shard(index)
            if shard.size:
                yield shard

    def to_json(self) -> bytes:
        """``plan.json``."""
        return orjson.dumps(
            {
                "schema": SCHEMA,
                "run_id": self.run_id,
                "name": self.name,
                "generation": self.generation,
                "created": self.created,
                "digest": self.digest,
                "tasks": self.tasks,
                "rollouts": self.planned,
                "shards": self.shards,
                "tasks_per_shard": self.tasks_per_shard,
                "environments": self.environments,
                "settings": self.settings,
                "segments": [asdict(segment) for segment in self.segments],
                "retries": None
                if self.retries is None
                else [[r.task_index, r.rollout_index, r.attempt, r.reason] for r in self.retries],
                "extra": self.extra,
            },
            option=orjson.OPT_INDENT_2,
        )

    @classmethod
    def from_json(cls, data: bytes) -> Plan:
        """The plan a ``plan.json`` holds. Raises CorruptRecord."""
        with reading("plan"):
            raw = orjson.loads(data)
            return cls(
                run_id=raw["run_id"],
                name=raw["name"],
                environments=tuple(raw["environments"]),
                settings=raw["settings"],
                segments=tuple(Segment(**{**s, "rollouts": tuple(s["rollouts"])}) for s in raw["segments"]),
                tasks_per_shard=raw["tasks_per_shard"],
                generation=raw["generation"],
                retries=None if raw["retries"] is None else tuple(Retry(*r) for r in raw["retries"]),
                created=raw["created"],
                extra=raw["extra"],
            )


@dataclass(frozen=True, slots=True)
class Wanted:
    """Rollouts wanted of one entry's dataset: the first ``rows`` rows, ``rollouts`` each."""

    environment: str
    rows: int
    rollouts: int


def first_segments(wanted: Iterable[Wanted], tasks_per_shard: int) -> tuple[Segment, ...]:
    """The segments of a first generation: the datasets one after the other."""
    return _append((), wanted, tasks_per_shard, seen={})


def grown_segments(
    previous: Sequence[Segment], wanted: Sequence[Wanted], tasks_per_shard: int
) -> tuple[Segment, ...] | None:
    """The segments of a generation that grows to ``wanted``; None where nothing grows.

    Old tasks keep index and shard and get the rollouts they lack; new rows become new segments behind all others.

    Raises:
        ValueError: something shrinks (the message names it).
    """
    rollouts = {want.environment: want.rollouts for want in wanted}
    seen: dict[str, int] = {}
    kept: list[Segment] = []
    for segment in previous:
        target = rollouts.get(segment.environment, 0)
        if target < segment.rollouts[1]:
            raise ValueError(
                f"rolloutsPerTask of {segment.environment} cannot shrink from {segment.rollouts[1]} to {target}"
            )
        seen[segment.environment] = seen.get(segment.environment, 0) + segment.tasks
        kept.append(replace(segment, rollouts=(segment.rollouts[1], target)))
    for want in wanted:
        if want.rows < seen.get(want.environment, 0):
            raise ValueError(f"rows of {want.environment} cannot shrink from {seen[want.environment]} to {want.rows}")
    grown = _append(tuple(kept), wanted, tasks_per_shard, seen)
    same = len(grown) == len(previous) and all(s.rollouts[0] == s.rollouts[1] for s in grown)
    return None if same else grown


def _append(
    segments: tuple[Segment, ...], wanted: Iterable[Wanted], tasks_per_shard: int, seen: Mapping[str, int]
) -> tuple[Segment, ...]:
    result = list(segments)
    for want in wanted:
        known = seen.get(want.environment, 0)
        if want.rows == known:
            continue
        last = result[-1] if result else None
        result.append(
            Segment(
                environment=want.environment,
                first_task=last.first_task + last.tasks if last else 0,
                first_row=known,
                tasks=want.rows - known,
                first_shard=last.first_shard + last.shards(tasks_per_shard) if last else 0,
                rollouts=(0, want.rollouts),
            )
        )
    return tuple(result)


def require_same(stored: Plan, asked: Plan, output: str) -> None:
    """Raise PlanConflict, naming the fields, unless both plans collect the same things (growth aside)."""
    content = Plan.from_json(asked.to_json()).content  # in JSON's words, as the stored one: a tuple is a list there
    differences = dict(_differences(stored.content, content, ""))
    if differences:
        raise PlanConflict(output, differences)


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, tuple[object, object]]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        yield path, (old, new)
