"""Writing a head when the store's replies are unclear: it took effect exactly if the nonce is ours."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from kubegym.core.errors import StoreError
from kubegym.rollout import Fenced, StoreAccess
from kubegym.rollout.head import Head, Holder, Part, Totals, claimed, committed, head_key, part_key
from kubegym.rollout.plan import ShardPlan
from kubegym.rollout.reader import read_parts
from kubegym.rollout.shard import OpenShard, claim_shard
from kubegym.storage import MemoryStore
from kubegym.storage.errors import StoreDenied, StoreFull
from kubegym.storage.faults import Fault, FaultyStore, Rule, Script
from kubegym.storage.protocol import ObjectStore, Stored
from testbed.episodes import scored
from testbed.poison import assignment_of
from testbed.runs import access

pytestmark = [pytest.mark.unit, pytest.mark.looptime]

KEY = head_key(0)
PLAN = ShardPlan(0, "e", 0, 4, 0, (0, 1))
WRITES = frozenset({"create", "swap"})


def first(nonce: str = "mine", holder: Holder | None = None) -> Head:
    return claimed(
        None,
        run_id="r" * 32,
        shard=0,
        generation=1,
        size=4,
        holder=holder or Holder("job/a", "pod-0"),
        nonce=nonce,
        lease_expires=1e12,
        ceiling=4,
    )


def following(head: Head, nonce: str) -> Head:
    return committed(head, part=None, settled=[], totals=Totals(), nonce=nonce, lease_expires=1e12)


def faulty(store: ObjectStore, *rules: Rule) -> tuple[StoreAccess, FaultyStore]:
    wrapped = FaultyStore(store, Script(*rules))
    return access(wrapped), wrapped


async def stored(store: ObjectStore) -> tuple[Head, str]:
    found = await store.get(KEY)
    assert found is not None
    return Head.from_json(found.data), found.etag


UNCLEAR = [Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.REPEAT, Fault.REPEAT_LATE, Fault.DELAY]


@pytest.mark.parametrize("fault", UNCLEAR)
@pytest.mark.parametrize("times", [1, 3])
async def test_a_create_goes_through_whatever_becomes_of_its_reply(fault: Fault, times: int) -> None:
    store = MemoryStore()
    mine, _ = faulty(store, Rule(fault, operations=WRITES, times=times, seconds=2.0))
    etag = await mine.write_head(first(), None)
    assert await stored(store) == (first(), etag)


@pytest.mark.parametrize("fault", UNCLEAR)
@pytest.mark.parametrize("times", [1, 3])
async def test_a_swap_goes_through_whatever_becomes_of_its_reply(fault: Fault, times: int) -> None:
    store = MemoryStore()
    before = await access(store).write_head(first(), None)
    mine, _ = faulty(store, Rule(fault, operations=WRITES, times=times, seconds=2.0))
    second = following(first(), "2")
    etag = await mine.write_head(second, before)
    assert await stored(store) == (second, etag)
    third = following(second, "3")
    await asyncio.sleep(5.0)  # a late repeat arrives
    await mine.write_head(third, etag)
    assert (await stored(store))[0] == third


@pytest.mark.parametrize("fault", UNCLEAR)
async def test_whoever_lost_the_head_is_fenced_and_changes_nothing(fault: Fault) -> None:
    store = MemoryStore()
    before = await access(store).write_head(first(), None)
    theirs = following(first(), "theirs")
    await store.swap(KEY, theirs.to_json(), before)
    mine, _ = faulty(store, Rule(fault, operations=WRITES, seconds=2.0))
    with pytest.raises(Fenced, match="shard 0 was taken over while epoch 1"):
        await mine.write_head(following(first(), "mine"), before)
    await asyncio.sleep(5.0)
    assert (await stored(store))[0] == theirs


@pytest.mark.parametrize("fault", UNCLEAR)
async def test_a_create_that_came_second_is_fenced(fault: Fault) -> None:
    store = MemoryStore()
    theirs = first("theirs")
    await store.create(KEY, theirs.to_json())
    mine, _ = faulty(store, Rule(fault, operations=WRITES, seconds=2.0))
    with pytest.raises(Fenced):
        await mine.write_head(first("mine"), None)
    assert (await stored(store))[0] == theirs


async def test_a_head_that_is_gone_is_a_lost_head() -> None:
    store = MemoryStore()
    etag = await access(store).write_head(first(), None)
    await store.delete(KEY)
    with pytest.raises(Fenced):
        await access(store).write_head(following(first(), "2"), etag)


async def test_patience_ends_with_the_stores_own_error() -> None:
    store = MemoryStore()
    mine, wrapped = faulty(store, Rule(Fault.LOSE_REQUEST, operations=WRITES, times=1000))
    with pytest.raises(StoreError, match="did not reach the store"):
        await mine.write_head(first(), None)
    assert sum(operation == "create" for operation, _ in wrapped.log) == mine.backoff.attempts


async def test_a_read_that_fails_in_between_is_tried_again() -> None:
    store = MemoryStore()
    mine, _ = faulty(
        store,
        Rule(Fault.LOSE_REPLY, operations=WRITES),
        Rule(Fault.LOSE_REQUEST, operations=frozenset({"get"}), times=3),
    )
    await mine.write_head(first(), None)
    assert (await stored(store))[0] == first()


@pytest.mark.parametrize("error", [StoreFull, StoreDenied])
async def test_what_cannot_get_better_is_not_tried_again(error: type[StoreError]) -> None:
    class Refusing(MemoryStore):
        tries = 0

        async def create(self, key: str, data: bytes) -> str:
            self.tries += 1
            raise error("no")

    store = Refusing()
    with pytest.raises(error):
        await access(store).write_head(first(), None)
    assert store.tries == 1


async def test_unclear_writes_are_counted() -> None:
    seen: list[int] = []
    mine, _ = faulty(MemoryStore(), Rule(Fault.LOSE_REPLY, operations=WRITES, times=1))
    await replace(mine, conflicted=lambda: seen.append(1)).write_head(first(), None)
    assert len(seen) == 1


# The shard on top of it


async def claim(mine: StoreAccess, run_id: str = "r" * 32) -> OpenShard:
    shard = await claim_shard(mine, PLAN, run_id=run_id, generation=1, ceiling=2)
    assert shard is not None
    return shard


def record(shard: OpenShard, ordinal: int) -> None:
    attempt = scored(assignment_of(ordinal))
    shard.record(ordinal, b'{"n":%d}\n' % ordinal, attempt, final=True, now=0.0)


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.REPEAT, Fault.REPEAT_LATE])
@pytest.mark.parametrize("nth", range(1, 7))
async def test_every_result_is_in_exactly_one_part(fault: Fault, nth: int) -> None:
    store = MemoryStore()
    mine, _ = faulty(store, Rule(fault, nth=nth, seconds=1.0))
    shard = await claim(mine)
    for ordinal in range(3):
        record(shard, ordinal)
        await shard.flush()
    await shard.release()
    head, _ = await stored(store)
    assert head == shard.head
    assert (head.state, head.settled, head.totals.scored) == ("Released", 0b111, 3)
    assert await read_parts(store, head.parts) == [b'{"n":%d}\n' % n for n in range(3)]


async def test_results_whose_part_was_not_written_stay_for_the_next_flush() -> None:
    store = MemoryStore()
    mine, _ = faulty(store, Rule(Fault.LOSE_REQUEST, key="*.zst", times=access(store).backoff.attempts))
    shard = await claim(mine)
    record(shard, 0)
    with pytest.raises(StoreError):
        await shard.flush()
    assert shard.pending_bytes > 0
    record(shard, 1)
    await shard.release()
    head, _ = await stored(store)
    assert head.settled == 0b11
    assert await read_parts(store, head.parts) == [b'{"n":0}\n', b'{"n":1}\n']


async def test_the_fenced_lose_only_what_was_not_committed() -> None:
    store = MemoryStore()
    victim = await claim(replace(access(store), lease_seconds=0.0))
    record(victim, 0)
    await victim.flush()
    record(victim, 1)
    heir = await claim(access(store, worker="heir"))
    assert heir.head.epoch == 2
    assert heir.suspects == [1]
    with pytest.raises(Fenced):
        await victim.flush()
    with pytest.raises(Fenced):
        await victim.renew()
    with pytest.raises(Fenced):
        await victim.release()
    for ordinal in (1, 2, 3):
        record(heir, ordinal)
    await heir.flush()
    head, _ = await stored(store)
    assert (head.state, head.epoch, head.totals.scored) == ("Committed", 2, 4)
    assert [part.key for part in head.parts] == [part_key(0, 1, 0), part_key(0, 2, 0)]
    await heir.release()
    assert (await stored(store))[0] == head, "a committed head is left as it is"


async def test_two_flushes_at_once_do_not_mix() -> None:
    store = MemoryStore()
    shard = await claim(access(store))
    record(shard, 0)
    one = asyncio.create_task(shard.flush())
    for _ in range(3):  # turns of the loop, until the first flush has what is there
        await asyncio.sleep(0)
    assert shard.pending_bytes == 0
    record(shard, 1)
    await asyncio.gather(one, shard.flush(), shard.renew())
    head, _ = await stored(store)
    assert head.settled == 0b11
    assert [part.rows for part in head.parts] == [1, 1]


async def test_only_one_of_many_claims_wins() -> None:
    store = MemoryStore()
    claims = [
        claim_shard(access(store, worker=f"w{n}"), PLAN, run_id="r" * 32, generation=1, ceiling=2, expect_absent=True)
        for n in range(20)
    ]
    shards = [shard for shard in await asyncio.gather(*claims) if shard is not None]
    assert len(shards) == 1
    assert (await stored(store))[0] == shards[0].head


async def test_a_part_is_described_as_it_was_written() -> None:
    store = MemoryStore()
    shard = await claim(access(store))
    record(shard, 0)
    await shard.flush()
    (part,) = shard.head.parts
    written: Stored | None = await store.get(part.key)
    assert written is not None
    assert isinstance(part, Part)
    assert (part.rows, part.size, part.generation) == (1, len(written.data), 1)
