"""Plans: segments, growth, shards, and what two plans must share."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym.core.errors import PlanConflict
from kubegym.rollout.plan import (
    Plan,
    Retry,
    Segment,
    ShardPlan,
    Wanted,
    first_segments,
    grown_segments,
    plan_key,
    require_same,
)

pytestmark = pytest.mark.unit

NAMES = ("a", "b", "c")
counts = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 4)), min_size=1, max_size=3)
growths = st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=3, max_size=3), max_size=4)


def wanted(sizes: list[tuple[int, int]]) -> list[Wanted]:
    return [Wanted(name, rows, rollouts) for name, (rows, rollouts) in zip(NAMES, sizes, strict=False)]


def plan(segments: tuple[Segment, ...], generation: int = 1, step: int = 4, **changes: object) -> Plan:
    environments = tuple({"name": name, "version": "1"} for name in NAMES)
    made = Plan("0123456789abcdef", "test", environments, {"seed": 1}, segments, step, generation, created=5.0)
    return replace(made, **changes)  # type: ignore[arg-type]


def ids(plan: Plan) -> list[tuple[int, int]]:
    """Task and rollout of everything a generation plans, shard by shard."""
    return [
        (retry.task_index, retry.rollout_index)
        for shard in plan.work()
        for retry in map(shard.planned, range(shard.size))
    ]


def generations(sizes: list[tuple[int, int]], growth: list[list[tuple[int, int]]], step: int) -> list[Plan]:
    plans = [plan(first_segments(wanted(sizes), step), step=step)]
    for more in growth:
        sizes = [
            (rows + extra_rows, rollouts + extra)
            for (rows, rollouts), (extra_rows, extra) in zip(sizes, more, strict=False)
        ]
        segments = grown_segments(plans[-1].segments, wanted(sizes), step)
        if segments is not None:
            plans.append(plan(segments, len(plans) + 1, step))
    return plans


@given(counts, growths, st.integers(1, 7))
def test_over_all_generations_every_rollout_is_planned_exactly_once(
    sizes: list[tuple[int, int]], growth: list[list[tuple[int, int]]], step: int
) -> None:
    plans = generations(sizes, growth, step)
    final = [
        (rows + sum(more[n][0] for more in growth), rollouts + sum(more[n][1] for more in growth))
        for n, (rows, rollouts) in enumerate(sizes)
    ]
    every = [pair for one in plans for pair in ids(one)]
    assert len(set(every)) == len(every), "planned twice"
    assert len(every) == sum(rows * rollouts for rows, rollouts in final) == plans[-1].planned
    assert plans[-1].tasks == sum(rows for rows, _ in final)
    assert {task for task, _ in every} == set(range(plans[-1].tasks))
    for one in plans:
        assert len(ids(one)) == one.expected == sum(shard.size for shard in one.work())


@given(counts, growths, st.integers(1, 7))
def test_growth_moves_no_task(sizes: list[tuple[int, int]], growth: list[list[tuple[int, int]]], step: int) -> None:
    """Row, shard and environment of a task are the same in every generation that has it."""
    plans = generations(sizes, growth, step)
    seen: dict[int, tuple[str, int, int]] = {}
    for one in plans:
        for index in range(one.shards):
            shard = one.shard(index)
            assert 0 < shard.tasks <= step
            for offset in range(shard.tasks):
                task = shard.first_task + offset
                place = (shard.environment, shard.first_row + offset, index)
                assert one.shard_of(task) == index
                assert seen.setdefault(task, place) == place
        assert len(seen) == one.tasks
    rows = sorted((name, row) for name, row, _ in seen.values())
    assert len(set(rows)) == len(rows), "two tasks read one row"


@given(counts, growths, st.integers(1, 7))
def test_json_round_trip(sizes: list[tuple[int, int]], growth: list[list[tuple[int, int]]], step: int) -> None:
    for one in generations(sizes, growth, step):
        again = Plan.from_json(one.to_json())
        assert again == one
        assert again.digest == one.digest
        assert again.to_json() == one.to_json()


def test_a_retry_plan_survives_json_and_lies_in_the_shards_of_its_tasks() -> None:
    segments = tuple(replace(s, rollouts=(2, 2)) for s in first_segments([Wanted("a", 10, 2)], 4))
    retries = (Retry(1, 0, 1, "ModelTimeout"), Retry(1, 1, 3, "ModelTimeout"), Retry(9, 0, 1, "ToolCrashed"))
    one = plan(segments, 2, retries=retries)
    assert Plan.from_json(one.to_json()) == one
    assert one.expected == 3
    assert one.planned == 20
    shards = list(one.work())
    assert [(shard.index, shard.size) for shard in shards] == [(0, 2), (2, 1)]
    assert [shards[0].planned(n) for n in range(2)] == list(retries[:2])
    assert [shards[0].group_size(task) for task in (0, 1)] == [0, 2]
    assert list(plan(segments, 2, retries=()).work()) == []


def test_ordinals_run_task_by_task() -> None:
    shard = ShardPlan(3, "a", 12, 2, 0, (1, 3))
    assert [(r.task_index, r.rollout_index, r.attempt) for r in map(shard.planned, range(shard.size))] == [
        (12, 1, 0),
        (12, 2, 0),
        (13, 1, 0),
        (13, 2, 0),
    ]
    assert shard.group_size(12) == 2


def test_nothing_new_is_no_generation() -> None:
    segments = first_segments([Wanted("a", 10, 2), Wanted("b", 3, 1)], 4)
    assert grown_segments(segments, [Wanted("a", 10, 2), Wanted("b", 3, 1)], 4) is None
    grown = grown_segments(segments, [Wanted("a", 11, 2), Wanted("b", 3, 1)], 4)
    assert grown is not None
    assert grown_segments(grown, [Wanted("a", 11, 2), Wanted("b", 3, 1)], 4) is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([Wanted("a", 9, 2)], "rows of a cannot shrink from 10 to 9"),
        ([Wanted("a", 10, 1)], "rolloutsPerTask of a cannot shrink from 2 to 1"),
        ([Wanted("a", 0, 2)], "rows of a cannot shrink from 10 to 0"),
        ([Wanted("a", 99, 1)], "rolloutsPerTask of a cannot shrink from 2 to 1"),
    ],
)
def test_shrinking_is_refused_by_name(asked: list[Wanted], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grown_segments(first_segments([Wanted("a", 10, 2)], 4), asked, 4)


def test_a_task_that_is_not_there() -> None:
    with pytest.raises(IndexError, match="task 10 is not in the plan, which has 10 tasks"):
        plan(first_segments([Wanted("a", 10, 2)], 4)).shard_of(10)


def test_the_digest_is_of_what_is_collected_and_of_nothing_else() -> None:
    one = plan(first_segments([Wanted("a", 10, 2)], 4))
    assert one.digest == "19d4d1835ddacb401234710f77915b40"
    for same in ({"run_id": "other"}, {"created": 9.0}, {"name": "other"}, {"extra": {"x": 1}}):
        assert replace(one, **same).digest == one.digest  # type: ignore[arg-type]
    assert plan(one.segments, environments=tuple(reversed(one.environments))).digest == one.digest
    for other in (
        {"settings": {"seed": 2}},
        {"generation": 2},
        {"tasks_per_shard": 5},
        {"segments": first_segments([Wanted("a", 10, 3)], 4)},
        {"environments": ({"name": "a", "version": "2"},)},
        {"retries": (Retry(0, 0, 1),)},
    ):
        assert replace(one, **other).digest != one.digest  # type: ignore[arg-type]


def test_conflicts_name_the_fields() -> None:
    stored = plan(first_segments([Wanted("a", 10, 2)], 4))
    asked = plan(
        first_segments([Wanted("a", 10, 2)], 4),
        environments=({"name": "a", "version": "2"}, {"name": "b", "version": "1"}),
        settings={"seed": 1, "new": True},
    )
    with pytest.raises(PlanConflict) as caught:
        require_same(stored, asked, "runs/x")
    assert caught.value.differences == {
        "environments.a.version": ("1", "2"),
        "environments.c": ({"name": "c", "version": "1"}, None),
        "settings.new": (None, True),
    }
    assert "runs/x holds a run of a different plan" in str(caught.value)
    assert "environments.a.version: stored '1', asked for '2'" in str(caught.value)


def test_what_json_turns_into_something_else_is_no_conflict() -> None:
    stored = plan(first_segments([Wanted("a", 1, 1)], 4), settings={"sizes": (1, 2)})
    require_same(Plan.from_json(stored.to_json()), stored, "runs/x")
    with pytest.raises(PlanConflict, match=r"settings\.sizes: stored \[1, 2\], asked for \[1, 3\]"):
        require_same(Plan.from_json(stored.to_json()), replace(stored, settings={"sizes": (1, 3)}), "runs/x")


def test_keys() -> None:
    assert [plan_key(n) for n in (1, 2, 10)] == ["plan.json", "plan-2.json", "plan-10.json"]
