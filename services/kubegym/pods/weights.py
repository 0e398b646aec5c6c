"""``kubegym fetch``: a model's weights into a folder, verified, once (DESIGN section 5, ``source``).

Each file is written under another name, checked against the digest that its source publishes, and moved into place.
When all are there, ``.kubegym-weights.json`` says what there is; whoever finds it complete has nothing to do. A fetch
that was interrupted goes on with the files that are missing.

``oci://`` and ``pvc://`` are mounted, not fetched.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol
from urllib.parse import quote

import orjson

from kubegym.core.errors import InvalidSpec, KubeGymError, StoreError
from kubegym.pods.errors import DONE, exit_code
from kubegym.pods.settings import PodSettings
from kubegym.pods.words import say_why
from kubegym.storage import MountedCredentials, ObjectNotFound, ObjectStore, StoreOptions, open_store
from kubegym.storage.web import WebClient, hub_endpoint

log = logging.getLogger("kubegym.pods")

RECORD = ".kubegym-weights.json"
SUMS = "SHA256SUMS"
"""Where a bucket may say its files' digests, as ``sha256sum`` writes them."""

_BLOCK = 8 << 20
_AT_ONCE = 4
_OTHERS = (".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".tflite")
"""Formats that nobody reads where there are safetensors."""


@dataclass(frozen=True)
class WeightFile:
    """A file to fetch.

    Attributes:
        path: below the folder.
        size: bytes, where the source tells.
        sha256: its digest, where the source tells.
        git: the git object id instead, which the hub has for small files.
    """

    path: str
    size: int | None = None
    sha256: str | None = None
    git: str | None = None


@dataclass(frozen=True)
class Fetched:
    """A file that is there, as it was verified."""

    path: str
    size: int
    sha256: str


class WeightSource(Protocol):
    """Where weights come from."""

    async def files(self) -> list[WeightFile]:
        """What there is."""
        ...

    def blocks(self, file: WeightFile) -> AsyncIterator[bytes]:
        """A file's bytes. Raises StoreError."""
        ...

    async def close(self) -> None:
        """Free what it holds."""
        ...


class HubSource:
    """A model repository of the Hugging Face hub, at one commit.

    Args:
        uri: ``hf://ORGANISATION/NAME``.
        revision: a commit, branch or tag.
        token: for private ones.
        endpoint: a mirror.
        ca: PEM file with certificates to trust besides the system's.
    """

    def __init__(
        self, uri: str, revision: str | None, token: str | None, *, endpoint: str | None = None, ca: Path | None = None
    ) -> None:
        self._repository = uri.removeprefix("hf://").strip("/")
        if self._repository.count("/") != 1:
            raise InvalidSpec(f"{uri}: write hf://ORGANISATION/NAME")
        self._revision = revision or "main"
        self._endpoint = hub_endpoint(endpoint)
        self._client = WebClient(token=token, ca_bundle=ca)
        self._commit = self._revision

    async def files(self) -> list[WeightFile]:
        """See ``WeightSource``. Raises InvalidSpec where there is no such repository or revision."""
        url = f"{self._endpoint}/api/models/{self._repository}/revision/{quote(self._revision, safe='')}?blobs=true"
        try:
            told = orjson.loads(await self._client.read(url))
            self._commit = str(told["sha"])
            found = [_of_hub(sibling) for sibling in told["siblings"]]
        except ObjectNotFound as error:
            message = f"hf://{self._repository} has no revision {self._revision}, or there is no such model"
            raise InvalidSpec(message, reason="WeightsNotFound") from error
        except (ValueError, LookupError, TypeError) as error:
            raise StoreError(f"{self._endpoint} answered with something that is no model: {error}") from error
        safe = any(file.path.endswith(".safetensors") for file in found)
        return [
            file
            for file in found
            if not file.path.startswith((".git", "original/")) and not (safe and file.path.endswith(_OTHERS))
        ]

    def blocks(self, file: WeightFile) -> AsyncIterator[bytes]:
        """See ``WeightSource``."""
        return self._client.blocks(f"{self._endpoint}/{self._repository}/resolve/{self._commit}/{quote(file.path)}")

    async def close(self) -> None:
        """Nothing to free."""


def _of_hub(sibling: dict[str, object]) -> WeightFile:
    path, size, lfs = sibling["rfilename"], sibling.get("size"), sibling.get("lfs")
    digest = lfs.get("sha256") if isinstance(lfs, dict) else None
    git = None if digest else sibling.get("blobId")
    return WeightFile(
        str(path), size if isinstance(size, int) else None, str(digest) if digest else None, str(git) if git else None
    )


class StoreSource:
    """A prefix of a bucket (``s3://``, ``gs://``). Its ``SHA256SUMS`` are held to, where it has them."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def files(self) -> list[WeightFile]:
        """See ``WeightSource``. Raises InvalidSpec where the prefix is empty."""
        sums = await self._store.get(SUMS)
        known = _sums(sums.data.decode()) if sums is not None else {}
        paths = sorted([key async for key in self._store.list()])
        if not paths:
            raise InvalidSpec(f"{self._store.url} holds nothing", reason="WeightsNotFound")
        missing = sorted(known.keys() - set(paths))
        if missing:
            raise InvalidSpec(f"{self._store.url}: {SUMS} names {', '.join(missing[:5])}, which is not there")
        return [WeightFile(path, sha256=known.get(path)) for path in paths if path not in (SUMS, RECORD)]

    async def blocks(self, file: WeightFile) -> AsyncIterator[bytes]:
        """See ``WeightSource``."""
        position = 0
        while block := await self._store.get_range(file.path, position, _BLOCK):
            position += len(block)
            yield block

    async def close(self) -> None:
        """See ``WeightSource``."""
        await self._store.close()


def _sums(text: str) -> dict[str, str]:
    pairs = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return {path.lstrip("*").removeprefix("./"): digest.lower() for digest, path in pairs}


def source_of(uri: str, revision: str | None, credentials: Path | None) -> WeightSource:
    """Where a URI's weights come from. Raises InvalidSpec."""
    scheme = uri.partition("://")[0]
    mounted = MountedCredentials(credentials) if credentials else None
    keys = mounted.read() if mounted else {}
    if scheme == "hf":
        return HubSource(uri, revision, keys.get("HF_TOKEN") or os.environ.get("HF_TOKEN"))
    if scheme in ("s3", "gs"):
        endpoint = keys.get("AWS_ENDPOINT_URL") if scheme == "s3" else None
        options = StoreOptions(endpoint=endpoint, region=keys.get("AWS_REGION"), credentials=mounted)
        return StoreSource(open_store(uri, options=options))
    raise InvalidSpec(f"{uri}: weights are fetched from hf://, s3:// or gs://; oci:// and pvc:// are mounted")


async def run_fetch(uri: str, folder: Path, revision: str | None, credentials: Path | None, pod: PodSettings) -> int:
    """Fetch weights; the exit code, whose last words are left."""
    try:
        if recorded(folder, uri, revision):
            log.info("%s is in %s already", uri, folder)
        else:
            source = source_of(uri, revision, credentials)
            try:
                await fetch(source, folder, uri, revision)
            finally:
                await source.close()
    except KubeGymError as error:
        log.error("the weights were not fetched: reason=%s: %s", error.reason, error.message)
        say_why(pod.termination_log, error.reason, error.message)
        return exit_code(error)
    say_why(pod.termination_log, "Completed", f"{uri} is in {folder}, verified")
    return DONE


def recorded(folder: Path, uri: str, revision: str | None) -> bool:
    """Whether a folder holds these weights, as far as sizes tell."""
    try:
        record = orjson.loads((folder / RECORD).read_bytes())
        same = (record["source"], record["revision"]) == (uri, revision)
        return same and all((folder / file["path"]).stat().st_size == file["size"] for file in record["files"])
    except (OSError, ValueError, LookupError, TypeError):
        return False


async def fetch(source: WeightSource, folder: Path, uri: str, revision: str | None) -> list[Fetched]:
    """Fetch all files of a source that are not there yet, verify them, and record them.

    Raises:
        InvalidSpec: there are none, or one whose name leads out of the folder.
        StoreError: the source does not answer, or a file is not what it should be.
    """
    files = await source.files()
    for file in files:
        parts = PurePosixPath(file.path).parts
        if not parts or ".." in parts or file.path.startswith("/"):
            raise InvalidSpec(f"{uri} has a file named {file.path!r}, which leads out of its folder")
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(file: WeightFile) -> Fetched:
        async with gate:
            return await _fetched(source, file, folder / file.path)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(file)) for file in files]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    done = [task.result() for task in tasks]
    _record(folder, uri, revision, done)
    log.info("%d files, %d bytes", len(done), sum(file.size for file in done))
    return done


