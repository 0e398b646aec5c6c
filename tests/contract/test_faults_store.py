"""Runs whose output gives trouble: full, read-only, without conditional writes, or holding a run of something else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from kubegym import Rollout, Verdict
from kubegym.core.errors import ConditionalWritesUnsupported, OutputInUse, PlanConflict, StoreError
from kubegym.core.ids import digest
from kubegym.local import localrun
from kubegym.rollout import Manifest, read_run
from kubegym.rollout.errors import CorruptRecord
from kubegym.storage import Conflict, LocalStore, MemoryStore, StoreDenied, StoreFull
from testbed.local_runs import (
    Fine,
    assert_nothing_written,
    command,
    completion,
    engine_client,
    never,
    number_asked,
    numbered,
    settle_all,
    settled,
    start,
)
from testbed.required import unavailable

pytestmark = pytest.mark.contract


# Full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0 and os.geteuid() != 0:
        pytest.skip(f"only root may make a file system of 1 MiB: {done.stderr.strip()}")
    if done.returncode != 0:
        unavailable(f"a file system of 1 MiB: {' '.join(mount)}: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def must_not_be_asked(body: dict[str, Any]) -> dict[str, Any]:
    raise AssertionError("a finished run asked its model")


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


async def committed_rows(output: Path) -> list[dict[str, Any]]:
    """What a run that was broken off had committed, in order."""
    store = LocalStore(output)
    run = await read_run(store)
    rows = [orjson.loads(line) async for lines in run.tasks() for line in lines]
    await store.close()
    return rows


async def test_a_full_disk_ends_the_run_and_loses_nothing(small_disk: Path) -> None:
    """Answers that do not compress fill it; when there is space again the same run goes on."""
    output = small_disk / "out"
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (600 << 10))
    asked: list[int] = []

    def chat(body: dict[str, Any]) -> dict[str, Any]:
        asked.append(number_asked(body))
        return completion(os.urandom(1500).hex())

    options: dict[str, Any] = {"rows": numbered(400), "concurrency": 4, "flush_bytes": 8192, "tasks_per_shard": 16}
    with pytest.raises(StoreFull, match="no space left"):
        await start(output, Fine, engine_client(chat), **options)
    kept = await committed_rows(output)
    assert 0 < len(kept) < 400
    assert [row["reward"] for row in kept] == [1.0] * len(kept)
    numbers = {row["n"] for row in kept}

    ballast.unlink()
    remount(small_disk, "size=64m")
    asked.clear()
    result = await start(output, Fine, engine_client(chat), **options)
    assert sorted(asked) == sorted(set(range(400)) - numbers), "only what was missing was asked for"
    assert (result.exit_code, result.resumed, result.manifest.totals.scored) == (0, len(kept), 400)
    rows = await settled(output)
    assert all(rows[row["n"]] == row for row in kept), "what was committed is as it was"


async def test_a_disk_that_is_full_at_the_end_is_merged_by_the_next_start(small_disk: Path) -> None:
    """All results are there, but not the space for the files made from them."""
    output = small_disk / "out"
    text = "word " * 2000  # parts are compressed, rollouts.jsonl is not
    client = engine_client(lambda body: completion(text))
    with pytest.raises(StoreFull):
        await start(output, Fine, client, rows=numbered(200))
    assert Manifest.from_json((output / "manifest.json").read_bytes()).totals.scored == 200
    assert not (output / "rollouts.jsonl").exists()
    remount(small_disk, "size=64m")
    ended = await settle_all(output, Fine, engine_client(must_not_be_asked), rows=numbered(200))
    assert ended.result.resumed == 200
    assert [path.name for path in output.rglob(".*")] == [], "no half-written file is left"


def test_the_command_line_says_that_the_disk_is_full(small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "made" / "data").mkdir(parents=True)
    (tmp_path / "made" / "app.py").write_text(
        "from kubegym import Environment, Verdict\nclass Made(Environment):\n"
        "    def verify(self, rollout):\n        return Verdict(1.0)\n"
    )
    lines = b"".join(orjson.dumps(row) + b"\n" for row in numbered(50))
    (tmp_path / "made" / "data" / "example.jsonl").write_bytes(lines)
    (small_disk / "ballast").write_bytes(b"x" * ((1 << 20) - (20 << 10)))
    done = command("run", "made", "--engine", "simulated", "--output", small_disk / "out", cwd=tmp_path)
    assert done.returncode == 1
    assert "no space left" in done.stderr
    assert "[ObjectStoreFull]" in done.stderr


# Not to be written to


async def test_a_read_only_output_is_refused_at_once(small_disk: Path) -> None:
    """Also for root, whom permissions do not hold back."""
    remount(small_disk, "ro")
    with pytest.raises(StoreDenied, match=r"do not allow .* below"):
        await start(small_disk / "out", Fine, never)
    assert_nothing_written(small_disk)


async def test_an_output_below_a_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="Not a directory"):
        await start(tmp_path / "file" / "out", Fine, never)
    assert (tmp_path / "file").read_text() == "mine"


class Careless(MemoryStore):
    """A store that takes every write, whatever its condition."""

    async def create(self, key: str, data: bytes) -> str:
        return await self.put(key, data)

    async def swap(self, key: str, data: bytes, etag: str) -> str:
        return await self.put(key, data)


class CarelessCreate(MemoryStore):
    """A store that knows If-Match, but not If-None-Match."""

    async def create(self, key: str, data: bytes) -> str:
        return await self.put(key, data)


class CarelessSwap(MemoryStore):
    """A store that knows If-None-Match, but not If-Match."""

    async def swap(self, key: str, data: bytes, etag: str) -> str:
        if await self.get(key) is None:
            raise Conflict(key)
        self.objects[key] = data
        return digest(data)


@pytest.mark.parametrize("kind", [Careless, CarelessCreate, CarelessSwap])
async def test_a_store_without_conditional_writes_is_refused_at_once(
    kind: type[MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = kind("careless://")
    monkeypatch.setattr(localrun, "open_store", lambda *args, **options: store)
    with pytest.raises(ConditionalWritesUnsupported, match="does not honour conditional writes"):
        await start("careless://", Fine, never)
    assert store.objects == {}


async def test_a_volume_claim_is_refused_at_once() -> None:
    with pytest.raises(ConditionalWritesUnsupported, match="compare-and-swap"):
        await start("pvc://claim/runs", Fine, never)


# Holding something else


@pytest.fixture
async def finished(tmp_path: Path) -> Path:
    """The output of a finished run of five rows."""
    await settle_all(tmp_path / "out")
    return tmp_path / "out"


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Stricter(Fine):
    """Fine, with another verifier."""

    verifier_version = "2"

    def verify(self, rollout: Rollout) -> Verdict:
        return Verdict(0.5)


Stricter.__name__ = "Fine"


def other(request: dict[str, Any]) -> str:
    return "other"


@pytest.mark.parametrize(
    ("changed", "fields"),
    [
        ({"rows": numbered(6)[1:]}, {"environments.made.dataset.sha256"}),
        ({"rows": numbered(4)}, {"environments.made.dataset.sha256"}),
        ({"sampling": {"temperature": 0.5}}, {"environments.made.sampling.temperature"}),
        ({"seed": 1}, {"environments.made.seed"}),
        ({"max_steps": 3, "on_truncated": "Skip"}, {"environments.made.max_steps", "environments.made.on_truncated"}),
        ({"rollout_timeout": 5.0}, {"environments.made.rollout_timeout"}),
        ({"model": other}, {"environments.made.models.policy.model"}),
        (
            {"environment": Stricter},
            {"environments.made.source", "environments.made.verifier_version"},
        ),
        ({"tasks": 3}, {"size"}),
    ],
    ids=lambda value: "-".join(sorted(value)),
)
async def test_changed_inputs_are_named_and_nothing_is_mixed(
    changed: dict[str, Any], fields: set[str], finished: Path
) -> None:
    before = files(finished)
    with pytest.raises(PlanConflict) as caught:
        await start(finished, **changed)
    assert set(caught.value.differences) == fields
    assert all(name in caught.value.message for name in fields)
    assert files(finished) == before


@pytest.mark.parametrize(
    "pace",
    [
        {"concurrency": 1},
        {"max_attempts": 9},
        {"max_failed_fraction": 0.01},
        {"flush_seconds": 5.0, "flush_bytes": 1},
        {"tasks_per_shard": 1},
    ],
    ids=lambda value: "-".join(value),
)
async def test_the_pace_may_change(pace: dict[str, Any], finished: Path) -> None:
    result = await start(finished, **pace)
    assert (result.resumed, result.manifest.totals.scored) == (5, 5)


@pytest.mark.parametrize("name", ["plan.json", "manifest.json", "shards/0/head.json"])
@pytest.mark.parametrize("data", [b"", b'{"half": ', b"[]", b"{}", b'{"schema": 99}'])
async def test_a_damaged_record_is_told_and_left_as_it_is(name: str, data: bytes, finished: Path) -> None:
    if name != "manifest.json":
        (finished / "manifest.json").unlink()  # else nobody asks the head
    (finished / name).write_bytes(data)
    before = files(finished)
    with pytest.raises(CorruptRecord, match="is damaged, or of another version"):
        await start(finished)
    assert files(finished) == before


@pytest.mark.parametrize("data", [b'{"half": ', b"[]", b"{}"])
async def test_a_damaged_summary_is_made_again(data: bytes, finished: Path) -> None:
    whole = orjson.loads((finished / "summary.json").read_bytes())
    (finished / "summary.json").write_bytes(data)
    ended = await settle_all(finished)
    assert (ended.result.resumed, ended.result.exit_code) == (5, 0)
    assert orjson.loads((finished / "summary.json").read_bytes())["environments"] == whole["environments"]


async def test_two_runs_at_once_on_one_output_do_not_mix(tmp_path: Path) -> None:
    """Whoever comes second is told, and disturbs nothing."""
    output = tmp_path / "out"
    refused: list[BaseException] = []

    async def chat(body: dict[str, Any]) -> dict[str, Any]:
        if not refused:
            refused.append(OutputInUse("not yet"))
            with pytest.raises(OutputInUse, match="is in use by") as caught:
                await start(output, Fine, engine_client(must_not_be_asked))
            refused[0] = caught.value
        return completion()

    ended = await settle_all(output, Fine, engine_client(chat), concurrency=1)
    assert str(refused[0]) != "not yet"
    assert ended.result.manifest.totals.scored == 5
