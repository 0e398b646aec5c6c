"""Errors of object storage.

::

    StoreError                   core.errors; reason ObjectStoreUnavailable, retryable
    ├── Conflict                 a conditional write found another object or ETag
    ├── ObjectNotFound           no such object (where one must be)
    ├── StoreDenied              credentials or permissions; not retryable
    └── StoreFull                no space left; not retryable
    InputError                   core.errors
    └── InvalidKey               a key that not every store could hold, or that would leave the root

A plain StoreError may narrow its ``reason``: ``BucketNotFound`` and ``NotSupported`` (neither retryable).
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
