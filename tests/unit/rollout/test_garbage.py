"""Which parts of a run no reader can ever see."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym.rollout.garbage import garbage, unreachable
from kubegym.rollout.head import Head, Holder, Part, State, head_key, part_key
from kubegym.rollout.reader import NoSuchRun
from kubegym.storage.memory import MemoryStore
from testbed.episodes import ScriptedEpisodes, draft
from testbed.runs import collect, rows_of

pytestmark = pytest.mark.unit

RUN = "run"


def head(epoch: int, *parts: tuple[int, int], state: State = "Claimed", run: str = RUN) -> Head:
    kept = tuple(Part(part_key(0, *each), 1, 1, "", 1) for each in parts)
    return Head(run, 0, 1, 1, state, epoch, 1, "n", Holder("h", "w"), 0.0, parts=kept)


def found(keys: list[str], of: Head) -> list[str]:
    return unreachable(keys, {0: of}, RUN)


LOST = part_key(0, 1, 1)
KEPT = part_key(0, 1, 0)


def test_a_fenced_worker_s_part_is_found() -> None:
    assert found([head_key(0), KEPT, LOST], head(2, (1, 0))) == [LOST]


def test_parts_that_are_not_compressed_are_found_too() -> None:
    plain = part_key(0, 1, 1, "none")
    assert found([plain, LOST, KEPT], head(2, (1, 0))) == sorted([plain, LOST])


def test_samples_go_with_their_part() -> None:
    samples = "shards/0/1-1.samples.arrow"
    assert found([samples, "shards/0/1-0.samples.arrow", LOST, KEPT], head(2, (1, 0))) == [LOST, samples]


def test_a_part_of_the_epoch_that_goes_on_may_be_on_its_way() -> None:
    assert found([LOST], head(1)) == []


def test_nothing_is_on_its_way_to_a_committed_shard_but_a_later_epoch_s() -> None:
    later = part_key(0, 2, 0)
    assert found([LOST, later], head(1, state="Committed")) == [LOST]


def test_shards_of_others_and_other_files_are_left_alone() -> None:
    strange = [
        "shards/0/notes.txt",
        "shards/0/1-1.jsonl.zst.bak",
        "shards/0/1-1.jsonl.gz",
        "manifest.json",
        part_key(7, 1, 1),
    ]
    assert found(strange, head(9)) == []
    assert found([LOST], head(9, run="another")) == []


PARTS = st.sets(st.tuples(st.integers(1, 5), st.integers(0, 3)))


@given(PARTS, PARTS, st.integers(1, 5), st.sampled_from(["Claimed", "Released", "Committed"]))
def test_what_a_head_has_is_never_found(
    kept: set[tuple[int, int]], stored: set[tuple[int, int]], epoch: int, state: State
) -> None:
    keys = [part_key(0, *each) for each in kept | stored]
    assert not {part_key(0, *each) for each in kept} & set(found(keys, head(epoch, *kept, state=state)))


@pytest.mark.looptime
async def test_only_what_no_reader_sees_is_found_in_a_run() -> None:
    store = MemoryStore()
    await collect(store, draft(6, rollouts=2), ScriptedEpisodes())
    before = await rows_of(store)
    assert await garbage(store) == []

    lost = part_key(0, 1, 99)  # as a worker leaves it that was killed between its two writes
    await store.create(lost, b"rows")
    assert await garbage(store) == [lost]
    for key in await garbage(store):
        await store.delete(key)
    assert await rows_of(store) == before


async def test_a_place_without_a_run() -> None:
    with pytest.raises(NoSuchRun):
        await garbage(MemoryStore())
