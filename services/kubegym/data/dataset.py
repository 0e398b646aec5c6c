"""Datasets: rows by position, from local files or object storage, in memory that does not grow with them.

A plain JSON-lines file on a local disk is used where it lies. Everything else (objects of a store, zstd, Parquet,
shuffled order) is spooled once, streaming, to an unnamed file in the scratch folder, which disappears with the
process. What stays in memory is 8 bytes for every 32nd row, and 8 bytes a row where rows are shuffled (their line
numbers; 24 while the order is made).

Order of operations: shuffle, then ``offset``, then ``limit``. So a run whose ``limit`` grows keeps the rows it had
in their places (DESIGN section 6, "Ids").
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from array import array
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import orjson

from kubegym.core.errors import InvalidRows, InvalidSpec, RowProblem
from kubegym.data.lines import RowFile, RowIndex
from kubegym.data.shuffle import permutation
from kubegym.data.sources import (
    Format,
    Location,
    OpenStore,
    Zstd,
    default_store,
    format_of,
    local_bytes,
    locate,
    open_local,
    remote_bytes,
)
from kubegym.storage.options import StoreOptions

_GATHER = 1024  # rows moved into shuffled order between two turns of the event loop


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """What to read.

    Attributes:
        uri: a path, ``file://``, or an object's URL (``s3://bucket/rows.jsonl``).
        format: ``jsonl``, ``jsonl.zst`` or ``parquet``; None goes by the extension.
        sha256: the digest the source's bytes must have (hex), or None.
        offset: rows to leave out at the beginning.
        limit: rows to take at most.
        shuffle_seed: shuffle the whole dataset first, by this seed.
        revision: of an ``hf://`` repository: a commit, branch or tag.
        store: options for ``open_store`` (endpoint, region, credentials).
    """

    uri: str
    format: Format | None = None
    sha256: str | None = None
    offset: int = 0
    limit: int | None = None
    shuffle_seed: int | None = None
    revision: str | None = None
    store: StoreOptions | None = None


class Dataset(Protocol):
    """Rows of a dataset, as raw JSON.

    Attributes:
        source: its name in messages.
        digest: sha256 (hex) of the source's bytes as stored, also of those beyond ``limit``.
        rows: how many rows there are after ``offset`` and ``limit``.
    """

    source: str
    digest: str
    rows: int

    def iterate(self) -> AsyncIterator[tuple[int, bytes]]:
        """All rows in order, each with its 1-based line number in the source (Parquet: its row number)."""
        ...

    async def read(self, first: int, count: int) -> list[bytes]:
        """Rows by position, 0-based; fewer than ``count`` at the end."""
        ...

    async def close(self) -> None:
        """Free files."""
        ...


class MemoryDataset:
    """Rows given as Python dicts.

    Args:
        rows: the rows.
        source: their name in messages.
        limit: take so many from the beginning; the digest is of all, so that a limit may grow.

    Raises:
        InvalidRows: a row holds something JSON has no word for.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], *, source: str = "rows", limit: int | None = None) -> None:
        self.source = source
        self._lines: list[bytes] = []
        problems = []
        for number, row in enumerate(rows, 1):
            try:
                self._lines.append(orjson.dumps(row))
            except TypeError as error:
                problems.append(RowProblem(source, number, str(error)))
        if problems:
            raise InvalidRows(problems, len(problems))
        digest = hashlib.sha256()
        for line in self._lines:
            digest.update(line)
            digest.update(b"\n")
        self.digest = digest.hexdigest()
        self._lines = self._lines[:limit]
        self.rows = len(self._lines)

    async def iterate(self) -> AsyncIterator[tuple[int, bytes]]:
        """See ``Dataset``."""
        for number, line in enumerate(self._lines, 1):
            yield number, line

    async def read(self, first: int, count: int) -> list[bytes]:
        """See ``Dataset``."""
        return self._lines[max(first, 0) : max(first + count, 0)]

    async def close(self) -> None:
        """Nothing to free."""


class FileDataset:
    """Rows of a JSON-lines file: the source itself, or its spool."""

    def __init__(
        self, source: str, digest: str, file: BinaryIO, index: RowIndex, lines: Sequence[int] | None = None
    ) -> None:
        self.source = source
        self.digest = digest
        self.rows = index.rows
        self._file = file
        self._rows = RowFile(file.fileno(), index, source)
        self._lines = lines

    async def iterate(self) -> AsyncIterator[tuple[int, bytes]]:
        """See ``Dataset``."""
        position = 0
        for block in self._rows.blocks():
            for line, row in block:
                yield (line if self._lines is None else self._lines[position]), row
                position += 1
            await asyncio.sleep(0)

    async def read(self, first: int, count: int) -> list[bytes]:
        """See ``Dataset``."""
        return self._rows.read(first, count)

    async def close(self) -> None:
        """Close the file; a spool disappears."""
        self._file.close()


