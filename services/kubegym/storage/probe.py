"""Does a store honour conditional writes? Asked once, before a run rests on them."""

from __future__ import annotations

import uuid
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from kubegym.core.errors import ConditionalWritesUnsupported, StoreError
from kubegym.storage.errors import Conflict, StoreDenied
from kubegym.storage.protocol import ObjectStore

_FRESH_KEYS = 3


async def probe_conditional_writes(store: ObjectStore) -> None:
    """Try create and compare-and-swap on an object of the probe's own, and remove it.

    Raises:
        ConditionalWritesUnsupported: a write took effect that should have been refused, or the store does not know
            conditional requests.
        StoreDenied: the credentials may not read, write or delete below the root.
        StoreError: other trouble of the store.
    """
    key = ""
    try:
        first, second = _body(), _body()
        key, etag = await _create_fresh(store, first)
        await _expect_conflict(store, "a second create of one key", store.create(key, _body()))
        await _expect_data(store, key, first)
        with suppress(Conflict):  # with itself, sent again after a lost answer: what is stored tells
            await store.swap(key, second, etag)
        await _expect_data(store, key, second)
        await _expect_conflict(store, "a swap with a stale ETag", store.swap(key, _body(), etag))
        latest = await _expect_data(store, key, second)
        await store.delete(key)
        await _expect_conflict(store, "a swap of an absent object", store.swap(key, _body(), latest))
    except StoreDenied as error:
        raise StoreDenied(
            f"the credentials do not allow reading, writing and deleting objects below {store.url}: {error.message}"
        ) from error
    except StoreError as error:
        if error.reason == "NotSupported":
            raise _unsupported(store, error.message) from error
        raise
    finally:
        if key:
            with suppress(StoreError):  # the verdict stands; at worst one small object stays
                await store.delete(key)


async def _create_fresh(store: ObjectStore, data: bytes) -> tuple[str, str]:
    """Create an object under a new key. The key and the ETag.

    A create that the store applied, but whose answer was lost, conflicts with itself when it is sent again: that is no
    verdict, another key is.
    """
    for _ in range(_FRESH_KEYS):
        key = f"kubegym-probe-{uuid.uuid4().hex}"
        try:
            return key, await store.create(key, data)
        except Conflict:
            await store.delete(key)
    raise _unsupported(store, f"{_FRESH_KEYS} creates of new keys were answered with a conflict")


async def _expect_conflict(store: ObjectStore, what: str, write: Coroutine[Any, Any, str]) -> None:
    try:
        await write
    except Conflict:
        return
    raise _unsupported(store, f"{what} was not refused")


async def _expect_data(store: ObjectStore, key: str, data: bytes) -> str:
    """The ETag of the object, which must hold ``data``."""
    stored = await store.get(key)
    if stored is None or stored.data != data:
        raise _unsupported(store, "what was written last with a true condition is not what is stored")
    return stored.etag


def _body() -> bytes:
    return uuid.uuid4().hex.encode()


def _unsupported(store: ObjectStore, what: str) -> ConditionalWritesUnsupported:
    return ConditionalWritesUnsupported(
        f"{store.url} does not honour conditional writes ({what}). Exactly-once results rest on them; "
        "use a local folder or a store with If-Match and If-None-Match (S3, GCS, Azure, MinIO, versitygw)."
    )
