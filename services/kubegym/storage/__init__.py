"""Object storage behind one protocol: local folders, S3-compatible stores, and an in-memory twin.

``open_store`` makes a store from a folder or URL; ``probe_conditional_writes`` asks whether a run may rest on it. The
remote store and the fault injector are in ``storage.s3`` and ``storage.faults``.
"""

from kubegym.storage.errors import Conflict, InvalidKey, ObjectNotFound, StoreDenied, StoreFull
from kubegym.storage.local import LocalStore
from kubegym.storage.memory import MemoryStore
from kubegym.storage.open import open_store
from kubegym.storage.options import MountedCredentials, StoreOptions
from kubegym.storage.probe import probe_conditional_writes
from kubegym.storage.protocol import ObjectStore, ObjectWriter, Stored
from kubegym.storage.s3 import RemoteStore

__all__ = [
    "Conflict",
    "InvalidKey",
    "LocalStore",
    "MemoryStore",
    "MountedCredentials",
    "ObjectNotFound",
    "ObjectStore",
    "ObjectWriter",
    "RemoteStore",
    "StoreDenied",
    "StoreFull",
    "StoreOptions",
    "Stored",
    "open_store",
    "probe_conditional_writes",
]
