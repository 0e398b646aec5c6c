"""Reading a run: finished, interrupted or going on. Follows plan, heads and manifest; never lists the store."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import zstandard

from kubegym.core.errors import InputError, StoreError
from kubegym.core.ids import parse_rollout_id
from kubegym.rollout.head import Head, Part, head_key
from kubegym.rollout.manifest import Manifest, build_manifest, manifest_key
from kubegym.rollout.plan import Plan, plan_key
from kubegym.rollout.samples import decode, of_results, require_arrow, samples_key
from kubegym.storage.protocol import ObjectStore

if TYPE_CHECKING:
    import pyarrow

_MARK = b'"kubegym":{"schema":'
_ID = b'"rollout_id":"'


class NoSuchRun(InputError):
    """The place holds no run."""

    reason = "NoSuchRun"


class CorruptPart(StoreError):
    """A part is not what its manifest says."""

    reason = "CorruptPart"
    retryable = False


def rollout_key(line: bytes) -> tuple[int, int, int]:
    """``(task index, rollout index, attempt)`` of a row, without parsing it.

    ``build_row`` puts the ``kubegym`` object last, and inside a JSON string a quote is escaped, so the last mark in
    the line is the row's own.
    """
    start = line.index(_ID, line.rindex(_MARK)) + len(_ID)
    _, task, rollout, attempt = parse_rollout_id(line[start : line.index(b'"', start)].decode())
    return task, rollout, attempt


@dataclass(frozen=True)
class StoredRun:
    """A run as a store holds it: the newest generation's plan, its manifest where it is complete, else its heads."""

    store: ObjectStore
    plan: Plan
    manifest: Manifest
    open_ended: bool = False

    async def tasks(self, *, at_once: int = 4) -> AsyncIterator[list[bytes]]:
        """The run's results, task by task in order of task index: each task's rows as JSON lines by rollout index.

        A part holds attempts; a rollout's row is its last committed one (in an unfinished run that may be an attempt
        that is being made again). Memory holds a few shards.
        """
        shards = sorted(self.manifest.shards.items())
        ahead: list[asyncio.Task[list[bytes]]] = []
        try:
            for index in range(len(shards)):
                for _, parts in shards[index + len(ahead) : index + at_once]:
                    ahead.append(asyncio.create_task(read_parts(self.store, parts)))
                for lines in by_task(await ahead.pop(0)):
                    yield lines
        finally:
            for task in ahead:
                task.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)

    async def samples(self) -> AsyncIterator[pyarrow.Table]:
        """The token data of the run's results, a part at a time, shard by shard; none where none was kept.

        Of attempts that were made again nothing is left in it. See ``samples.encode`` for the columns.

        Raises:
            CorruptPart: a file is missing, or not what its head recorded.
            InvalidSpec: "MissingDependency", pyarrow is not installed.
        """
        for _, parts in sorted(self.manifest.shards.items()):
            if not any(part.samples for part in parts):
                continue
            require_arrow()
            results = {rollout_key(line) for lines in by_task(await read_parts(self.store, parts)) for line in lines}
            for part in parts:
                if part.samples is not None:
                    data = await _checked(self.store, samples_key(part.key), part.samples.sha256)
                    yield of_results(decode(data), results)

    async def attempts(self) -> AsyncIterator[bytes]:
        """Every committed attempt, retried ones included, shard by shard in the order of commit."""
        for _, parts in sorted(self.manifest.shards.items()):
            for line in await read_parts(self.store, parts):
                yield line


def by_task(lines: Sequence[bytes]) -> list[list[bytes]]:
    """Lines of a shard, in order of commit, as the final rows of its tasks."""
    last: dict[tuple[int, int], bytes] = {}
    for line in lines:
        task, rollout, _ = rollout_key(line)
        last[task, rollout] = line
    tasks: dict[int, list[bytes]] = {}
    for (task, _), line in sorted(last.items()):
        tasks.setdefault(task, []).append(line)
    return list(tasks.values())


async def read_parts(store: ObjectStore, parts: Sequence[Part]) -> list[bytes]:
    """The lines of parts, in order, each checked against its digest."""
    lines: list[bytes] = []
    for part in parts:
        body = await _checked(store, part.key, part.sha256)
        if part.compression == "zstd":
            body = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(body)).read()
        lines += body.splitlines(keepends=True)
    return lines


async def _checked(store: ObjectStore, key: str, sha256: str) -> bytes:
    """An object of a run. Raises CorruptPart where it is not what the head recorded."""
    stored = await store.get(key)
    if stored is None:
        raise CorruptPart(f"{store.url}/{key} is missing")
    if hashlib.sha256(stored.data).hexdigest() != sha256:
        raise CorruptPart(f"{store.url}/{key} does not have the digest that its head recorded")
    return stored.data


async def newest_plan(store: ObjectStore) -> Plan | None:
    """The plan of the newest generation, or None where there is no run. Tries n = 1, 2, ... until one is absent."""
    newest: Plan | None = None
    generation = 1
    while (stored := await store.get(plan_key(generation))) is not None:
        newest = Plan.from_json(stored.data)
        generation += 1
    return newest


async def read_run(store: ObjectStore) -> StoredRun:
    """The run a store holds, finished or not.

    Raises:
        NoSuchRun: there is no ``plan.json``.
    """
    plan = await newest_plan(store)
    if plan is None:
        raise NoSuchRun(f"{store.url} holds no run (there is no plan.json)")
    stored = await store.get(manifest_key(plan.generation))
    open_ended = bool(plan.extra.get("stream"))
    if stored is not None:
        return StoredRun(store, plan, Manifest.from_json(stored.data), open_ended)
    heads = await stream_heads(store) if open_ended else await plan_heads(store, plan.shards)
    return StoredRun(store, plan, build_manifest(plan, heads, 0.0, open_ended=open_ended), open_ended)


async def plan_heads(store: ObjectStore, shards: int, *, at_once: int = 64) -> dict[int, Head]:
    """The heads that exist among the first ``shards``, by index."""
    return await read_heads(store, range(shards), at_once=at_once)


async def read_heads(store: ObjectStore, shards: Sequence[int], *, at_once: int = 64) -> dict[int, Head]:
    """The heads that exist of some shards, by index."""
    heads: dict[int, Head] = {}
    for first in range(0, len(shards), at_once):
        indices = shards[first : first + at_once]
        found = await asyncio.gather(*(store.get(head_key(index)) for index in indices))
        heads.update((i, Head.from_json(head.data)) for i, head in zip(indices, found, strict=True) if head)
    return heads


async def stream_heads(store: ObjectStore, *, at_once: int = 64) -> dict[int, Head]:
    """All heads of a stream: its shards are numbered without gaps."""
    heads: dict[int, Head] = {}
    while True:
        first = len(heads)
        found = await asyncio.gather(*(store.get(head_key(first + offset)) for offset in range(at_once)))
        present = [head for head in found if head is not None]
        heads.update((first + offset, Head.from_json(head.data)) for offset, head in enumerate(present))
        if len(present) < at_once:
            return heads
