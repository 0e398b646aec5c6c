"""The in-memory twin of the stores: same semantics, no durability. For tests and ``memory://``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kubegym.core.ids import digest
from kubegym.storage.errors import Conflict, ObjectNotFound
from kubegym.storage.keys import check_key, check_prefix
from kubegym.storage.protocol import ObjectWriter, Stored


class MemoryStore:
    """Objects in a dictionary.

    Every operation gives way to the event loop once, before it takes effect, so that tasks interleave as they would at
    a real store. Unlike a folder it lets ``a`` and ``a/b`` both be objects, as S3 does.

    Args:
        url: what the store calls itself.
        objects: the bytes by key; shared by the stores that are given the same dictionary.
    """

    def __init__(self, url: str = "memory://", objects: dict[str, bytes] | None = None) -> None:
        self.url = url
        self.objects = {} if objects is None else objects

    def __repr__(self) -> str:
        return f"MemoryStore({self.url!r}, {len(self.objects)} objects)"

    async def get(self, key: str) -> Stored | None:
        """See ``ObjectStore.get``."""
        await self._turn(key)
        data = self.objects.get(key)
        return None if data is None else Stored(data, digest(data))

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """See ``ObjectStore.get_range``."""
        await self._turn(key)
        try:
            return self.objects[key][start : start + length]
        except KeyError as error:
            raise ObjectNotFound(f"{self.url}/{key} does not exist") from error

    async def put(self, key: str, data: bytes) -> str:
        """See ``ObjectStore.put``."""
        await self._turn(key)
        self.objects[key] = bytes(data)
        return digest(data)

    async def create(self, key: str, data: bytes) -> str:
        """See ``ObjectStore.create``."""
        await self._turn(key)
        if key in self.objects:
            raise Conflict(f"{self.url}/{key} exists already")
        self.objects[key] = bytes(data)
        return digest(data)

    async def swap(self, key: str, data: bytes, etag: str) -> str:
        """See ``ObjectStore.swap``."""
        await self._turn(key)
        current = self.objects.get(key)
        if current is None:
            raise Conflict(f"{self.url}/{key} does not exist")
        if digest(current) != etag:
            raise Conflict(f"{self.url}/{key} has changed: its ETag is {digest(current)}, not {etag}")
        self.objects[key] = bytes(data)
        return digest(data)

    async def list(self, prefix: str = "") -> AsyncIterator[str]:
        """See ``ObjectStore.list``."""
        folder = check_prefix(prefix)
        below = f"{folder}/" if folder else ""
        await asyncio.sleep(0)
        for key in [key for key in self.objects if key.startswith(below)]:
            yield key

    async def delete(self, key: str) -> None:
        """See ``ObjectStore.delete``."""
        await self._turn(key)
        self.objects.pop(key, None)

    @asynccontextmanager
    async def writer(self, key: str) -> AsyncIterator[ObjectWriter]:
        """See ``ObjectStore.writer``."""
        check_key(key)
        writer = _Pieces()
        yield writer
        await self.put(key, b"".join(writer.pieces))

    async def close(self) -> None:
        """Nothing to free: the objects stay."""

    async def _turn(self, key: str) -> None:
        check_key(key)
        await asyncio.sleep(0)


class _Pieces:
    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    async def write(self, data: bytes) -> None:
        self.pieces.append(bytes(data))
