"""The folder's own behaviour: what is left on disk, and what the operating system's errors become."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kubegym.core.errors import StoreError
from kubegym.storage import Conflict, LocalStore, StoreDenied, StoreFull
from kubegym.storage import local as local_module


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def failing(call: Any, number: int) -> Any:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


async def test_nothing_but_the_objects_is_left(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "deep" / "root")
    assert await store.get("a/b") is None
    assert not (tmp_path / "deep").exists(), "reading makes no folders"
    etag = await store.create("a/b", b"1")
    await store.swap("a/b", b"2", etag)
    with pytest.raises(Conflict):
        await store.create("a/b", b"3")
    with pytest.raises(Conflict):
        await store.swap("a/b", b"3", etag)
    await store.put("c", b"4")
    async with store.writer("d") as writer:
        await writer.write(b"5")
    await store.close()
    assert files_below(tmp_path) == ["deep/root/a/b", "deep/root/c", "deep/root/d"]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EACCES, StoreDenied),
        (errno.EPERM, StoreDenied),
        (errno.EROFS, StoreDenied),
        (errno.EIO, StoreError),
    ],
)
@pytest.mark.parametrize("step", ["write", "fsync", "rename", "link"])
async def test_a_failed_write_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int, expected: type[StoreError]
) -> None:
    store = LocalStore(tmp_path)
    etag = await store.put("a", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, step, failing(os.write, number))
        if step != "link":
            with pytest.raises(expected) as caught:
                await store.put("a", b"new")
            assert type(caught.value) is expected
            with pytest.raises(expected):
                await store.swap("a", b"new", etag)
            with pytest.raises(expected):
                async with store.writer("a") as writer:
                    await writer.write(b"new")
        if step != "rename":
            with pytest.raises(expected):
                await store.create("b", b"new")
    stored = await store.get("a")
    assert stored is not None
    assert stored.data == b"old"
    assert files_below(tmp_path) == ["a"]
    await store.close()


async def test_a_short_write_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    store = LocalStore(tmp_path)
    await store.put("a", b"0123456789" * 10)
    monkeypatch.undo()
    stored = await store.get("a")
    assert stored is not None
    assert stored.data == b"0123456789" * 10
    await store.close()


async def test_an_object_where_a_folder_must_be_is_not_retryable(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    await store.put("a", b"1")
    with pytest.raises(StoreError) as caught:
        await store.put("a/b", b"2")
    assert not caught.value.retryable
    assert await store.get("a/b") is None
    await store.delete("a/b")
    await store.put("c/d", b"3")
    with pytest.raises(StoreError) as caught:
        await store.put("c", b"4")
    assert not caught.value.retryable
    assert await store.get("c") is None
    await store.delete("c")
    assert files_below(tmp_path) == ["a", "c/d"]
    await store.close()


async def test_a_folder_locked_for_too_long_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "_LOCK_SECONDS", 0.0)
    store = LocalStore(tmp_path)
    await store.put("a", b"1")
    holder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="locked by another process") as caught:
            await store.put("a", b"2")
        assert caught.value.retryable
    finally:
        os.close(holder)
    await store.put("a", b"3")
    await store.close()


async def test_the_event_loop_goes_on_while_a_disk_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    entered, free = asyncio.Event(), threading.Event()
    threads = set()

    def slow(descriptor: int) -> None:
        threads.add(threading.current_thread())
        loop.call_soon_threadsafe(entered.set)
        assert free.wait(60)

    monkeypatch.setattr(os, "fsync", slow)
    store = LocalStore(tmp_path)
    writing = [asyncio.create_task(store.put("a", body)) for body in (b"first", b"second")]
    await entered.wait()  # reached only because the loop runs
    assert not any(task.done() for task in writing)
    free.set()
    await asyncio.gather(*writing)
    stored = await store.get("a")
    assert stored is not None
    assert stored.data == b"second", "writes keep their order"
    assert len(threads) == 1
    assert threading.current_thread() not in threads
    await store.close()


async def test_closing_waits_for_writes_under_way(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    writing = [asyncio.create_task(store.put(f"{index}", b"x")) for index in range(20)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*writing)
    assert len(files_below(tmp_path)) == 20


async def test_a_forked_process_is_told_instead_of_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    await store.put("a", b"1")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(StoreError) as caught:
        await store.get("a")
    assert (caught.value.reason, caught.value.retryable) == ("StoreForked", False)
    monkeypatch.undo()
    await store.close()


async def test_every_write_syncs_the_file_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def recorded(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            steps.append(name)
            return real(*args, **kwargs)

        return call

    store = LocalStore(tmp_path)
    await store.put("deep/er/a", b"1")
    for name in ("fsync", "rename", "link"):
        monkeypatch.setattr(os, name, recorded(name))

    async def taken(write: Awaitable[object]) -> list[str]:
        steps.clear()
        await write
        return list(steps)

    async def written(key: str) -> None:
        async with store.writer(key) as writer:
            await writer.write(b"2")

    stored = await store.get("deep/er/a")
    assert stored is not None
    assert await taken(store.swap("deep/er/a", b"2", stored.etag)) == ["fsync", "rename"]
    assert await taken(store.put("deep/er/a", b"3")) == ["fsync", "rename"]
    assert await taken(written("deep/er/a")) == ["fsync", "rename"]
    assert await taken(store.create("deep/er/b", b"4")) == ["fsync", "link"]
    assert await taken(store.put("new/folder/a", b"5")) == ["fsync", "rename"]
    await store.close()
