"""Objects of web servers, and datasets that lie there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from kubegym.core.errors import InvalidSpec, StoreError
from kubegym.core.retry import Backoff
from kubegym.data.dataset import DatasetSpec, open_dataset
from kubegym.storage import ObjectNotFound, StoreDenied, StoreOptions
from kubegym.storage.web import WebClient, hub_file_url
from testbed.ports import kept_port
from testbed.web import Page, web_server

pytestmark = pytest.mark.contract

QUICK = Backoff(attempts=4, base=0.01, maximum=0.02)
BODY = bytes(range(256)) * 4000
ROWS = b'{"responses_create_params": {"input": "one"}}\n{"responses_create_params": {"input": "two"}}\n'


async def test_a_token_goes_to_the_server_that_was_named_and_not_on() -> None:
    with web_server({"/signed?key=1": Page(BODY)}) as elsewhere:
        pages = {"/file": Page(to=f"{elsewhere.url}/signed?key=1", token="secret")}
        with web_server(pages) as web:
            assert await WebClient(token="secret", backoff=QUICK).read(f"{web.url}/file") == BODY
    assert web.asked[0][1]["Authorization"] == "Bearer secret"
    assert "Authorization" not in elsewhere.asked[0][1]


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_reply_that_breaks_off_is_gone_on_with_or_refused(ranges: bool) -> None:
    with web_server({"/file": Page(BODY, breaks=2, ranges=ranges)}) as web:
        reading = WebClient(backoff=QUICK).read(f"{web.url}/file")
        if ranges:
            assert await reading == BODY
        else:
            with pytest.raises(StoreError, match="in the middle"):
                await reading


async def test_trouble_that_passes_and_trouble_that_does_not() -> None:
    pages = {"/busy": Page(BODY, statuses=[503, 429]), "/closed": Page(BODY, token="x"), "/odd": Page(statuses=[418])}
    with web_server(pages) as web:
        client = WebClient(backoff=QUICK)
        assert await client.read(f"{web.url}/busy") == BODY
        with pytest.raises(StoreDenied):
            await client.read(f"{web.url}/closed")
        with pytest.raises(ObjectNotFound):
            await client.read(f"{web.url}/absent?signature=secret")
        with pytest.raises(StoreError, match="418"):
            await client.read(f"{web.url}/odd")
    assert len([path for path, _ in web.asked if path == "/busy"]) == 3
    with kept_port() as port, pytest.raises(StoreError, match="refused"):
        await client.read(f"http://127.0.0.1:{port}/busy")


async def test_an_error_does_not_show_a_signature() -> None:
    with web_server() as web, pytest.raises(ObjectNotFound) as caught:
        await WebClient(backoff=QUICK).read(f"{web.url}/absent?signature=secret")
    assert "secret" not in str(caught.value)


async def test_rows_of_the_hub_at_a_revision(tmp_path: Path) -> None:
    path = "/datasets/acme/maths/resolve/abc/train/rows.jsonl"
    with web_server({path: Page(ROWS, token="hf")}) as web:
        options = StoreOptions(endpoint=web.url, credentials={"HF_TOKEN": "hf"})
        uri = "hf://datasets/acme/maths/train/rows.jsonl"
        dataset = await open_dataset(DatasetSpec(uri, revision="abc", store=options), scratch=tmp_path)
        assert (dataset.rows, dataset.digest) == (2, hashlib.sha256(ROWS).hexdigest())
        assert await dataset.read(1, 1) == ROWS.splitlines()[1:]
        await dataset.close()
        with pytest.raises(InvalidSpec, match="does not exist"):
            await open_dataset(DatasetSpec(uri, revision="other", store=options), scratch=tmp_path)


@pytest.mark.parametrize("uri", ["hf://datasets/acme", "hf://acme/maths", "hf://datasets/acme/maths/"])
def test_a_hub_uri_that_names_no_file(uri: str) -> None:
    with pytest.raises(InvalidSpec, match="names no file"):
        hub_file_url(uri, None)
