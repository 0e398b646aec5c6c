"""A folder as an object store: atomic files and compare-and-swap between processes.

A write goes to a hidden file in the object's own folder, is synced, and takes the object's name in one step. It
survives the death of the process at once. The name itself is left to the file system's journal, which keeps the order
of names: after a power failure the folder may be some seconds older, but never holds a later write without an earlier
one, or a name without its bytes. A run loses nothing but those seconds (docs/adr/0006).

All writes below one folder exclude each other by a lock on that folder itself (``flock`` on its descriptor), so that
``swap`` compares and replaces in one step also between processes, a killed process frees its lock, and no lock file is
left among the results. What a killed process leaves is at most a hidden file that nobody reads or lists.

The guarantee needs a file system with ``flock`` and hard links that all writers share: local disks, not NFS.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from kubegym.core.errors import StoreError
from kubegym.core.ids import digest
from kubegym.storage.errors import Conflict, ObjectNotFound, StoreDenied, StoreFull, forked
from kubegym.storage.keys import TEMPORARY_PREFIX, check_key, check_prefix
from kubegym.storage.protocol import ObjectWriter, Stored

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_LOCK_SECONDS = 60.0  # a lock is held for one write; whoever holds it longer is stopped or its disk is
_LIST_BATCH = 1000  # keys listed in one visit to the thread
_WRITE_BYTES = 1 << 20  # a writer collects this much before it visits the thread
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_SHAPE = frozenset({errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP})
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def store_error(error: OSError) -> StoreError:
    """The storage error that an operating system error means."""
    if error.errno in _FULL:
        return StoreFull(f"no space left: {error}")
    if error.errno in _DENIED:
        return StoreDenied(f"not permitted: {error}")
    if error.errno in _SHAPE:  # an object stands where a folder must be, or the reverse: no retry mends that
        return StoreError(str(error), retryable=False)
    return StoreError(str(error))


class LocalStore:
    """Objects as files below a folder.

    Blocking calls run in order in one thread of the store's own, so the event loop never waits for a disk. The thread
    does not survive ``fork``: create the store in the process that uses it.

    ETags are digests of the content, so an object that returns to earlier bytes has its earlier ETag (the engine's
    bodies carry a nonce).

    Args:
        root: the folder; made, with its parents, by the first write.
    """

    def __init__(self, root: Path) -> None:
        self.url = str(root)
        self._folder = _Folder(os.path.abspath(root))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kubegym-store")
        self._process = os.getpid()

    def __repr__(self) -> str:
        return f"LocalStore({self.url!r})"

    async def get(self, key: str) -> Stored | None:
        """See ``ObjectStore.get``."""
        return await self._call(self._folder.read, check_key(key))

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """See ``ObjectStore.get_range``."""
        return await self._call(self._folder.read_range, check_key(key), start, length)

    async def put(self, key: str, data: bytes) -> str:
        """See ``ObjectStore.put``."""
        return await self._call(self._folder.put, check_key(key), data)

    async def create(self, key: str, data: bytes) -> str:
        """See ``ObjectStore.create``."""
        return await self._call(self._folder.create, check_key(key), data)

    async def swap(self, key: str, data: bytes, etag: str) -> str:
        """See ``ObjectStore.swap``."""
        return await self._call(self._folder.swap, check_key(key), data, etag)

    async def list(self, prefix: str = "") -> AsyncIterator[str]:
        """See ``ObjectStore.list``. Objects that come or go meanwhile may or may not be among the keys."""
        keys = self._folder.walk(check_prefix(prefix))

        def batch() -> tuple[str, ...]:
            return tuple(itertools.islice(keys, _LIST_BATCH))

        while found := await self._call(batch):
            for key in found:
                yield key

    async def delete(self, key: str) -> None:
        """See ``ObjectStore.delete``."""
        await self._call(self._folder.delete, check_key(key))

    @asynccontextmanager
    async def writer(self, key: str) -> AsyncIterator[ObjectWriter]:
        """See ``ObjectStore.writer``."""
        file = _NewFile(self._folder, check_key(key))
        writer = _LocalWriter(self, file)
        try:
            await self._call(file.open)
            yield writer
            await writer.flush()
            await self._call(file.publish)
        except BaseException:
            # Runs after the step that was cancelled, if one was: the thread keeps the order.
            await self._call(file.abandon)
            raise

    async def close(self) -> None:
        """Wait for what is under way, then end the thread."""
        await asyncio.to_thread(self._thread.shutdown)

    async def _call(self, operation: Callable[[*Ts], T], *args: *Ts) -> T:
        if os.getpid() != self._process:  # else the call would wait for a thread that is not there
            raise forked(self.url)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, operation, *args)
        except OSError as error:
            raise store_error(error) from error


class _LocalWriter:
    """Hands what is written to the thread in large pieces."""

    def __init__(self, store: LocalStore, file: _NewFile) -> None:
        self._store = store
        self._file = file
        self._pending: list[bytes] = []
        self._size = 0

    async def write(self, data: bytes) -> None:
        self._pending.append(data)
        self._size += len(data)
        if self._size >= _WRITE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        data, self._pending, self._size = b"".join(self._pending), [], 0
        await self._store._call(self._file.append, data)


class _Folder:
    """The blocking half: what happens in the thread. Raises OSError besides our errors."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._token = os.urandom(6).hex()  # pids are not unique where containers share a volume
        self._serial = itertools.count()

    def read(self, key: str) -> Stored | None:
        try:
            data = _read_file(f"{self._root}/{key}")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        return Stored(data, digest(data))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        try:
            descriptor = os.open(f"{self._root}/{key}", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ObjectNotFound(f"{self._root}/{key} does not exist") from error
        try:
            # Clipped, because pread sets the whole length aside before it reads.
            return os.pread(descriptor, max(0, min(length, os.fstat(descriptor).st_size - start)), start)
        except IsADirectoryError as error:
            raise ObjectNotFound(f"{self._root}/{key} is a folder") from error
        finally:
            os.close(descriptor)

    def put(self, key: str, data: bytes) -> str:
        with self.locked(key) as (folder, name):
            self._replace(folder, name, data)
        return digest(data)

    def create(self, key: str, data: bytes) -> str:
        with self.locked(key) as (folder, name):
            try:
                # Spares a loser the write. The link below decides, also against writers that take no lock.
                os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                temporary = self.write_temporary(folder, data)
                try:
                    os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
                except FileExistsError as error:
                    raise Conflict(f"{self._root}/{key} exists already") from error
                finally:
                    os.unlink(temporary, dir_fd=folder)
                return digest(data)
            raise Conflict(f"{self._root}/{key} exists already")

    def swap(self, key: str, data: bytes, etag: str) -> str:
        with self.locked(key) as (folder, name):
            try:
                current = digest(_read_file(name, folder))
            except (FileNotFoundError, IsADirectoryError) as error:
                raise Conflict(f"{self._root}/{key} does not exist") from error
            if current != etag:
                raise Conflict(f"{self._root}/{key} has changed: its ETag is {current}, not {etag}")
            self._replace(folder, name, data)
        return digest(data)

    def delete(self, key: str) -> None:
        try:
            with self.locked(key, make=False) as (folder, name):
                os.unlink(name, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return

    def walk(self, folder: str) -> Iterator[str]:
        """Keys below a folder, one folder in memory at a time."""
        pending = [folder]
        while pending:
            folder = pending.pop()
            try:
                with os.scandir(f"{self._root}/{folder}") as entries:
                    found = [(entry.name, entry.is_dir()) for entry in entries]
            except (FileNotFoundError, NotADirectoryError):
                continue
            for name, is_folder in found:
                key = f"{folder}/{name}" if folder else name
                if is_folder:
                    pending.append(key)
                elif not name.startswith(TEMPORARY_PREFIX):
                    yield key

    @contextmanager
    def locked(self, key: str, *, make: bool = True) -> Iterator[tuple[int, str]]:
        """The object's folder (a descriptor) and name in it, with every other writer kept out."""
        above, _, name = key.rpartition("/")
        descriptor = self.open_folder(f"{self._root}/{above}", make=make)
        try:
            _lock(descriptor, f"{self._root}/{above}")
            yield descriptor, name
        finally:
            os.close(descriptor)  # and frees the lock

    def open_folder(self, path: str, *, make: bool = True) -> int:
        try:
            return os.open(path, _FOLDER)
        except FileNotFoundError:
            if not make:
                raise
        os.makedirs(path, exist_ok=True)
        return os.open(path, _FOLDER)

    def new_name(self) -> str:
        return f"{TEMPORARY_PREFIX}{self._token}-{next(self._serial)}"

    def write_temporary(self, folder: int, data: bytes) -> str:
        """Write a hidden file, durably. Its name."""
        temporary = self.new_name()
        descriptor = os.open(temporary, _NEW_FILE, 0o666, dir_fd=folder)
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        except BaseException:
            os.unlink(temporary, dir_fd=folder)
            raise
        finally:
            os.close(descriptor)
        return temporary

    def _replace(self, folder: int, name: str, data: bytes) -> None:
        temporary = self.write_temporary(folder, data)
        _rename(folder, temporary, name)


class _NewFile:
    """A large object on its way: a hidden file until it is published. Lives in the thread."""

    def __init__(self, folder: _Folder, key: str) -> None:
        self._folder = folder
        self._key = key
        self._name = folder.new_name()
        self._above = -1
        self._file = -1

    def open(self) -> None:
        above = f"{self._folder._root}/{self._key.rpartition('/')[0]}"
        self._above = self._folder.open_folder(above)
        self._file = os.open(self._name, _NEW_FILE, 0o666, dir_fd=self._above)

    def append(self, data: bytes) -> None:
        _write_all(self._file, data)

    def publish(self) -> None:
        os.fsync(self._file)
        with self._folder.locked(self._key) as (folder, name):
            _rename(folder, self._name, name)
        self._close()

    def abandon(self) -> None:
        if self._file >= 0:
            with suppress(FileNotFoundError):  # published before the block was cancelled
                os.unlink(self._name, dir_fd=self._above)
        self._close()

    def _close(self) -> None:
        for descriptor in (self._file, self._above):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._above = -1


def _rename(folder: int, temporary: str, name: str) -> None:
    """Give a finished file its name; the file goes if it cannot have it."""
    try:
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(temporary, dir_fd=folder)
        raise


def _read_file(path: str, folder: int | None = None) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        size = os.fstat(descriptor).st_size
        data = os.read(descriptor, size + 1)  # files are replaced, never changed: one read is all of it,
        if len(data) == size:  # but for the 2 GiB that Linux reads at once
            return data
        pieces = [data]
        while piece := os.read(descriptor, 1 << 24):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    written = os.write(descriptor, data)
    if written < len(data):
        rest = memoryview(data)
        while written < len(data):
            written += os.write(descriptor, rest[written:])


def _lock(descriptor: int, path: str) -> None:
    """Lock a folder against other writers. Raises StoreError when one holds it too long (a stopped process)."""
    pause = 0.0005
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise StoreError(f"{path} has been locked by another process for {_LOCK_SECONDS:.0f} s") from error
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
