"""From folders and URLs to stores, and what is refused on the way."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

import pytest

from kubegym.core.errors import ConditionalWritesUnsupported, InvalidSpec
from kubegym.storage import LocalStore, MemoryStore, RemoteStore, StoreOptions, open_store

AWS = {"AWS_ACCESS_KEY_ID": "AKIAVISIBLE", "AWS_SECRET_ACCESS_KEY": "do-not-show", "AWS_SESSION_TOKEN": "nor-this"}


async def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for written in (tmp_path / "runs", str(tmp_path / "runs"), f"file://{tmp_path}/runs", "runs", "./runs"):
        store = open_store(written)
        assert isinstance(store, LocalStore)
        await store.put("a", str(written).encode())
        assert (tmp_path / "runs" / "a").read_bytes() == str(written).encode()
        await store.close()


async def test_a_home_folder_and_an_escaped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for written in ("~/my runs", f"file://{tmp_path}/my%20runs"):
        store = open_store(written)
        await store.put("a", b"1")
        await store.close()
    assert os.listdir(tmp_path) == ["my runs"]


async def test_a_folder_keeps_its_place_when_the_process_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("runs")
    monkeypatch.chdir("/")
    await store.put("a", b"1")
    assert (tmp_path / "runs" / "a").exists()
    await store.close()


async def test_memory_by_name_is_one_set_of_objects() -> None:
    name = f"memory://{uuid.uuid4().hex}"
    store = open_store(name)
    assert isinstance(store, MemoryStore)
    await store.put("a", b"1")
    await store.close()
    assert await open_store(f"{name}/").get("a") is not None
    assert await open_store(f"{name}-other").get("a") is None


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("s3://bucket/runs/x/", "s3://bucket/runs/x"),
        ("s3://bucket", "s3://bucket"),
        ("S3://bucket/runs", "s3://bucket/runs"),
        ("gs://bucket/runs", "gs://bucket/runs"),
    ],
)
def test_buckets(written: str, url: str) -> None:
    service_account = {"private_key": "x", "private_key_id": "y", "client_email": "z", "disable_oauth": True}
    credentials = {**AWS, "GOOGLE_APPLICATION_CREDENTIALS_JSON": json.dumps(service_account)}
    store = open_store(written, options=StoreOptions(credentials=credentials))
    assert isinstance(store, RemoteStore)
    assert store.url == url


def test_azure() -> None:
    credentials = {"AZURE_STORAGE_ACCOUNT_NAME": "gym", "AZURE_STORAGE_ACCOUNT_KEY": "c2VjcmV0"}
    assert open_store("az://container/runs", options=StoreOptions(credentials=credentials)).url == "az://container/runs"


def test_volume_claims_are_refused_with_the_reason() -> None:
    with pytest.raises(ConditionalWritesUnsupported, match="compare-and-swap"):
        open_store("pvc://claim/runs")


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("hdfs://node/runs", "hdfs"),
        ("https://bucket.example/runs", "https"),
        ("s3:///runs", "bucket is missing"),
        ("s3://bucket/runs?versionId=1", "query"),
        ("file://elsewhere/runs", "absolute path"),
    ],
)
def test_other_urls_are_refused(written: str, named: str) -> None:
    with pytest.raises(InvalidSpec, match=named):
        open_store(written)


def test_a_password_in_a_url_is_not_repeated() -> None:
    with pytest.raises(InvalidSpec) as caught:
        open_store("s3://me:hunter2@bucket/runs")
    assert "hunter2" not in str(caught.value)


def test_missing_credentials_are_named_not_shown() -> None:
    with pytest.raises(InvalidSpec, match="AWS_SECRET_ACCESS_KEY") as caught:
        open_store("s3://bucket", options=StoreOptions(credentials={"AWS_ACCESS_KEY_ID": "AKIAVISIBLE"}))
    assert "AKIAVISIBLE" not in str(caught.value)


def test_a_missing_ca_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"nowhere\.pem"):
        open_store("s3://bucket", options=StoreOptions(credentials=AWS, ca_bundle=tmp_path / "nowhere.pem"))


def test_secrets_are_in_no_representation() -> None:
    options = StoreOptions(endpoint="http://127.0.0.1:1", credentials=AWS)
    store = open_store("s3://bucket/runs", options=options)
    shown = f"{options!r} {options!s} {store!r} {store!s} {vars(store)!r}"
    for secret in AWS.values():
        assert secret not in shown
    assert hash(options) == hash(StoreOptions(endpoint="http://127.0.0.1:1"))
