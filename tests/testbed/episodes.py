"""Episodes without model or environment: what comes out follows from the assignment alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from kubegym.core.ids import derive_seed, task_id
from kubegym.core.outcomes import Failure
from kubegym.core.protocols import Assignment, Attempt, EnvironmentInfo
from kubegym.core.tokens import TOKEN_FIELDS, CallTokens, TokenRecord
from kubegym.rollout import Draft, TaskRow, Wanted

Behaviour = Callable[[Assignment], Attempt]


def scored(assignment: Assignment) -> Attempt:
    """A scored attempt; the answer names the rollout."""
    reward = float((assignment.task_index + assignment.rollout_index) % 2)
    return Attempt(
        "scored",
        reward=reward,
        stop_reason="completed",
        response={"id": f"resp-{assignment.task_index}-{assignment.rollout_index}", "output": []},
        usage={"policy": {"calls": 1, "input_tokens": 10, "output_tokens": 5}},
        timing={"total": 0.5},
        turns=[{"policy_version": None, "reward": None}],
    )


def mixed(assignment: Assignment) -> Attempt:
    """Mostly scored; some unscored, some failed for good, some failed and then better."""
    draw = derive_seed("mixed", assignment.task_index, assignment.rollout_index, assignment.attempt) % 100
    if draw < 5:
        return Attempt("unscored", stop_reason="max_output_tokens")
    if draw < 10:
        return Attempt("failed", failure=Failure("tool", "ToolCrashed", "bad", False, assignment.attempt))
    if draw < 25:
        return Attempt("failed", failure=Failure("model", "ModelUnavailable", "away", True, assignment.attempt))
    return scored(assignment)


def with_tokens(behaviour: Behaviour) -> Behaviour:
    """Attempts of two calls, the second going on from the first, with ids that tell whose they are."""

    def attempt(assignment: Assignment) -> Attempt:
        made = behaviour(assignment)
        prompt = [assignment.task_index, assignment.rollout_index, assignment.attempt]
        made.tokens = TokenRecord()
        for place, (asked, said) in enumerate(((prompt, [7, 8]), ([*prompt, 7, 8, 9], [10]))):
            told = dict(zip(TOKEN_FIELDS, (asked, said, [-0.5] * len(said)), strict=True))
            made.tokens.add(CallTokens.read(told), place, version=3)
        return made

    return attempt


def of_versions(behaviour: Behaviour) -> Behaviour:
    """Attempts of two turns, the second up to three policy versions after the first."""

    def attempt(assignment: Assignment) -> Attempt:
        made = behaviour(assignment)
        first, passed = assignment.task_index, derive_seed("versions", assignment.rollout_id) % 4
        made.turns = [{"policy_version": version, "reward": None} for version in (first, first + passed)]
        return made

    return attempt


class ScriptedEpisodes:
    """Runs ``behaviour`` after a pause drawn from ``pause(assignment)`` seconds."""

    def __init__(
        self,
        behaviour: Behaviour = scored,
        pause: Callable[[Assignment], float] = lambda _: 0.0,
        *,
        groups: bool = False,
    ) -> None:
        self.started: list[str] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.verified: list[list[str]] = []
        self._behaviour = behaviour
        self._pause = pause
        self._groups = groups

    async def run(self, assignment: Assignment) -> Attempt:
        self.started.append(assignment.rollout_id)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self._pause(assignment))
            return self._behaviour(assignment)
        finally:
            self.in_flight -= 1

    def info(self, environment: str) -> EnvironmentInfo:
        return EnvironmentInfo(environment, "1", environment, "1", f"{environment}_simple_agent", "stub")

    def verifies_groups(self, environment: str) -> bool:
        return self._groups

    async def verify_group(self, environment: str, group: list[tuple[Assignment, Attempt]]) -> None:
        self.verified.append([assignment.rollout_id for assignment, _ in group])
        for rank, (_, attempt) in enumerate(group):
            attempt.reward = float(rank)

    async def close(self) -> None:
        return None


def lognormal(sigma: float, mean: float, seed: int = 0) -> Callable[[Assignment], float]:
    """Durations with a long tail, fixed by task and rollout."""
    mu = -(sigma**2) / 2

    def draw(assignment: Assignment) -> float:
        rng = random.Random(derive_seed(seed, assignment.task_index, assignment.rollout_index, assignment.attempt))
        return mean * rng.lognormvariate(mu, sigma)

    return draw


class Rows:
    """A task source that makes its rows up."""

    def row(self, position: int) -> dict[str, Any]:
        return {"responses_create_params": {"input": f"task {position}"}, "number": position}

    async def tasks(self, environment: str, first_row: int, count: int) -> list[TaskRow]:
        rows = [self.row(position) for position in range(first_row, first_row + count)]
        return [TaskRow(environment, row, task_id(environment, row)) for row in rows]


def draft(tasks: int, rollouts: int, *, tasks_per_shard: int = 4, environments: int = 1, **settings: Any) -> Draft:
    """A plan to ask for."""
    names = [f"env{n}" for n in range(environments)]
    return Draft(
        name="test",
        environments=tuple({"name": name, "version": "1", "dataset": {"sha256": "d"}} for name in names),
        settings=settings,
        wanted=tuple(Wanted(name, tasks, rollouts) for name in names),
        tasks_per_shard=tasks_per_shard,
    )
