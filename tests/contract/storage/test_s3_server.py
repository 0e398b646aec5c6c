"""What only a remote store has: trust, credentials, uploads in parts, processes that fork."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from kubegym.core.errors import StoreError
from kubegym.core.retry import Backoff
from kubegym.storage import ObjectStore, StoreDenied, StoreOptions, open_store, probe_conditional_writes
from testbed.build import CannotBuild
from testbed.required import unavailable
from testbed.s3 import S3Server, s3_server

from .conftest import BUCKET

pytestmark = pytest.mark.contract


@pytest.fixture
def options(s3: S3Server) -> StoreOptions:
    return StoreOptions(endpoint=s3.endpoint, region="us-east-1", credentials=s3.credentials, retry=Backoff(2, 0.001))


@pytest.fixture
async def store(options: StoreOptions) -> AsyncIterator[ObjectStore]:
    store = open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}", options=options)
    yield store
    await store.close()


async def test_wrong_keys_are_denied(options: StoreOptions) -> None:
    wrong = replace(options, credentials={"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "wrong"})
    store = open_store(f"s3://{BUCKET}/x", options=wrong)
    with pytest.raises(StoreDenied, match="do not allow"):
        await probe_conditional_writes(store)
    with pytest.raises(StoreDenied):
        await store.get("a")
    with pytest.raises(StoreDenied):
        await anext(aiter(store.list()))


async def test_a_bucket_that_does_not_exist_is_named(options: StoreOptions) -> None:
    store = open_store("s3://nobucket/x", options=options)
    for call in (store.get("a"), store.put("a", b"1"), store.create("a", b"1"), store.swap("a", b"1", '"x"')):
        with pytest.raises(StoreError, match="bucket of s3://nobucket/x does not exist") as caught:
            await call
        assert caught.value.reason == "BucketNotFound"
        assert not caught.value.retryable


async def test_a_server_that_is_not_there_is_trouble_that_may_pass(options: StoreOptions) -> None:
    store = open_store("s3://bucket/x", options=replace(options, endpoint="http://127.0.0.1:1"))
    with pytest.raises(StoreError) as caught:
        await store.get("a")
    assert caught.value.retryable
    assert caught.value.reason == "ObjectStoreUnavailable"


async def test_an_abandoned_upload_is_forgotten_by_the_server(s3: S3Server, store: ObjectStore) -> None:
    begun = asyncio.Event()

    async def write(*, wait: bool) -> None:
        async with store.writer("a") as writer:
            for _ in range(20):
                await writer.write(b"x" * (1 << 20))
            begun.set()
            if wait:
                await asyncio.Event().wait()
            raise RuntimeError("given up")

    with pytest.raises(RuntimeError, match="given up"):
        await write(wait=False)
    assert s3.unfinished_uploads(BUCKET) == []
    begun.clear()
    writing = asyncio.create_task(write(wait=True))
    await begun.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert s3.unfinished_uploads(BUCKET) == []


async def test_a_private_authority_is_trusted_when_named(tmp_path: Path) -> None:
    try:
        with s3_server([BUCKET], tls=True) as server:
            trusting = StoreOptions(
                endpoint=server.endpoint,
                region="us-east-1",
                credentials=server.credentials,
                ca_bundle=server.ca_bundle,
                retry=Backoff(2, 0.001),
            )
            await probe_conditional_writes(open_store(f"s3://{BUCKET}/x", options=trusting))
            with pytest.raises(StoreError):
                await open_store(f"s3://{BUCKET}/x", options=replace(trusting, ca_bundle=None)).get("a")
    except (CannotBuild, FileNotFoundError) as error:
        unavailable(f"a server with TLS: {error}")


FORK = """
import asyncio, os, sys
from kubegym.core.errors import StoreError
from kubegym.storage import StoreOptions, open_store

def opened():
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testtest"}
    return open_store(sys.argv[2], options=StoreOptions(endpoint=sys.argv[1], region="us-east-1", credentials=keys))

async def use():
    store = opened()
    await store.put(f"by-{os.getpid()}", b"1")
    await store.close()

unused = opened()  # neither the import nor a client that was never asked stands in the way
child = os.fork()
asyncio.run(use())
if child == 0:
    os._exit(0)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0

late = os.fork()  # after a request: told so, instead of waiting forever
try:
    asyncio.run(use())
    outcome = 0
except StoreError as error:
    outcome = 3 if error.reason == "StoreForked" and not error.retryable else 4
if late == 0:
    os._exit(outcome)
_, status = os.waitpid(late, 0)
assert os.waitstatus_to_exitcode(status) == 3
"""


def test_a_process_forked_before_the_first_request_may_use_stores_and_a_later_one_not(s3: S3Server) -> None:
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    done = subprocess.run([sys.executable, "-c", FORK, s3.endpoint, url], timeout=300, check=False)
    assert done.returncode == 0
    assert len(list((s3.folder / url.removeprefix("s3://")).iterdir())) == 2