def _record(folder: Path, uri: str, revision: str | None, files: Sequence[Fetched]) -> None:
    body = {"schema": 1, "source": uri, "revision": revision, "files": [asdict(file) for file in files]}
    fresh = folder / f"{RECORD}.part"
    fresh.parent.mkdir(parents=True, exist_ok=True)
    fresh.write_bytes(orjson.dumps(body, option=orjson.OPT_INDENT_2))
    fresh.replace(folder / RECORD)


class _Digests:
    """What a file's bytes are: their number, their sha256, and the id that git would give them."""

    def __init__(self, size: int | None) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if size is not None else None

    def add(self, block: bytes) -> None:
        self.size += len(block)
        self._sha256.update(block)
        if self._git is not None:
            self._git.update(block)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def trouble(self, file: WeightFile) -> str | None:
        """Why they are not the file's."""
        if file.size is not None and self.size != file.size:
            return f"{self.size} bytes instead of {file.size}"
        if file.sha256 is not None and self.sha256 != file.sha256:
            return f"sha256 {self.sha256} instead of {file.sha256}"
        if file.git is not None and self._git is not None and self._git.hexdigest() != file.git:
            return f"git object {self._git.hexdigest()} instead of {file.git}"
        return None


async def _fetched(source: WeightSource, file: WeightFile, target: Path) -> Fetched:
    if (there := await asyncio.to_thread(_there_already, target, file)) is not None:
        return there
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f"{target.name}.part")
    digests = _Digests(file.size)
    with fresh.open("wb") as output:
        async for block in source.blocks(file):
            await asyncio.to_thread(_write, output, digests, block)
        await asyncio.to_thread(os.fsync, output.fileno())
    trouble = digests.trouble(file)
    if trouble is not None:
        fresh.unlink()
        raise StoreError(f"{file.path} is not what its source says: {trouble}", reason="WeightsCorrupt")
    fresh.replace(target)
    return Fetched(file.path, digests.size, digests.sha256)


def _write(output: BinaryIO, digests: _Digests, block: bytes) -> None:
    output.write(block)
    digests.add(block)


def _there_already(path: Path, file: WeightFile) -> Fetched | None:
    """What an interrupted fetch left, where its digest can be told."""
    if file.sha256 is None or not path.is_file():
        return None
    digests = _Digests(file.size)
    with path.open("rb") as content:
        while block := content.read(_BLOCK):
            digests.add(block)
    return Fetched(file.path, digests.size, digests.sha256) if digests.trouble(file) is None else None
