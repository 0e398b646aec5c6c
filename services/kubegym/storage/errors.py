"""Errors of object storage.

::

    StoreError                   core.errors; reason ObjectStoreUnavailable, retryable
    ├── Conflict                 a conditional write found another object or ETag
    ├── ObjectNotFound           no such object (where one must be)
    ├── StoreDenied              credentials or permissions; not retryable
    └── StoreFull                no space left; not retryable
    InputError                   core.errors
    └── InvalidKey               a key that not every store could hold, or that would leave the root

A plain StoreError may narrow its ``reason``: ``BucketNotFound``, ``NotSupported``, ``StoreForked`` (none retryable).
"""

from __future__ import annotations

from kubegym.core.errors import InputError, StoreError


class Conflict(StoreError):
    """A conditional write found something else: the caller lost, or its own earlier try won. Read again."""

    reason = "Conflict"
    retryable = False


class ObjectNotFound(StoreError):
    """The object that must be there is not."""

    reason = "ObjectNotFound"
    retryable = False


class StoreDenied(StoreError):
    """The store refused the credentials or the operation."""

    reason = "ObjectStoreDenied"
    retryable = False


class StoreFull(StoreError):
    """No space left."""

    reason = "ObjectStoreFull"
    retryable = False


class InvalidKey(InputError):
    """A key that not every store could hold, or that would leave the root."""

    reason = "InvalidKey"


def forked(url: str) -> StoreError:
    """The error of a store that is used in a process forked from the one whose threads serve it."""
    return StoreError(
        f"the store {url} was opened, or its library used, before this process was forked: the threads that serve it "
        "stayed behind; start the process instead (spawn), or leave the store to its parent",
        reason="StoreForked",
        retryable=False,
    )
