"""Every kind of store, on an empty root of its own for each test."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kubegym.storage import LocalStore, MemoryStore, ObjectStore, StoreOptions, open_store
from testbed.build import CannotBuild
from testbed.required import unavailable
from testbed.s3 import S3Server, s3_server

BUCKET = "contract"


@dataclass(frozen=True)
class Root:
    """An empty root and how to open it, as often as a test likes."""

    kind: str
    open: Callable[[], ObjectStore]


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    try:
        with s3_server([BUCKET]) as server:
            yield server
    except CannotBuild as error:
        unavailable(str(error))


@pytest.fixture(params=["local", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    kind = request.param
    if kind == "local":
        return Root(kind, lambda: LocalStore(tmp_path / "root"))
    if kind == "memory":
        objects: dict[str, bytes] = {}
        return Root(kind, lambda: MemoryStore(objects=objects))
    server: S3Server = request.getfixturevalue("s3")
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}/runs"
    options = StoreOptions(endpoint=server.endpoint, region="us-east-1", credentials=server.credentials)
    return Root(kind, lambda: open_store(url, options=options))


@pytest.fixture
async def store(root: Root) -> AsyncIterator[ObjectStore]:
    store = root.open()
    yield store
    await store.close()
