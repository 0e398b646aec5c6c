"""Each fault does what its name says, and the same seed does it again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from kubegym.core.errors import StoreError
from kubegym.storage import Conflict, MemoryStore, ObjectStore, probe_conditional_writes
from kubegym.storage.faults import (
    READS,
    WRITES,
    Fault,
    FaultyStore,
    Injected,
    RandomFaults,
    Rule,
    Script,
    SimulatedCrash,
)


def faulty(*rules: Rule) -> tuple[MemoryStore, FaultyStore]:
    inner = MemoryStore()
    return inner, FaultyStore(inner, Script(*rules))


async def test_without_faults_it_is_the_inner_store() -> None:
    inner, store = faulty()
    await probe_conditional_writes(store)
    async with store.writer("big") as writer:
        await writer.write(b"one")
        await writer.write(b"two")
    assert inner.objects == {"big": b"onetwo"}
    assert await store.get_range("big", 3, 3) == b"two"
    assert [key async for key in store.list()] == ["big"]
    assert store.log[-1] == ("list", "")
    assert store.url == inner.url
    await store.close()


async def test_a_lost_request_changes_nothing() -> None:
    inner, store = faulty(Rule(Fault.LOSE_REQUEST))
    with pytest.raises(StoreError) as caught:
        await store.create("a", b"1")
    assert caught.value.retryable
    assert inner.objects == {}
    await store.create("a", b"1")


async def test_a_lost_reply_hides_a_success() -> None:
    inner, store = faulty(Rule(Fault.LOSE_REPLY))
    with pytest.raises(StoreError, match="lost") as caught:
        await store.create("a", b"1")
    assert caught.value.retryable
    assert inner.objects == {"a": b"1"}
    with pytest.raises(Conflict):  # what the caller's own retry meets
        await store.create("a", b"1")


async def test_a_lost_reply_hides_a_refusal() -> None:
    inner, store = faulty(Rule(Fault.LOSE_REPLY, nth=2))
    await store.create("a", b"1")
    with pytest.raises(StoreError) as caught:
        await store.create("a", b"2")
    assert not isinstance(caught.value, Conflict)
    assert inner.objects == {"a": b"1"}


async def test_a_repeated_create_conflicts_with_itself() -> None:
    inner, store = faulty(Rule(Fault.REPEAT))
    with pytest.raises(Conflict):
        await store.create("a", b"1")
    assert inner.objects == {"a": b"1"}


async def test_a_repeated_swap_conflicts_with_itself() -> None:
    inner, store = faulty(Rule(Fault.REPEAT, operations=frozenset({"swap"})))
    etag = await store.create("a", b"1")
    with pytest.raises(Conflict):
        await store.swap("a", b"2", etag)
    assert inner.objects == {"a": b"2"}


@pytest.mark.looptime
async def test_a_late_repeat_overwrites_what_came_between() -> None:
    inner, store = faulty(Rule(Fault.REPEAT_LATE, seconds=5))
    await store.put("a", b"old")
    await store.put("a", b"new")
    assert inner.objects == {"a": b"new"}
    await asyncio.sleep(6)
    assert inner.objects == {"a": b"old"}


@pytest.mark.looptime
async def test_a_late_repeat_of_a_swap_is_refused() -> None:
    inner, store = faulty(Rule(Fault.REPEAT_LATE, operations=frozenset({"swap"}), seconds=5))
    first = await store.create("a", b"1")
    second = await store.swap("a", b"2", first)
    await store.swap("a", b"3", second)
    await store.close()  # delivers what is under way
    assert inner.objects == {"a": b"3"}


@pytest.mark.looptime
async def test_a_delay_passes_in_the_loop_s_time() -> None:
    _, store = faulty(Rule(Fault.DELAY, seconds=30))
    began = asyncio.get_running_loop().time()
    await store.put("a", b"1")
    assert asyncio.get_running_loop().time() - began >= 30


@pytest.mark.parametrize(("fault", "stored"), [(Fault.CRASH_BEFORE, {}), (Fault.CRASH_AFTER, {"a": b"1"})])
async def test_a_crash_ends_the_caller_for_good(fault: Fault, stored: dict[str, bytes]) -> None:
    inner, store = faulty(Rule(fault))
    with pytest.raises(SimulatedCrash):
        await store.create("a", b"1")
    assert inner.objects == stored
    with pytest.raises(SimulatedCrash):
        await store.get("a")
    assert len(store.log) == 1, "a dead process asks for nothing"


async def test_the_crash_may_be_one_s_own() -> None:
    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    store = FaultyStore(MemoryStore(), Script(Rule(Fault.CRASH_BEFORE)), crash=kill)
    with pytest.raises(Killed):
        await store.put("a", b"1")


async def test_a_writer_s_fault_strikes_at_its_end() -> None:
    inner, store = faulty(Rule(Fault.LOSE_REQUEST, operations=frozenset({"writer"})))
    context = store.writer("a")
    writer = await context.__aenter__()
    await writer.write(b"1")
    with pytest.raises(StoreError):
        await context.__aexit__(None, None, None)
    assert inner.objects == {}


async def test_a_rule_picks_its_operations() -> None:
    inner, store = faulty(
        Rule(Fault.LOSE_REQUEST, key="shards/*/head.json", operations=frozenset({"put"}), nth=2, times=2)
    )
    results = []
    for key in ("plan.json", "shards/1/head.json", "shards/2/head.json", "shards/3/head.json", "shards/4/head.json"):
        try:
            await store.put(key, b"1")
            results.append("ok")
        except StoreError:
            results.append("lost")
    assert results == ["ok", "ok", "lost", "lost", "ok"]
    assert len(inner.objects) == 3


async def test_reads_can_be_lost_but_not_doubled() -> None:
    _, store = faulty(Rule(Fault.LOSE_REQUEST, operations=READS), Rule(Fault.REPEAT, operations=READS, nth=2, times=9))
    with pytest.raises(StoreError):
        await store.get("a")
    assert await store.get("a") is None
    assert [key async for key in store.list()] == []


def drawn(seed: int, count: int = 300, operation: Callable[[int], str] = lambda _: "put") -> list[Injected | None]:
    schedule = RandomFaults(seed, {Fault.LOSE_REPLY: 0.1, Fault.LOSE_REQUEST: 0.1, Fault.DELAY: 0.2})
    return [schedule.next(operation(index), f"{index}") for index in range(count)]


def test_a_seed_says_it_all() -> None:
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    faults = [injected.fault for injected in drawn(1) if injected]
    assert set(faults) == {Fault.LOSE_REPLY, Fault.LOSE_REQUEST, Fault.DELAY}
    assert 60 < len(faults) < 180


def test_operations_left_alone_do_not_shift_the_others() -> None:
    schedule = RandomFaults(7, {Fault.LOSE_REPLY: 0.5}, operations=WRITES)
    mixed = [schedule.next("get" if index % 2 else "put", "k") for index in range(100)]
    again = RandomFaults(7, {Fault.LOSE_REPLY: 0.5})
    every = [again.next("put", "k") for index in range(100)]
    assert mixed[::2] == every[::2]
    assert set(mixed[1::2]) == {None}


def test_rates_are_probabilities() -> None:
    with pytest.raises(ValueError, match="probabilities"):
        RandomFaults(1, {Fault.DELAY: 0.7, Fault.REPEAT: 0.7})


@pytest.mark.looptime
@pytest.mark.parametrize("seed", range(20))
async def test_a_counter_with_a_nonce_survives_every_fault(seed: int) -> None:
    """The engine's way: after any unclear answer read again, and look for one's own nonce."""
    inner = MemoryStore()
    await inner.create("counter", b"0 start")
    rates = dict.fromkeys([Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.REPEAT, Fault.REPEAT_LATE, Fault.DELAY], 0.1)

    async def add(store: ObjectStore, name: str) -> None:
        for index in range(10):
            nonce = f"{name}-{index}"
            while True:
                try:
                    stored = await store.get("counter")
                    assert stored is not None
                    body = stored.data.split()
                    if nonce.encode() in body[1:]:
                        break
                    head = str(int(body[0]) + 1).encode()
                    await store.swap("counter", b" ".join([head, *body[1:], nonce.encode()]), stored.etag)
                    break
                except StoreError:
                    continue

    stores = [FaultyStore(inner, RandomFaults(seed * 10 + index, rates)) for index in range(3)]
    await asyncio.gather(*(add(store, f"w{index}") for index, store in enumerate(stores)))
    for store in stores:
        await store.close()
    count, *nonces = inner.objects["counter"].split()
    assert int(count) == 30
    assert len(nonces) == len(set(nonces)) == 31
