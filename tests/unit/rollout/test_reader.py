"""Reading runs: rows found without parsing them, last attempts, parts that are not what they should be."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym.core.ids import rollout_id
from kubegym.core.outcomes import Failure
from kubegym.core.protocols import Assignment, Attempt, EnvironmentInfo
from kubegym.core.rows import build_row, encode_row
from kubegym.rollout import BatchRun, NoSuchRun, open_plan, open_retry, read_run
from kubegym.rollout.garbage import garbage
from kubegym.rollout.reader import CorruptPart, by_task, newest_plan, plan_heads, rollout_key, stream_heads
from kubegym.storage import MemoryStore
from testbed.episodes import Rows, ScriptedEpisodes, draft, scored
from testbed.runs import QUICK, access, assert_exactly_once, collect, rows_of, until

pytestmark = pytest.mark.unit

INFO = EnvironmentInfo("e", "1", "e", "1", "e_simple_agent", "m")
RUN = "0123456789abcdef"
MARK = '"kubegym":{"schema":1,"run_id":"x","rollout_id":"deadbeef-99-9-a9"}'
IMPOSTOR: dict[str, Any] = {"schema": 1, "run_id": "x", "rollout_id": "deadbeef-99-9-a9"}


def line(row: dict[str, Any], attempt: Attempt | None = None, number: int = 2, info: EnvironmentInfo = INFO) -> bytes:
    assignment = Assignment("e", row, "t", 17, 3, rollout_id(RUN, 17, 3, number), number)
    return encode_row(build_row(assignment, attempt or scored(assignment), info, RUN))


def hostile() -> Attempt:
    """An attempt that says the marker wherever text may stand."""
    failure = Failure("tool", "Odd" + MARK, MARK, False, 2)
    return Attempt(
        "failed",
        failure=failure,
        response={"output": [{"text": MARK, "kubegym": IMPOSTOR}], MARK: MARK},
        params={"input": MARK, "kubegym": IMPOSTOR},
        fields={MARK: MARK, "nested": {"kubegym": IMPOSTOR}},
        usage={MARK: {"calls": 1}},
        turns=[{"policy_version": None, "note": MARK}],
    )


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"kubegym": IMPOSTOR},
        {"kubegym": IMPOSTOR, "after": {"kubegym": IMPOSTOR}},
        {"a": {"kubegym": IMPOSTOR}, "b": [{"kubegym": IMPOSTOR}]},
        {"text": MARK, MARK: MARK},
        {"kubegym": MARK},
        {"text": '\\"' + MARK + "\\", "rollout_id": "deadbeef-1-1"},
        {"_ng_rollout_index": 9, "_ng_attempt_index": 9},
    ],
)
@pytest.mark.parametrize("attempt", [None, hostile()])
def test_a_row_is_known_whatever_it_says(row: dict[str, Any], attempt: Attempt | None) -> None:
    assert rollout_key(line(row, attempt)) == (17, 3, 2)


texts = st.one_of(st.just(MARK), st.text(alphabet='"\\{}:,kubegymschema1', max_size=60), st.text(max_size=20))
values = st.recursive(
    st.one_of(texts, st.integers(-5, 5), st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(texts, st.just("kubegym")), inner, max_size=3),
        st.just(IMPOSTOR),
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.one_of(texts, st.just("kubegym")), values, max_size=5), values)
def test_a_row_is_known_whatever_its_input_and_verdict_are(row: dict[str, Any], value: Any) -> None:
    attempt = Attempt("unscored", fields={"value": value}, response={"output": [value]})
    assert rollout_key(line(row, attempt)) == (17, 3, 2)


def test_our_object_stands_last_and_results_of_an_earlier_run_are_not_echoed() -> None:
    """Rows of one run are input rows of the next."""
    earlier = {
        "kubegym": {"schema": 1, "outcome": "failed"},
        "reward": 0.0,
        "reward_components": {"a": 1.0},
        "mask_sample": True,
        "_ng_failure_class": "model_error",
        "_ng_failure_terminal": True,
        "_ng_attempt_index": 4,
        "mine": 1,
    }
    row = orjson.loads(line(earlier, number=0))
    assert list(row)[-1] == "kubegym"
    assert row["kubegym"]["outcome"] == "scored"
    assert row["mine"] == 1
    assert row.keys().isdisjoint(
        {"mask_sample", "_ng_failure_class", "_ng_failure_terminal", "_ng_attempt_index", "reward_components"}
    )


def short(task: int, rollout: int, attempt: int, mark: str = "") -> bytes:
    identity = rollout_id(RUN, task, rollout, attempt)
    return orjson.dumps({"mark": mark, "kubegym": {"schema": 1, "run_id": RUN, "rollout_id": identity}}) + b"\n"


def test_the_last_attempt_committed_is_the_result() -> None:
    lines = [short(1, 0, 0), short(0, 1, 0), short(1, 0, 1), short(0, 0, 0), short(1, 0, 2, "last")]
    assert by_task(lines) == [[short(0, 0, 0), short(0, 1, 0)], [short(1, 0, 2, "last")]]
    assert by_task([]) == []


@given(st.permutations([(task, rollout) for task in range(4) for rollout in range(12)]))
def test_tasks_and_rollouts_come_in_numeric_order(order: list[tuple[int, int]]) -> None:
    tasks = by_task([short(task, rollout, 0) for task, rollout in order])
    assert [[rollout_key(one)[:2] for one in lines] for lines in tasks] == [
        [(task, rollout) for rollout in range(12)] for task in range(4)
    ]


@pytest.mark.looptime
async def test_no_run() -> None:
    store = MemoryStore()
    assert await newest_plan(store) is None
    with pytest.raises(NoSuchRun, match="holds no run"):
        await read_run(store)


@pytest.mark.looptime
async def test_parts_may_lie_there_as_plain_lines_also_beside_compressed_ones() -> None:
    """A resume may ask for another compression: each part's name says how it is read."""
    store, asked = MemoryStore(), draft(12, 2)
    plain = replace(access(store), compression="none")
    first = BatchRun(
        plain, await open_plan(store, asked, plain.clock), ScriptedEpisodes(pause=lambda _: 1.0), Rows(), QUICK
    )
    task = asyncio.create_task(first.run())
    await until(lambda: any(key.endswith(".jsonl") for key in store.objects))
    first.stop()
    await task
    parts = [key for key in store.objects if key.endswith(".jsonl")]
    assert [orjson.loads(line)["kubegym"]["schema"] for line in store.objects[parts[0]].splitlines()]
    await collect(store, asked, ScriptedEpisodes())
    assert any(key.endswith(".jsonl.zst") for key in store.objects)
    assert len(await assert_exactly_once(store)) == 24
    assert await garbage(store) == []


