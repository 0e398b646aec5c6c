"""Groups: all rollouts of one task, put together as they finish (DESIGN section 6 "Groups")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from kubegym.core.protocols import Assignment, Attempt
from kubegym.rollout.pool import Workload


@dataclass(slots=True)
class Member:
    """A rollout that has its result.

    Attributes:
        ordinal: its place in the shard.
        assignment, attempt: the attempt that settled it.
        history: earlier attempts that failed and were made again; committed with the result, so that each is on
            record exactly once.
    """

    ordinal: int
    assignment: Assignment
    attempt: Attempt
    history: list[tuple[Assignment, Attempt]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Group:
    """All rollouts of one task, in order of their rollout index.

    Attributes:
        rollouts: rows.
        left_out: how many are missing there because they are stale.
    """

    task_id: str
    task_index: int
    environment: str
    rollouts: list[dict[str, Any]] = field(repr=False)
    left_out: int = 0

    @property
    def scored(self) -> list[dict[str, Any]]:
        """The rollouts that have a reward."""
        return [row for row in self.rollouts if row["reward"] is not None]

    @property
    def rewards(self) -> list[float]:
        """The rewards of the scored rollouts."""
        return [row["reward"] for row in self.scored]


@dataclass(frozen=True, slots=True)
class GroupPolicy:
    """Which groups are delivered and exported; the record keeps them all.

    Stale rollouts are never delivered, and count like rollouts without a reward.

    Attributes:
        min_scored: a group with fewer scored rollouts is *partial* (default: all of them).
        on_partial: what happens to partial groups.
        drop_zero_variance: leave out groups whose rewards are all equal: they carry no advantage.
    """

    min_scored: int | None = None
    on_partial: Literal["Deliver", "Drop"] = "Deliver"
    drop_zero_variance: bool = False

    def delivered(self, group: Group) -> Group | None:
        """What of a group passes: it without its stale rollouts; None where nothing is left, or the rules drop it."""
        fresh = [row for row in group.rollouts if not row["kubegym"]["stale"]]
        if group.rollouts and not fresh:
            return None
        left_out = group.left_out + len(group.rollouts) - len(fresh)
        passed = replace(group, rollouts=fresh, left_out=left_out)
        rewards = passed.rewards
        needed = len(fresh) + left_out if self.min_scored is None else self.min_scored
        if self.on_partial == "Drop" and len(rewards) < needed:
            return None
        return None if self.drop_zero_variance and len(set(rewards)) <= 1 else passed

    def delivers(self, group: Group) -> bool:
        """Whether anything of the group passes."""
        return self.delivered(group) is not None


class GroupAssembly:
    """Collects the members of the groups in flight."""

    def __init__(self) -> None:
        self._missing: dict[int, int] = {}
        self._members: dict[int, list[Member]] = {}
        self._rows: dict[str, dict[str, Any]] = {}

    @property
    def pending(self) -> int:
        """Groups that are not whole yet."""
        return len(self._missing)

    def expect(self, workload: Workload, wanted: Callable[[str], bool]) -> None:
        """Count, for a shard just claimed, how many rollouts each task still lacks.

        Args:
            workload: the shard.
            wanted: whether groups of an entry are put together; a row may go to another entry than its dataset's.
        """
        shard, tasks = workload.shard, workload.tasks
        chosen = {entry for entry in {task.environment for task in tasks} if wanted(entry)}
        if not chosen:
            return
        for ordinal in shard.head.remaining():
            task = shard.plan.planned(ordinal).task_index
            if tasks[task - shard.plan.first_task].environment in chosen:
                self._missing[task] = self._missing.get(task, 0) + 1

    def add(self, member: Member) -> list[Member] | None:
        """Take a finished member; the whole group, by rollout index, when it was the last one."""
        task = member.assignment.task_index
        members = self._members.setdefault(task, [])
        members.append(member)
        self._missing[task] -= 1
        if self._missing[task]:
            return None
        del self._missing[task], self._members[task]
        return sorted(members, key=lambda other: other.assignment.rollout_index)

    def keep(self, assignment: Assignment, row: dict[str, Any]) -> None:
        """Keep a member's row until its group is taken."""
        self._rows[assignment.rollout_id] = row

    def take(self, members: list[Member]) -> Group:
        """The finished group with its rows."""
        first = members[0].assignment
        rows = [self._rows.pop(member.assignment.rollout_id) for member in members]
        return Group(first.task_id, first.task_index, first.environment, rows)
