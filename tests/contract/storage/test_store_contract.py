"""What every store promises, asked of each: a folder, the in-memory twin, a real S3 server."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from kubegym.core.errors import ConditionalWritesUnsupported
from kubegym.storage import (
    Conflict,
    InvalidKey,
    MemoryStore,
    ObjectNotFound,
    ObjectStore,
    probe_conditional_writes,
)

pytestmark = pytest.mark.contract

RACERS = 20
ODD_KEYS = [
    "a b",
    "a+b=c,d@e",
    "100%25 of it",
    "q?x#y&z",
    "(1) [2] {3}",
    'it\'s "so"',
    "~tilde/.hidden/-dash",
    "<a|b>*",
    "a:b",
]
BAD_KEYS = ["", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\\b", "a\nb", "a\x00b", ".kubegym-tmp-1", "x" * 300]


async def keys_of(store: ObjectStore, prefix: str = "") -> list[str]:
    return sorted([key async for key in store.list(prefix)])


async def data_of(store: ObjectStore, key: str) -> bytes:
    stored = await store.get(key)
    assert stored is not None, f"{key} is absent"
    return stored.data


async def test_what_was_put_is_read(store: ObjectStore) -> None:
    etag = await store.put("shards/3/head.json", b"one")
    stored = await store.get("shards/3/head.json")
    assert stored is not None
    assert (stored.data, stored.etag) == (b"one", etag)
    assert isinstance(stored.data, bytes)


async def test_put_replaces_whatever_was_there(store: ObjectStore) -> None:
    first = await store.put("a", b"one")
    second = await store.put("a", b"two")
    assert first != second
    assert await data_of(store, "a") == b"two"


async def test_an_absent_object_is_none_or_not_found(store: ObjectStore) -> None:
    assert await store.get("nothing/here") is None
    with pytest.raises(ObjectNotFound):
        await store.get_range("nothing/here", 0, 1)
    with pytest.raises(ObjectNotFound):
        await store.get_range("nothing/here", 0, 0)
    await store.delete("nothing/here")


async def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    await store.put("empty", b"")
    assert await data_of(store, "empty") == b""
    assert await store.get_range("empty", 0, 5) == b""


async def test_create_refuses_an_existing_object(store: ObjectStore) -> None:
    etag = await store.create("plan.json", b"mine")
    with pytest.raises(Conflict):
        await store.create("plan.json", b"yours")
    stored = await store.get("plan.json")
    assert stored is not None
    assert (stored.data, stored.etag) == (b"mine", etag)


async def test_swap_needs_the_current_etag(store: ObjectStore) -> None:
    first = await store.create("head", b"1")
    second = await store.swap("head", b"2", first)
    with pytest.raises(Conflict):
        await store.swap("head", b"3", first)
    assert await data_of(store, "head") == b"2"
    await store.swap("head", b"4", second)
    assert await data_of(store, "head") == b"4"


async def test_swap_takes_the_etag_that_get_gave(store: ObjectStore) -> None:
    await store.put("head", b"1")
    stored = await store.get("head")
    assert stored is not None
    await store.swap("head", b"2", stored.etag)
    assert await data_of(store, "head") == b"2"


async def test_swap_of_an_absent_object_conflicts_and_makes_none(store: ObjectStore) -> None:
    etag = await store.create("head", b"1")
    await store.delete("head")
    with pytest.raises(Conflict):
        await store.swap("head", b"2", etag)
    with pytest.raises(Conflict):
        await store.swap("never/was", b"2", etag)
    assert await keys_of(store) == []


async def test_unique_bodies_make_swap_safe_where_etags_return(store: ObjectStore) -> None:
    # ETags may be digests: a -> b -> a can bring the first back, so a swapped body carries a nonce.
    first = await store.create("head", b'{"n":1,"nonce":"x"}')
    second = await store.swap("head", b'{"n":2,"nonce":"y"}', first)
    await store.swap("head", b'{"n":1,"nonce":"z"}', second)
    with pytest.raises(Conflict):
        await store.swap("head", b"late", first)


async def test_create_after_delete(store: ObjectStore) -> None:
    await store.create("a", b"1")
    await store.delete("a")
    assert await store.get("a") is None
    await store.create("a", b"2")
    assert await data_of(store, "a") == b"2"


async def test_one_of_many_concurrent_creates_wins(root, store: ObjectStore) -> None:
    others = [root.open() for _ in range(3)]
    stores = [store, *others]
    for round_ in range(5):
        key = f"race/{round_}"
        bodies = [f"{round_}-{racer}".encode() for racer in range(RACERS)]
        answers = await asyncio.gather(
            *(stores[racer % 4].create(key, body) for racer, body in enumerate(bodies)), return_exceptions=True
        )
        won = [body for body, answer in zip(bodies, answers, strict=True) if isinstance(answer, str)]
        assert len(won) == 1, answers
        assert sum(isinstance(answer, Conflict) for answer in answers) == RACERS - 1, answers
        assert await data_of(store, key) == won[0]
    for other in others:
        await other.close()


async def test_one_of_many_concurrent_swaps_wins(root, store: ObjectStore) -> None:
    others = [root.open() for _ in range(3)]
    stores = [store, *others]
    etag = await store.create("race", b"start")
    for round_ in range(5):
        bodies = [f"{round_}-{racer}".encode() for racer in range(RACERS)]
        answers = await asyncio.gather(
            *(stores[racer % 4].swap("race", body, etag) for racer, body in enumerate(bodies)), return_exceptions=True
        )
        won = [body for body, answer in zip(bodies, answers, strict=True) if isinstance(answer, str)]
        assert len(won) == 1, answers
        assert sum(isinstance(answer, Conflict) for answer in answers) == RACERS - 1, answers
        stored = await store.get("race")
        assert stored is not None
        assert stored.data == won[0]
        etag = stored.etag
    for other in others:
        await other.close()


async def test_readers_see_whole_objects_while_writers_write(root, store: ObjectStore) -> None:
    other = root.open()
    bodies = [bytes([65 + i]) * 100_000 for i in range(8)]
    await store.put("a", bodies[0])

    async def write() -> None:
        for body in bodies:
            await other.put("a", body)

    writing = asyncio.create_task(write())
    while not writing.done():
        assert await data_of(store, "a") in bodies
    await writing
    await other.close()


async def test_list_takes_a_folder(store: ObjectStore) -> None:
    keys = ["plan.json", "shards/3/0-1.zst", "shards/3/head.json", "shards/3/x/y", "shards/30/head.json", "shards.txt"]
    for key in keys:
        await store.put(key, b"1")
    assert await keys_of(store) == sorted(keys)
    assert await keys_of(store, "shards") == [key for key in sorted(keys) if key.startswith("shards/")]
    assert await keys_of(store, "shards/3") == ["shards/3/0-1.zst", "shards/3/head.json", "shards/3/x/y"]
    assert await keys_of(store, "shards/3/") == ["shards/3/0-1.zst", "shards/3/head.json", "shards/3/x/y"]
    assert await keys_of(store, "plan.json") == []
    assert await keys_of(store, "nothing") == []


async def test_list_of_more_than_a_page(store: ObjectStore) -> None:
    count = 1100  # S3 answers 1,000 at once
    await asyncio.gather(*(store.put(f"many/{index:04d}", b"") for index in range(count)))
    assert await keys_of(store, "many") == [f"many/{index:04d}" for index in range(count)]


async def test_ranges(store: ObjectStore) -> None:
    await store.put("a", b"0123456789")
    assert await store.get_range("a", 0, 10) == b"0123456789"
    assert await store.get_range("a", 3, 4) == b"3456"
    assert await store.get_range("a", 8, 100) == b"89"
    assert await store.get_range("a", 10, 1) == b""
    assert await store.get_range("a", 99, 1) == b""
    assert await store.get_range("a", 2, 0) == b""


async def test_a_writer_puts_its_object_in_place_at_the_end(store: ObjectStore) -> None:
    await store.put("rollouts.jsonl", b"old")
    async with store.writer("rollouts.jsonl") as writer:
        await writer.write(b"one\n")
        await writer.write(b"two\n")
        assert await data_of(store, "rollouts.jsonl") == b"old"
    assert await data_of(store, "rollouts.jsonl") == b"one\ntwo\n"
    assert await keys_of(store) == ["rollouts.jsonl"]


async def test_a_writer_of_nothing_makes_an_empty_object(store: ObjectStore) -> None:
    async with store.writer("deep/in/folders"):
        pass
    assert await data_of(store, "deep/in/folders") == b""


@pytest.mark.parametrize("size", [0, 10, 20 << 20])
async def test_an_aborted_writer_leaves_nothing(store: ObjectStore, size: int) -> None:
    async def write() -> None:
        async with store.writer("a") as writer:
            for _ in range(0, size, 1 << 20):
                await writer.write(b"x" * min(size, 1 << 20))
            raise RuntimeError("the block's own")

    with pytest.raises(RuntimeError, match="the block's own"):
        await write()
    assert await store.get("a") is None
    assert await keys_of(store) == []


async def test_a_cancelled_writer_leaves_nothing(store: ObjectStore) -> None:
    begun = asyncio.Event()

    async def write() -> None:
        async with store.writer("a") as writer:
            for _ in range(20):
                await writer.write(b"x" * (1 << 20))
            begun.set()
            await asyncio.Event().wait()

    writing = asyncio.create_task(write())
    await begun.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await store.get("a") is None
    assert await keys_of(store) == []


async def test_big_objects(store: ObjectStore) -> None:
    body = b"".join(index.to_bytes(4, "big") for index in range(3 << 20))  # 12 MB, no two words alike
    await store.put("put", body)
    assert await data_of(store, "put") == body
    async with store.writer("written") as writer:
        for start in range(0, len(body), 700_001):
            await writer.write(body[start : start + 700_001])
    assert await data_of(store, "written") == body
    assert await store.get_range("written", 8 << 20, 8) == body[8 << 20 : (8 << 20) + 8]
    await store.create("created", body)
    with pytest.raises(Conflict):
        await store.create("created", body)


@pytest.mark.parametrize("key", ODD_KEYS)
async def test_odd_keys_are_kept_as_they_are(store: ObjectStore, key: str) -> None:
    etag = await store.create(key, b"1")
    await store.swap(key, b"2", etag)
    assert await data_of(store, key) == b"2"
    assert await keys_of(store) == [key]
    await store.delete(key)
    assert await keys_of(store) == []


@pytest.mark.parametrize("key", BAD_KEYS)
async def test_bad_keys_are_refused(store: ObjectStore, key: str) -> None:
    for call in (
        store.get(key),
        store.get_range(key, 0, 1),
        store.put(key, b""),
        store.create(key, b""),
        store.delete(key),
    ):
        with pytest.raises(InvalidKey):
            await call
    with pytest.raises(InvalidKey):
        await store.swap(key, b"", "etag")
    with pytest.raises(InvalidKey):
        async with store.writer(key):
            pytest.fail("the writer of a bad key opened")


async def test_a_prefix_outside_the_root_is_refused(store: ObjectStore) -> None:
    with pytest.raises(InvalidKey):
        await keys_of(store, "../")


async def test_the_probe_passes_and_leaves_nothing(store: ObjectStore) -> None:
    await probe_conditional_writes(store)
    assert await keys_of(store) == []


class Unconditional(MemoryStore):
    """A store that takes conditional writes and ignores their conditions, as some S3-compatible servers do."""

    async def create(self, key: str, data: bytes) -> str:
        return await self.put(key, data)

    async def swap(self, key: str, data: bytes, etag: str) -> str:
        return await self.put(key, data)


class OnlyCreates(MemoryStore):
    """If-None-Match is honoured and If-Match ignored, as by S3 itself before November 2024."""

    async def swap(self, key: str, data: bytes, etag: str) -> str:
        return await self.put(key, data)


class SwapsMake(MemoryStore):
    """A swap of an absent object makes one."""

    async def swap(self, key: str, data: bytes, etag: str) -> str:
        return await (super().swap(key, data, etag) if key in self.objects else self.put(key, data))


class Mendacious(MemoryStore):
    """Refuses in words, and overwrites all the same."""

    async def create(self, key: str, data: bytes) -> str:
        try:
            return await super().create(key, data)
        except Conflict:
            await self.put(key, data)
            raise

    async def swap(self, key: str, data: bytes, etag: str) -> str:
        try:
            return await super().swap(key, data, etag)
        except Conflict:
            await self.put(key, data)
            raise


@pytest.mark.parametrize("kind", [Unconditional, OnlyCreates, SwapsMake, Mendacious])
async def test_a_store_without_conditional_writes_is_refused(kind: type[MemoryStore]) -> None:
    store = kind(f"memory://{uuid.uuid4().hex}")
    with pytest.raises(ConditionalWritesUnsupported, match=store.url):
        await probe_conditional_writes(store)
    assert store.objects == {}
