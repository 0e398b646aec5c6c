"""What the rollout engine asks of a store: conditional writes on whole objects (DESIGN section 6)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Stored:
    """An object's bytes and the ETag under which they were read."""

    data: bytes
    etag: str


class ObjectWriter(Protocol):
    """A large object being written in order; it appears, whole, when the block ends without an error."""

    async def write(self, data: bytes) -> None:
        """Append bytes."""
        ...


class ObjectStore(Protocol):
    """Objects below one root, by relative key (``shards/3/head.json``).

    Keys are relative, of parts between ``/``; ``storage.keys`` says what may be one, and InvalidKey is raised for
    others. ``a`` and ``a/b`` cannot both be objects of a folder, nor of an S3 server on a file system. ETags may be
    digests of the content: an object that returns to earlier bytes may have its earlier ETag, so bodies that are
    swapped carry something unique. Stores are used from one event loop, in the process that made them (their threads
    do not survive ``fork``).

    Every method may raise StoreError (``retryable`` tells whether to try again). Bounded retries of trouble that is
    plainly transient happen inside; an ambiguous write is *not* hidden: a conditional write that was retried may
    answer Conflict although it took effect, so callers read again and look for their nonce.
    """

    url: str
    """The root, as the user would write it: a folder or ``s3://bucket/prefix``."""

    async def get(self, key: str) -> Stored | None:
        """The object, or None where there is none."""
        ...

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start`` (fewer at the end of the object). Raises ObjectNotFound."""
        ...

    async def put(self, key: str, data: bytes) -> str:
        """Write, whatever was there. The new ETag. The object outlives this process from here on."""
        ...

    async def create(self, key: str, data: bytes) -> str:
        """Write a new object. The ETag. Raises Conflict where there is one."""
        ...

    async def swap(self, key: str, data: bytes, etag: str) -> str:
        """Replace the object that has ``etag``. The new ETag. Raises Conflict where it has another, or is absent."""
        ...

    def list(self, prefix: str = "") -> AsyncIterator[str]:
        """Keys below a prefix, in no promised order.

        A prefix is a folder, with or without its last ``/``: ``shards/3`` has ``shards/3/head.json`` below it, but not
        itself and not ``shards/30/head.json``. The empty prefix is the root.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove the object, if there is one."""
        ...

    def writer(self, key: str) -> AbstractAsyncContextManager[ObjectWriter]:
        """Stream a large object into place, replacing what was there; nothing appears if the block raises."""
        ...

    async def close(self) -> None:
        """Free what the store holds."""
        ...
