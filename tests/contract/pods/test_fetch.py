"""``kubegym fetch``: weights from a hub and from a bucket, verified, once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from kubegym.core.errors import InvalidSpec, StoreError
from kubegym.pods.weights import RECORD, HubSource, StoreSource, fetch, recorded, source_of
from kubegym.storage import MemoryStore
from testbed.pods import Cluster
from testbed.web import Page, Web, web_server

pytestmark = pytest.mark.contract

URI = "hf://acme/tiny"
COMMIT = "c" * 40
FILES = {
    "config.json": b'{"a": 1}',
    "model.safetensors": bytes(range(256)) * 999,
    "pytorch_model.bin": b"the same again",
    ".gitattributes": b"x",
    "sub/tokenizer.json": b"{}",
}


def git_id(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%b" % (len(body), body)).hexdigest()


def hub(web: Web, **corrupt: bytes) -> None:
    """A model as the hub shows it; large files have a sha256, small ones a git object id."""
    siblings: list[dict[str, Any]] = []
    for path, body in FILES.items():
        sibling: dict[str, Any] = {"rfilename": path, "size": len(body), "blobId": git_id(body)}
        if path.endswith((".safetensors", ".bin")):
            sibling["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}
        siblings.append(sibling)
        served = corrupt.get(path.partition(".")[0], body)
        web.pages[f"/acme/tiny/resolve/{COMMIT}/{path}"] = Page(served)
    told = json.dumps({"sha": COMMIT, "siblings": siblings}).encode()
    web.pages["/api/models/acme/tiny/revision/v1?blobs=true"] = Page(told, token="hf")


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


async def test_a_model_of_the_hub(tmp_path: Path) -> None:
    with web_server() as web:
        hub(web)
        web.pages[f"/acme/tiny/resolve/{COMMIT}/model.safetensors"].breaks = 1
        done = await fetch(HubSource(URI, "v1", "hf", endpoint=web.url), tmp_path, URI, "v1")
    wanted = {"config.json", "model.safetensors", "sub/tokenizer.json"}
    assert {file.path for file in done} == wanted
    assert files_below(tmp_path) == wanted | {RECORD}
    for file in done:
        assert hashlib.sha256((tmp_path / file.path).read_bytes()).hexdigest() == file.sha256
    assert recorded(tmp_path, URI, "v1")
    assert not recorded(tmp_path, URI, "v2")
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    assert not recorded(tmp_path, URI, "v1")


@pytest.mark.parametrize(("file", "body"), [("model", b"x" * (256 * 999)), ("config", b'{"a": 2}'), ("config", b"")])
async def test_a_file_that_is_not_what_it_should_be(file: str, body: bytes, tmp_path: Path) -> None:
    with web_server() as web:
        hub(web, **{file: body})
        with pytest.raises(StoreError, match=file) as caught:
            await fetch(HubSource(URI, "v1", "hf", endpoint=web.url), tmp_path, URI, "v1")
    assert caught.value.reason == "WeightsCorrupt"
    assert not (tmp_path / RECORD).exists()
    assert not [path for path in files_below(tmp_path) if path.startswith(file)]


async def test_an_interrupted_fetch_goes_on(tmp_path: Path) -> None:
    with web_server() as web:
        hub(web, config=b"broken")
        with pytest.raises(StoreError):
            await fetch(HubSource(URI, "v1", "hf", endpoint=web.url), tmp_path, URI, "v1")
    (tmp_path / "model.safetensors").write_bytes(FILES["model.safetensors"])
    with web_server() as web:  # of its own: what was given up may still come to the other
        hub(web)
        await fetch(HubSource(URI, "v1", "hf", endpoint=web.url), tmp_path, URI, "v1")
    assert not [path for path, _ in web.asked if path.endswith("model.safetensors")]
    assert recorded(tmp_path, URI, "v1")


async def test_what_is_not_there(tmp_path: Path) -> None:
    with web_server() as web, pytest.raises(InvalidSpec, match="no revision v1"):
        await fetch(HubSource(URI, "v1", None, endpoint=web.url), tmp_path, URI, "v1")
    with pytest.raises(InvalidSpec, match="holds nothing"):
        await fetch(StoreSource(MemoryStore()), tmp_path, "s3://b/x", None)
    with pytest.raises(InvalidSpec, match="mounted"):
        source_of("oci://registry/image", None, None)
    with pytest.raises(InvalidSpec, match="ORGANISATION"):
        source_of("hf://tiny", None, None)


async def test_digests_in_a_bucket_are_held_to(tmp_path: Path) -> None:
    store = MemoryStore()
    await store.put("model.safetensors", b"weights")
    await store.put("SHA256SUMS", f"{hashlib.sha256(b'others').hexdigest()}  model.safetensors\n".encode())
    with pytest.raises(StoreError, match="sha256"):
        await fetch(StoreSource(store), tmp_path, "s3://b/x", None)
    await store.put("SHA256SUMS", f"{hashlib.sha256(b'weights').hexdigest()} *./model.safetensors\n".encode())
    (done,) = await fetch(StoreSource(store), tmp_path, "s3://b/x", None)
    assert (done.path, done.size) == ("model.safetensors", 7)


async def test_the_command_over_a_real_store(cluster: Cluster, tmp_path: Path) -> None:
    prefix = uuid.uuid4().hex
    store = cluster.store(prefix)
    large = b"0123456789abcdef" * (1 << 20)
    await store.put("model.safetensors", large)
    await store.put("a/config.json", b"{}")
    await store.close()
    secret = cluster.folder / "var/run/secrets/kubegym/output"
    (secret / "AWS_ENDPOINT_URL").write_text(cluster.s3.endpoint)
    target = tmp_path / "weights"

    async def run(uri: str) -> int | None:
        process = await cluster.start("fetch", "fetch", uri, "--into", str(target), "--credentials", str(secret))
        await process.communicate()
        return process.returncode

    async with asyncio.timeout(600):
        assert await run(f"s3://runs/{prefix}") == 0, cluster.log("fetch")
        assert (target / "model.safetensors").read_bytes() == large
        assert cluster.words("fetch")["reason"] == "Completed"
        assert await run(f"s3://runs/{prefix}") == 0
        assert "already" in cluster.log("fetch")
        assert await run(f"s3://runs/{prefix}/absent") == 11
        assert cluster.words("fetch")["reason"] == "WeightsNotFound"
