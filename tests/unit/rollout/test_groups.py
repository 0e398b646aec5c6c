"""Which groups are delivered, and how they are put together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubegym.core.protocols import Attempt
from kubegym.rollout import BatchRun, Group, GroupPolicy, TaskRow, open_plan
from kubegym.rollout.groups import GroupAssembly, Member
from kubegym.rollout.head import claimed
from kubegym.rollout.plan import ShardPlan
from kubegym.rollout.pool import Workload
from kubegym.rollout.shard import OpenShard
from kubegym.storage import MemoryStore
from testbed.episodes import Rows, ScriptedEpisodes, draft
from testbed.runs import QUICK, access, assert_exactly_once

pytestmark = pytest.mark.unit


def group(*rewards: float | None) -> Group:
    return Group("t", 0, "env", [{"reward": reward, "kubegym": {"stale": False}} for reward in rewards])


@pytest.mark.parametrize(
    ("policy", "rewards", "delivered"),
    [
        (GroupPolicy(), (), True),
        (GroupPolicy(), (None, None), True),
        (GroupPolicy(), (1.0, 1.0), True),
        (GroupPolicy(on_partial="Drop"), (1.0, 0.0), True),
        (GroupPolicy(on_partial="Drop"), (1.0, None), False),
        (GroupPolicy(on_partial="Drop"), (None, None), False),
        (GroupPolicy(min_scored=1, on_partial="Drop"), (1.0, None), True),
        (GroupPolicy(min_scored=2, on_partial="Drop"), (1.0, None, 0.0), True),
        (GroupPolicy(min_scored=3, on_partial="Drop"), (1.0, None, 0.0), False),
        (GroupPolicy(min_scored=3, on_partial="Deliver"), (1.0, None, 0.0), True),
        (GroupPolicy(min_scored=0, on_partial="Drop"), (None,), True),
        (GroupPolicy(drop_zero_variance=True), (1.0, 0.0), True),
        (GroupPolicy(drop_zero_variance=True), (1.0, 1.0), False),
        (GroupPolicy(drop_zero_variance=True), (0.0, 0.0, None), False),
        (GroupPolicy(drop_zero_variance=True), (1.0, None), False),
        (GroupPolicy(drop_zero_variance=True), (None, None), False),
        (GroupPolicy(min_scored=2, on_partial="Drop", drop_zero_variance=True), (1.0, 0.0, None), True),
    ],
)
def test_which_groups_pass(policy: GroupPolicy, rewards: tuple[float | None, ...], delivered: bool) -> None:
    whole = group(*rewards)
    assert policy.delivers(whole) is delivered
    assert policy.delivered(whole) == (whole if delivered else None)


@pytest.mark.parametrize(
    ("policy", "left"),
    [
        (GroupPolicy(), [1.0, None]),
        (GroupPolicy(min_scored=1, on_partial="Drop"), [1.0, None]),
        (GroupPolicy(min_scored=2, on_partial="Drop"), None),
        (GroupPolicy(on_partial="Drop"), None),
        (GroupPolicy(drop_zero_variance=True), None),
    ],
)
def test_stale_rollouts_are_not_delivered(policy: GroupPolicy, left: list[float | None] | None) -> None:
    whole = group(1.0, 0.0, None)
    whole.rollouts[1]["kubegym"]["stale"] = True
    delivered = policy.delivered(whole)
    assert (None if delivered is None else [row["reward"] for row in delivered.rollouts]) == left
    assert len(whole.rollouts) == 3
    if delivered is not None:
        assert delivered.left_out == 1
        assert not GroupPolicy(on_partial="Drop").delivers(delivered), "it is no whole group"
    for row in whole.rollouts:
        row["kubegym"]["stale"] = True
    assert policy.delivered(whole) is None


def test_zero_is_a_reward() -> None:
    assert group(0.0, None, 1.0).rewards == [0.0, 1.0]
    assert len(group(0.0, None).scored) == 1


def workload(tasks: int, rollouts: int, environments: str = "e", settled: int = 0) -> Workload:
    """A claimed shard; task n goes to the entry ``environments[n % len]``."""
    mine = access(MemoryStore())
    plan = ShardPlan(0, "e", 10, tasks, 0, (0, rollouts))
    head = claimed(
        None,
        run_id="r" * 32,
        shard=0,
        generation=1,
        size=plan.size,
        holder=mine.holder,
        nonce="1",
        lease_expires=1.0,
        ceiling=1,
    )
    rows = [TaskRow(environments[n % len(environments)], {}, f"t{n}") for n in range(tasks)]
    return Workload(OpenShard(mine, plan, replace(head, settled=settled), "etag", []), rows, "r" * 32)


def member(shard: Workload, ordinal: int) -> Member:
    return Member(ordinal, shard.assignment(ordinal), Attempt("unscored"))


def everyone(environment: str) -> bool:
    return True


def test_a_group_is_whole_when_its_last_rollout_is_there_in_order_of_index() -> None:
    shard, groups = workload(2, 3), GroupAssembly()
    groups.expect(shard, everyone)
    for ordinal in (5, 2, 0, 3):
        assert groups.add(member(shard, ordinal)) is None
    first = groups.add(member(shard, 1))
    assert first is not None
    assert [m.assignment.rollout_index for m in first] == [0, 1, 2]
    for m in first:
        groups.keep(m.assignment, {"reward": 1.0, "id": m.assignment.rollout_id})
    taken = groups.take(first)
    assert (taken.task_index, taken.task_id, taken.environment) == (10, "t0", "e")
    assert [row["id"] for row in taken.rollouts] == [m.assignment.rollout_id for m in first]
    assert groups.add(member(shard, 4)) is not None
    assert groups.pending == 0, "something of finished groups stayed in memory"


def test_a_resumed_group_waits_only_for_what_is_missing() -> None:
    shard, groups = workload(1, 3, settled=0b101), GroupAssembly()
    groups.expect(shard, everyone)
    members = groups.add(member(shard, 1))
    assert members is not None
    assert [m.ordinal for m in members] == [1]


def test_only_wanted_entries_are_counted() -> None:
    shard, groups = workload(4, 2, environments="ab"), GroupAssembly()
    groups.expect(shard, "b".__eq__)
    assert groups.pending == 2
    assert groups.add(member(shard, 2)) is None
    assert groups.add(member(shard, 3)) is not None
    assert groups.pending == 1


class Routed(Rows):
    """Rows of env0's dataset, every other of which goes to env1."""

    async def tasks(self, environment: str, first_row: int, count: int) -> list[TaskRow]:
        tasks = await super().tasks(environment, first_row, count)
        return [TaskRow(f"env{task.row['number'] % 2}", task.row, task.task_id) for task in tasks]


class OneVerifiesGroups(ScriptedEpisodes):
    def verifies_groups(self, environment: str) -> bool:
        return environment == "env1"


@pytest.mark.looptime
async def test_rows_that_go_to_another_entry_are_verified_by_that_entry() -> None:
    store = MemoryStore()
    mine = access(store)
    asked = draft(6, 3, environments=2)
    episodes = OneVerifiesGroups()
    await BatchRun(mine, await open_plan(store, asked, mine.clock), episodes, Routed(), QUICK).run()
    await assert_exactly_once(store)
    verified = {tuple(rollout.split("-")[1] for rollout in ids) for ids in episodes.verified}
    assert verified == {(str(task),) * 3 for task in (1, 3, 5, 7, 9, 11)}
