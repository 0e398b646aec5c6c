"""S3, GCS and Azure as object stores, through obstore (the Rust crate ``object_store``).

Requests run on threads of obstore's own, outside the GIL; only their completion reaches the event loop. Those threads
belong to the process that made its first request and do not survive ``fork``: a process forked later cannot use remote
stores at all, and is told so, where obstore would wait forever.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from kubegym.storage.clients import Connection
from kubegym.storage.errors import Conflict, ObjectNotFound, forked
from kubegym.storage.keys import check_key, check_prefix
from kubegym.storage.leave import wait_at_exit
from kubegym.storage.options import StoreOptions
from kubegym.storage.protocol import ObjectWriter, Stored
from kubegym.storage.remote_errors import http_status, remote_error

if TYPE_CHECKING:
    from obstore import PutResult
    from obstore.store import ObjectStore as Client

_PART_BYTES = 8 << 20  # of a multipart upload; S3 takes 10,000 parts, so objects up to 80 GB
_PARTS_AT_ONCE = 4
_UNSATISFIABLE = 416
_process: int | None = None  # the one that has obstore's threads, from its first request on


class RemoteStore:
    """Objects below a prefix of a bucket.

    Trouble that is plainly transient is retried inside, within ``options.retry``. A conditional write that was sent
    twice because its first answer was a 5xx may answer Conflict although it took effect; see ``ObjectStore``.

    ETags are the store's own, on GCS object generations. S3's are digests of the content: an object that returns to
    earlier bytes has its earlier ETag.

    Args:
        scheme: ``s3``, ``gs`` or ``az``.
        bucket: the bucket or container.
        prefix: the root below it, without slashes at its ends; may be empty.
        options: see ``StoreOptions``.
        rng: draws the pauses between tries.

    Raises:
        InvalidSpec: the options do not fit the kind of store.
    """

    def __init__(
        self, scheme: str, bucket: str, prefix: str, options: StoreOptions, *, rng: random.Random | None = None
    ) -> None:
        self.url = f"{scheme}://{bucket}/{prefix}".rstrip("/")
        self._connection = Connection(scheme, bucket, prefix, options)
        # GCS compares generations, the others entity tags.
        self._tag = "version" if scheme == "gs" else "e_tag"
        self._retry = options.retry
        self._rng = rng or random.Random()

    def __repr__(self) -> str:
        return f"RemoteStore({self.url!r})"

    @property
    def _client(self) -> Client:
        """The client, in a process that has obstore's threads. Raises StoreError (``StoreForked``) in others."""
        global _process
        here = os.getpid()
        if _process is None:
            _process = here
            wait_at_exit()
        elif _process != here:
            raise forked(self.url)
        return self._connection.client

    async def get(self, key: str) -> Stored | None:
        """See ``ObjectStore.get``."""
        import obstore

        try:
            result = await obstore.get_async(self._client, check_key(key))
            return Stored(bytes(await result.bytes_async()), str(result.meta[self._tag]))  # type: ignore[literal-required]
        except Exception as error:
            mapped = remote_error(error, self.url, key)
            if isinstance(mapped, ObjectNotFound):
                return None
            raise mapped from error

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """See ``ObjectStore.get_range``."""
        import obstore

        try:
            if length <= 0:  # not a range that HTTP can ask for
                await obstore.head_async(self._client, check_key(key))
                return b""
            return bytes(await obstore.get_range_async(self._client, check_key(key), start=start, length=length))
        except Exception as error:
            if http_status(error) == _UNSATISFIABLE:  # starts at or after the end
                return b""
            raise remote_error(error, self.url, key) from error

    async def put(self, key: str, data: bytes) -> str:
        """See ``ObjectStore.put``."""
        import obstore

        try:
            return self._etag(await obstore.put_async(self._client, check_key(key), data, use_multipart=False))
        except Exception as error:
            raise remote_error(error, self.url, key) from error

    async def create(self, key: str, data: bytes) -> str:
        """See ``ObjectStore.create``."""
        return await self._put_if(key, data, None)

    async def swap(self, key: str, data: bytes, etag: str) -> str:
        """See ``ObjectStore.swap``."""
        return await self._put_if(key, data, etag)

    async def list(self, prefix: str = "") -> AsyncIterator[str]:
        """See ``ObjectStore.list``."""
        import obstore

        try:
            async for chunk in obstore.list(self._client, check_prefix(prefix) or None, chunk_size=1000):
                for found in chunk:
                    yield found["path"]
        except Exception as error:
            raise remote_error(error, self.url, prefix) from error

    async def delete(self, key: str) -> None:
        """See ``ObjectStore.delete``."""
        import obstore

        try:
            await obstore.delete_async(self._client, check_key(key))
        except Exception as error:
            mapped = remote_error(error, self.url, key)
            if not isinstance(mapped, ObjectNotFound):
                raise mapped from error

    @asynccontextmanager
    async def writer(self, key: str) -> AsyncIterator[ObjectWriter]:
        """See ``ObjectStore.writer``. Uploads in parts; a block that raises aborts the upload on the server, too.

        What a killed process, or a server that failed half-way, leaves of an upload is invisible but stored: buckets
        should have a lifecycle rule that ends incomplete uploads.
        """
        writer = _PartWriter(self, check_key(key))
        try:
            yield writer
            await writer.finish()
        except BaseException:
            await writer.abort()
            raise

    async def close(self) -> None:
        """Nothing to free: connections close when the last store of the process goes."""

    async def _put_if(self, key: str, data: bytes, etag: str | None) -> str:
        """Write if the object has this ETag; None: if there is none. Raises Conflict if not.

        Two answers settle nothing, and then the object itself is looked at:

        - 409 to a create. S3's says that another write of the key is under way and asks to try again; Azure's, that the
          object exists. (A swap's 409 has been tried again by obstore.)
        - None. The write may have happened, or have been refused before its body was sent.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError

        check_key(key)
        mode: Any = "create" if etag is None else {self._tag: etag}
        for failures in range(1, self._retry.attempts + 1):
            try:
                return self._etag(await obstore.put_async(self._client, key, data, mode=mode, use_multipart=False))
            except Exception as error:
                trouble = remote_error(error, self.url, key)
                unanswered = http_status(error) is None
                disputed = etag is None and isinstance(error, AlreadyExistsError)
                if not trouble.retryable or not (unanswered or disputed):
                    raise trouble from error
                if await self._current_etag(key) != etag:
                    raise Conflict(f"{self.url}/{key} has been written, by this call or another") from error
                if unanswered or failures == self._retry.attempts:
                    raise trouble from error
            await asyncio.sleep(self._retry.delay(failures, self._rng))
        raise AssertionError("unreachable: the last try returns or raises")

    async def _current_etag(self, key: str) -> str | None:
        import obstore

        try:
            return str((await obstore.head_async(self._client, key))[self._tag])  # type: ignore[literal-required]
        except Exception as error:
            mapped = remote_error(error, self.url, key)
            if isinstance(mapped, ObjectNotFound):
                return None
            raise mapped from error

    def _etag(self, result: PutResult) -> str:
        return str(result[self._tag])  # type: ignore[literal-required]


class _PartWriter:
    """A multipart upload fed through a queue.

    obstore aborts an upload on the server when the iterator it reads from raises, but not when the upload is cancelled
    or dropped. So the upload is a task that nobody cancels, and giving up means raising inside its iterator.
    """

    def __init__(self, store: RemoteStore, key: str) -> None:
        self._store = store
        self._key = key
        self._pending: list[bytes] = []
        self._size = 0
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue(1)  # None: the end
        self._upload: asyncio.Task[PutResult] | None = None
        self._aborted = False

    async def write(self, data: bytes) -> None:
        self._pending.append(data)
        self._size += len(data)
        if self._size >= _PART_BYTES:
            await self._offer(self._taken())

    async def finish(self) -> None:
        if self._upload is None:  # small enough for a single request
            await self._store.put(self._key, self._taken())
            return
        if self._size:
            await self._offer(self._taken())
        await self._offer(None)
        try:
            await asyncio.shield(self._upload)
        except Exception as error:
            raise remote_error(error, self._store.url, self._key) from error

    async def abort(self) -> None:
        """End the upload, if one has begun, and wait until the server has forgotten it."""
        if self._upload is None:
            return
        self._aborted = True
        if self._parts.empty():
            self._parts.put_nowait(None)  # wakes the iterator
        await asyncio.wait({self._upload})
        if not self._upload.cancelled():  # as a closing loop does
            self._upload.exception()  # _Aborted, or what the caller has been told already

    def _taken(self) -> bytes:
        data, self._pending, self._size = b"".join(self._pending), [], 0
        return data

    async def _offer(self, part: bytes | None) -> None:
        if self._upload is None:
            self._upload = asyncio.create_task(self._run())
        putting = asyncio.create_task(self._parts.put(part))
        try:
            await asyncio.wait({putting, self._upload}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()  # of no effect once it is done
        if not putting.done() or (part is not None and self._upload.done()):
            error = self._upload.exception()
            assert isinstance(error, Exception), "an upload ends before its parts only by failing"
            raise remote_error(error, self._store.url, self._key) from error

    async def _run(self) -> PutResult:
        import obstore

        return await obstore.put_async(
            self._store._client,
            self._key,
            self._read_parts(),
            use_multipart=True,
            chunk_size=_PART_BYTES,
            max_concurrency=_PARTS_AT_ONCE,
        )

    async def _read_parts(self) -> AsyncIterator[bytes]:
        while (part := await self._parts.get()) is not None:
            if self._aborted:
                break
            yield part
        if self._aborted:
            raise _Aborted


class _Aborted(Exception):
    """Raised inside obstore's upload to make it abort."""
