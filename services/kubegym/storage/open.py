"""From what a user writes, a folder or a URL, to a store."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from kubegym.core.errors import ConditionalWritesUnsupported, InvalidSpec
from kubegym.storage.local import LocalStore
from kubegym.storage.memory import MemoryStore
from kubegym.storage.options import StoreOptions
from kubegym.storage.protocol import ObjectStore

_REMOTE = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "azure": "az"}
_memory: dict[str, dict[str, bytes]] = {}  # memory:// objects by URL, for as long as the process lives


def open_store(url_or_path: str | Path, *, options: StoreOptions | None = None) -> ObjectStore:
    """The store at a folder path, ``file://``, ``s3://bucket/prefix``, ``gs://``, ``az://container`` or ``memory://name``.

    Nothing is contacted yet: ``probe_conditional_writes`` does that. One ``memory://name`` is one set of objects within
    the process.

    Raises:
        InvalidSpec: not a URL of a store, or options that it cannot use.
        ConditionalWritesUnsupported: ``pvc://``.
    """
    if isinstance(url_or_path, Path) or "://" not in url_or_path:
        return LocalStore(Path(url_or_path).expanduser())
    parts = urlsplit(url_or_path)
    scheme = parts.scheme.lower()
    if scheme == "pvc":
        raise ConditionalWritesUnsupported(
            f"{url_or_path}: a volume claim cannot hold results. They need compare-and-swap, which a shared volume "
            "(NFS) does not have; use s3://, gs:// or az://."
        )
    if parts.query or parts.fragment or parts.username is not None:
        raise InvalidSpec(f"{_redacted(url_or_path)}: a store's URL has no user, query or fragment; those are options")
    if scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise InvalidSpec(f"{url_or_path}: file:// takes an absolute path, as in file:///data/runs")
        return LocalStore(Path(unquote(parts.path)))
    if scheme == "memory":
        return MemoryStore(url_or_path, _memory.setdefault(url_or_path.rstrip("/"), {}))
    if scheme not in _REMOTE:
        raise InvalidSpec(
            f"{url_or_path}: unknown scheme {scheme!r}; a store is a folder, file://, s3://, gs:// or az://"
        )
    if not parts.netloc:
        raise InvalidSpec(f"{url_or_path}: the bucket is missing, as in {scheme}://bucket/prefix")
    from kubegym.storage.s3 import RemoteStore

    return RemoteStore(_REMOTE[scheme], parts.netloc, parts.path.strip("/"), options or StoreOptions())


def _redacted(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://…@{parts.hostname}{parts.path}" if parts.username is not None else url.split("?")[0]
