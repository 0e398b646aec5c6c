"""Files that an environment's configuration names: beside its code, in a bucket, on a web server."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from kubegym.core.errors import InvalidSpec
from kubegym.storage.errors import ObjectNotFound
from kubegym.storage.open import open_store
from kubegym.storage.web import WebClient, hub_file_url


async def read_file(uri: str, beside: str | Path) -> bytes:
    """The bytes of a file that a configuration names, for ``setup``.

    Args:
        uri: a path, ``file://``, ``https://``, ``hf://datasets/ORG/NAME/PATH``, or an object such as
            ``s3://bucket/tables/emails.csv`` with the credentials of the process.
        beside: the module that asks, ``__file__``: a relative path starts in its folder.

    Raises:
        InvalidSpec: there is no such file, or it cannot be read.
        StoreError: the store or server does not answer.
    """
    scheme = urlsplit(uri).scheme if "://" in uri else ""
    if scheme in ("", "file"):
        path = Path(unquote(urlsplit(uri).path)) if scheme else Path(beside).parent / uri
        try:
            return path.read_bytes()
        except OSError as error:
            raise InvalidSpec(f"{path} cannot be read: {error.strerror or error}") from error
    if scheme in ("https", "hf"):
        return await WebClient().read(hub_file_url(uri, None) if scheme == "hf" else uri)
    folder, _, key = uri.rpartition("/")
    if not key or folder.endswith(":/"):
        raise InvalidSpec(f"{uri} names no object; write e.g. s3://bucket/tables/emails.csv")
    store = open_store(folder)
    try:
        stored = await store.get(key)
    finally:
        await store.close()
    if stored is None:
        raise ObjectNotFound(f"{uri} does not exist")
    return stored.data
