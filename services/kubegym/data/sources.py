"""The bytes of a dataset, from a local file or an object store, and their decompression."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol
from urllib.parse import unquote, urlsplit

from kubegym.core.errors import InvalidSpec
from kubegym.data.lines import BLOCK
from kubegym.storage.errors import ObjectNotFound
from kubegym.storage.options import MountedCredentials, StoreOptions
from kubegym.storage.protocol import ObjectStore
from kubegym.storage.web import WebClient, hub_file_url

Format = Literal["jsonl", "jsonl.zst", "parquet"]


class OpenStore(Protocol):
    """``kubegym.storage.open_store``: from a URL to a store."""

    def __call__(self, url: str, /, *, options: StoreOptions | None = None) -> ObjectStore:
        """The store at a URL."""
        ...


REMOTE_BLOCK = 8 << 20
"""Bytes asked of an object store at a time."""

_EXTENSIONS: tuple[tuple[str, Format], ...] = (
    (".jsonl", "jsonl"),
    (".ndjson", "jsonl"),
    (".zst", "jsonl.zst"),
    (".parquet", "parquet"),
)

# A piece of compressed text this long grows to a few MB at most, even where it repeats itself a hundredfold.
_COMPRESSED_PIECE = 32 << 10


@dataclass(frozen=True, slots=True)
class Location:
    """Where a dataset lies: a local ``path``, else ``key`` in the store at ``url``; without a key on a web server."""

    path: Path | None
    url: str = ""
    key: str = ""


def locate(uri: str, revision: str | None = None, endpoint: str | None = None) -> Location:
    """The place a dataset URI names: a path, ``file://``, or an object such as ``s3://bucket/a/rows.jsonl``.

    ``https://`` is a file of a web server; ``hf://datasets/ORG/NAME/rows.jsonl`` one of the Hugging Face hub, of which
    ``revision`` names a state and ``endpoint`` a mirror.

    Raises:
        InvalidSpec: no object is named.
    """
    if "://" not in uri:
        return Location(Path(uri).expanduser())
    parts = urlsplit(uri)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise InvalidSpec(f"dataset {uri}: write file:///path, with three slashes, for a local file")
        return Location(Path(unquote(parts.path)))
    if parts.scheme == "hf":
        return Location(None, hub_file_url(uri, revision, endpoint))
    if parts.scheme == "https":
        return Location(None, uri)
    url, _, key = uri.rpartition("/")
    if not key or url.endswith(":/"):
        raise InvalidSpec(f"dataset {uri} names no object; write e.g. s3://bucket/folder/rows.jsonl")
    return Location(None, url, key)


def default_store(url: str, /, *, options: StoreOptions | None = None) -> ObjectStore:
    """``kubegym.storage.open_store``, whose library local files do not need."""
    from kubegym.storage.open import open_store

    return open_store(url, options=options)


def format_of(uri: str, declared: Format | None) -> Format:
    """The format: as declared, else by the extension. Raises InvalidSpec where neither tells."""
    if declared is not None:
        return declared
    for extension, name in _EXTENSIONS:
        if uri.endswith(extension):
            return name
    raise InvalidSpec(f"dataset {uri}: the extension tells no format; set format to jsonl, jsonl.zst or parquet")


def open_local(path: Path, source: str) -> BinaryIO:
    """Open a local dataset. Raises InvalidSpec where there is none, or it cannot be read."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise InvalidSpec(f"dataset {source} does not exist", reason="DatasetNotFound") from None
    except OSError as error:
        raise InvalidSpec(f"dataset {source} cannot be read: {error.strerror}", reason="DatasetUnreadable") from error


async def local_bytes(file: BinaryIO) -> AsyncIterator[bytes]:
    """All bytes of an open file, a block at a time."""
    descriptor, position = file.fileno(), 0
    while block := os.pread(descriptor, BLOCK, position):
        position += len(block)
        yield block
        await asyncio.sleep(0)


async def remote_bytes(
    location: Location, source: str, open_store: OpenStore, options: StoreOptions | None
) -> AsyncIterator[bytes]:
    """All bytes of an object, ``REMOTE_BLOCK`` at a time.

    Raises:
        InvalidSpec: there is no such object.
        StoreError: the store did not answer.
    """
    if not location.key:
        async for block in _web_bytes(location.url, source, options or StoreOptions()):
            yield block
        return
    store = open_store(location.url, options=options)
    try:
        position = 0
        while True:
            try:
                block = await store.get_range(location.key, position, REMOTE_BLOCK)
            except ObjectNotFound:
                raise InvalidSpec(f"dataset {source} does not exist", reason="DatasetNotFound") from None
            if block:
                yield block
            position += len(block)
            if len(block) < REMOTE_BLOCK:
                return
    finally:
        await store.close()


async def _web_bytes(url: str, source: str, options: StoreOptions) -> AsyncIterator[bytes]:
    given = options.credentials
    keys = given.read() if isinstance(given, MountedCredentials) else os.environ if given is None else given
    token = keys.get("HF_TOKEN") if source.startswith("hf:") else None
    client = WebClient(token=token, ca_bundle=options.ca_bundle, timeout=options.request_seconds, backoff=options.retry)
    try:
        async for block in client.blocks(url):
            yield block
    except ObjectNotFound:
        raise InvalidSpec(f"dataset {source} does not exist", reason="DatasetNotFound") from None


class Zstd:
    """Incremental decompression of one or more frames.

    Raises:
        InvalidSpec: the bytes are not zstd, or end in the middle of a frame (``finish``).
    """

    def __init__(self, source: str) -> None:
        import zstandard

        self._source = source
        self._error = zstandard.ZstdError
        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._frame = self._new_frame()
        self._inside = False

    def feed(self, block: bytes) -> Iterator[bytes]:
        """The text of the next compressed bytes, in pieces of bounded size."""
        for start in range(0, len(block), _COMPRESSED_PIECE):
            piece = block[start : start + _COMPRESSED_PIECE]
            while piece:
                self._inside = True
                try:
                    text = self._frame.decompress(piece)
                except self._error as error:
                    raise InvalidSpec(f"dataset {self._source} is not valid zstd: {error}") from error
                piece = b""
                if self._frame.eof:
                    piece = self._frame.unused_data
                    self._frame, self._inside = self._new_frame(), False
                yield text

    def finish(self) -> None:
        """The compressed bytes have ended."""
        if self._inside:
            raise InvalidSpec(f"dataset {self._source} ends in the middle of a zstd frame; is it a partial download?")