async def open_dataset(spec: DatasetSpec, *, scratch: Path, open_store: OpenStore | None = None) -> Dataset:
    """Open a dataset: read all of its bytes once, for the digest and to find the rows.

    Args:
        spec: what to read.
        scratch: a folder on a local disk for spools.
        open_store: opens object stores; default ``kubegym.storage.open_store``.

    Raises:
        InvalidSpec: missing (``DatasetNotFound``), unreadable, of unknown format, or not what ``sha256`` pins
            (``DatasetChanged``).
        InvalidRows: a line is longer than any row may be.
        StoreError: the object store did not answer.
    """
    if spec.offset < 0 or (spec.limit is not None and spec.limit < 0):
        raise InvalidSpec(f"dataset {spec.uri}: offset and limit must not be negative")
    place = locate(spec.uri, spec.revision, spec.store.endpoint if spec.store else None)
    opening = _Opening(spec, place, scratch, open_store or default_store)
    try:
        dataset = await opening.run()
    except BaseException:
        opening.close()
        raise
    return dataset


class _Opening:
    """The steps from a spec to an open dataset, and the files held until then."""

    def __init__(self, spec: DatasetSpec, location: Location, scratch: Path, open_store: OpenStore) -> None:
        self._spec = spec
        self._location = location
        self._scratch = scratch
        self._open_store = open_store
        self._files: list[BinaryIO] = []
        self._hash = hashlib.sha256()

    async def run(self) -> Dataset:
        spec, path = self._spec, self._location.path
        form = format_of(spec.uri, spec.format)
        original = None if path is None else self._keep(open_local(path, spec.uri))
        shuffled = spec.shuffle_seed is not None
        everything = RowIndex(spec.uri, stride=1)
        index = everything if shuffled else RowIndex(spec.uri, offset=spec.offset, limit=spec.limit)
        if form == "parquet":
            file = await self._spool_parquet(original, index)
        elif form == "jsonl.zst":
            file = await self._spool_zstd(original, index)
        elif original is not None:
            file = await self._scan(original, index)
        else:
            file = await self._spool_text(index)
        index.finish()
        digest = self._checked_digest()
        lines = None
        if shuffled:
            file, index, lines = await self._shuffle(file, index)
        for other in self._files:
            if other is not file:
                other.close()
        return FileDataset(spec.uri, digest, file, index, lines)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _keep(self, file: BinaryIO) -> BinaryIO:
        self._files.append(file)
        return file

    def _temporary(self) -> BinaryIO:
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._keep(tempfile.TemporaryFile(dir=self._scratch))

    async def _blocks(self, original: BinaryIO | None) -> AsyncIterator[bytes]:
        """Every byte of the source, hashed on the way."""
        if original is not None:
            blocks = local_bytes(original)
        else:
            blocks = remote_bytes(self._location, self._spec.uri, self._open_store, self._spec.store)
        async for block in blocks:
            self._hash.update(block)
            yield block

    async def _scan(self, original: BinaryIO, index: RowIndex) -> BinaryIO:
        async for block in self._blocks(original):
            index.feed(block)
        return original

    async def _spool_text(self, index: RowIndex) -> BinaryIO:
        """Copy up to the last row asked for; what lies behind is only hashed."""
        spool = self._temporary()
        async for block in self._blocks(None):
            if not index.full:
                spool.write(block)
                index.feed(block)
        spool.flush()
        return spool

    async def _spool_zstd(self, original: BinaryIO | None, index: RowIndex) -> BinaryIO:
        spool, zstd = self._temporary(), Zstd(self._spec.uri)
        async for block in self._blocks(original):
            if index.full:
                continue
            for text in zstd.feed(block):
                spool.write(text)
                index.feed(text)
                await asyncio.sleep(0)
                if index.full:
                    break
        if not index.full:
            zstd.finish()
        spool.flush()
        return spool

    async def _spool_parquet(self, original: BinaryIO | None, index: RowIndex) -> BinaryIO:
        from kubegym.data.parquet import parquet_lines

        copy = self._temporary() if original is None else None  # Parquet is read from its end
        async for block in self._blocks(original):
            if copy is not None:
                copy.write(block)
        file = original or copy
        assert file is not None
        file.flush()
        spool = self._temporary()
        for lines in parquet_lines(file, self._spec.uri):
            spool.write(lines)
            index.feed(lines)
            if index.full:
                break
            await asyncio.sleep(0)
        spool.flush()
        return spool

    def _checked_digest(self) -> str:
        digest, pinned = self._hash.hexdigest(), self._spec.sha256
        if pinned is not None and pinned.lower().removeprefix("sha256:") != digest:
            raise InvalidSpec(
                f"dataset {self._spec.uri} is not the one that was pinned: its sha256 is {digest}, wanted {pinned}",
                reason="DatasetChanged",
            )
        return digest

    async def _shuffle(self, file: BinaryIO, index: RowIndex) -> tuple[BinaryIO, RowIndex, Sequence[int]]:
        """Write the rows asked for in their shuffled order, so that blocks of them stay contiguous."""
        spec = self._spec
        assert spec.shuffle_seed is not None
        stop = None if spec.limit is None else spec.offset + spec.limit
        order = permutation(index.rows, spec.shuffle_seed)[spec.offset : stop]
        spool, starts, descriptor = self._temporary(), index.starts, file.fileno()
        chosen, lines = RowIndex(spec.uri), array("Q")
        for begin in range(0, len(order), _GATHER):
            for row in order[begin : begin + _GATHER]:
                end = starts[row + 1] if row + 1 < len(starts) else index.end
                # Blank lines may follow the row before the next one starts.
                line = os.pread(descriptor, end - starts[row], starts[row]).strip() + b"\n"
                spool.write(line)
                chosen.feed(line)
                lines.append(index.lines[row])
            await asyncio.sleep(0)
        chosen.finish()
        spool.flush()
        return spool, chosen, lines