@pytest.mark.looptime
@pytest.mark.parametrize("what", ["changed", "cut", "missing"])
async def test_a_part_that_is_not_what_it_was_is_an_error_not_a_smaller_result(what: str) -> None:
    store = MemoryStore()
    await collect(store, draft(12, 2), ScriptedEpisodes())
    key = next(key for key in store.objects if key.endswith(".zst") and key.startswith("shards/1/"))
    if what == "missing":
        await store.delete(key)
    else:
        data = store.objects[key]
        await store.put(key, data[:-3] if what == "cut" else bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(CorruptPart, match=key):
        await rows_of(store)


@pytest.mark.looptime
async def test_a_run_is_read_while_it_goes_on() -> None:
    """At every moment: what is read is consistent in itself, and never shrinks."""
    store = MemoryStore()
    mine = access(store)
    episodes = ScriptedEpisodes(pause=lambda a: 0.5 + a.task_index % 5)
    task = asyncio.create_task(
        BatchRun(mine, await open_plan(store, draft(40, 2), mine.clock), episodes, Rows(), QUICK).run()
    )
    seen: set[str] = set()
    while not task.done():
        await asyncio.sleep(0.7)
        run = await read_run(store)
        rows = [orjson.loads(one) async for lines in run.tasks() for one in lines]
        ids = {row["kubegym"]["rollout_id"] for row in rows}
        assert len(ids) == len(rows) == run.manifest.totals.settled
        assert seen <= ids
        seen = ids
        assert run.manifest.complete == (len(rows) == 80)
        assert [row["kubegym"]["task_index"] for row in rows] == sorted(row["kubegym"]["task_index"] for row in rows)
    assert len(await rows_of(store)) == 80


@pytest.mark.looptime
async def test_leaving_the_rows_early_leaves_nothing_behind() -> None:
    store = MemoryStore()
    await collect(store, draft(40, 1), ScriptedEpisodes())
    tasks = (await read_run(store)).tasks(at_once=4)
    assert len(await anext(tasks)) == 1
    before = len(asyncio.all_tasks())
    await tasks.aclose()  # type: ignore[attr-defined]
    assert len(asyncio.all_tasks()) <= before
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.looptime
async def test_a_retry_that_has_not_run_yet_still_shows_the_old_failures() -> None:
    store = MemoryStore()

    def fails(assignment: Assignment) -> Attempt:
        if assignment.task_index < 5:
            return Attempt("failed", failure=Failure("tool", "ToolCrashed", "no", False, assignment.attempt))
        return scored(assignment)

    await collect(store, draft(10, 1), ScriptedEpisodes(fails))
    mine = access(store)
    opened = await open_retry(store, [], mine.clock)
    assert opened is not None
    run = await read_run(store)
    assert run.plan.generation == 2
    assert not run.manifest.complete
    assert len(await rows_of(store)) == 10
    batch = BatchRun(mine, opened, ScriptedEpisodes(), Rows(), replace(QUICK, max_failed_fraction=0.2))
    await batch.run()
    assert batch.progress.resumed == 5
    assert [row["kubegym"]["outcome"] for row in await rows_of(store)] == ["scored"] * 10


@pytest.mark.looptime
async def test_heads_beyond_one_batch_of_reads() -> None:
    store = MemoryStore()
    await collect(store, draft(150, 1, tasks_per_shard=1), ScriptedEpisodes())
    assert sorted(await plan_heads(store, 150)) == list(range(150))
    assert sorted(await plan_heads(store, 64)) == list(range(64))
    assert sorted(await stream_heads(store)) == list(range(150))
