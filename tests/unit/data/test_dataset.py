import hashlib
import sys
import tracemalloc
from pathlib import Path

import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kubegym.core.errors import InvalidRows, InvalidSpec
from kubegym.data import lines as lines_module
from kubegym.data.dataset import Dataset, DatasetSpec, MemoryDataset, open_dataset
from kubegym.data.lines import RowFile, RowIndex
from kubegym.data.shuffle import permutation
from kubegym.storage import open_store
from kubegym.storage.errors import ObjectNotFound


def jsonl(count: int) -> bytes:
    return b"".join(b'{"n":%d}\n' % n for n in range(count))


async def contents(dataset: Dataset) -> tuple[list[int], list[int]]:
    pairs = [(line, orjson.loads(row)["n"]) async for line, row in dataset.iterate()]
    return [line for line, _ in pairs], [n for _, n in pairs]


class OneObject:
    """A store with one object; remembers the ranges asked for."""

    def __init__(self, key: str, data: bytes) -> None:
        self.key, self.data, self.ranges, self.closed = key, data, [], False

    def __call__(self, url, /, *, options=None):
        self.url, self.options = url, options
        return self

    async def get_range(self, key, start, length):
        if key != self.key:
            raise ObjectNotFound(key)
        self.ranges.append((start, length))
        return self.data[start : start + length]

    async def close(self):
        self.closed = True


async def test_a_local_file_is_used_in_place(tmp_path: Path) -> None:
    path, scratch = tmp_path / "rows.jsonl", tmp_path / "scratch"
    path.write_bytes(jsonl(100))
    dataset = await open_dataset(DatasetSpec(str(path)), scratch=scratch)
    assert dataset.rows == 100
    assert dataset.digest == hashlib.sha256(jsonl(100)).hexdigest()
    assert await contents(dataset) == (list(range(1, 101)), list(range(100)))
    assert [orjson.loads(row)["n"] for row in await dataset.read(30, 5)] == [30, 31, 32, 33, 34]
    assert [orjson.loads(row)["n"] for row in await dataset.read(98, 5)] == [98, 99]
    assert await dataset.read(100, 5) == []
    assert not scratch.exists()
    await dataset.close()


async def test_file_uris_name_local_files(tmp_path: Path) -> None:
    path = tmp_path / "my rows.jsonl"
    path.write_bytes(jsonl(2))
    dataset = await open_dataset(DatasetSpec(path.as_uri()), scratch=tmp_path)
    assert dataset.rows == 2
    await dataset.close()


async def test_blank_lines_count_as_lines_but_not_as_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf\n{"n":0}\r\n\n   \n{"n":1}\n\n{"n":2}')
    dataset = await open_dataset(DatasetSpec(str(path), offset=1), scratch=tmp_path)
    assert await contents(dataset) == ([5, 7], [1, 2])
    await dataset.close()


async def test_offset_and_limit_select_and_the_digest_covers_everything(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl(200))
    dataset = await open_dataset(DatasetSpec(str(path), offset=40, limit=50), scratch=tmp_path)
    assert dataset.rows == 50
    assert dataset.digest == hashlib.sha256(jsonl(200)).hexdigest()
    assert await contents(dataset) == (list(range(41, 91)), list(range(40, 90)))
    assert [orjson.loads(row)["n"] for row in await dataset.read(31, 40)] == list(range(71, 90))
    await dataset.close()
    empty = await open_dataset(DatasetSpec(str(path), limit=0), scratch=tmp_path)
    assert (empty.rows, await contents(empty), await empty.read(0, 9)) == (0, ([], []), [])
    await empty.close()


@pytest.mark.parametrize("form", ["jsonl", "zst", "parquet"])
async def test_shuffle_comes_first_so_that_a_growing_limit_keeps_places(tmp_path: Path, form: str) -> None:
    path = write(tmp_path, form, 100)
    small = await open_dataset(DatasetSpec(str(path), shuffle_seed=5, offset=3, limit=10), scratch=tmp_path)
    large = await open_dataset(DatasetSpec(str(path), shuffle_seed=5, offset=3, limit=40), scratch=tmp_path)
    order = list(permutation(100, 5))[3:43]
    assert await contents(small) == ([n + 1 for n in order[:10]], order[:10])
    assert await contents(large) == ([n + 1 for n in order], order)
    assert [orjson.loads(row)["n"] for row in await large.read(30, 5)] == order[30:35]
    await small.close()
    await large.close()


def write(folder: Path, form: str, count: int) -> Path:
    if form == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        path = folder / "rows.parquet"
        parquet.write_table(pyarrow.table({"n": list(range(count))}), path)
        return path
    path = folder / ("rows.jsonl" if form == "jsonl" else "rows.jsonl.zst")
    path.write_bytes(jsonl(count) if form == "jsonl" else zstandard.compress(jsonl(count)))
    return path


async def test_zstd_with_several_frames(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.zst"
    data = zstandard.compress(jsonl(3)) + zstandard.compress(b'{"n":3}\n{"n":4}')
    path.write_bytes(data)
    dataset = await open_dataset(DatasetSpec(str(path)), scratch=tmp_path / "scratch")
    assert dataset.digest == hashlib.sha256(data).hexdigest()
    assert await contents(dataset) == ([1, 2, 3, 4, 5], [0, 1, 2, 3, 4])
    assert list((tmp_path / "scratch").iterdir()) == [], "the spool has no name, so no crash leaves it behind"
    await dataset.close()


@pytest.mark.parametrize(("data", "message"), [(b"junk", "not valid zstd"), (None, "middle of a zstd frame")])
async def test_broken_zstd_is_said(tmp_path: Path, data: bytes | None, message: str) -> None:
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(data or zstandard.compress(jsonl(1000))[:-20])
    with pytest.raises(InvalidSpec, match=message):
        await open_dataset(DatasetSpec(str(path)), scratch=tmp_path)


async def test_parquet_leaves_absent_fields_out(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    rows = [
        {"responses_create_params": {"input": [{"role": "user", "content": "a", "type": None}]}, "n": 1},
        {"responses_create_params": {"input": [{"role": "user", "content": "b", "type": "message"}]}, "n": None},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    dataset = await open_dataset(DatasetSpec(str(path)), scratch=tmp_path)
    assert orjson.loads((await dataset.read(0, 1))[0]) == {
        "responses_create_params": {"input": [{"role": "user", "content": "a"}]},
        "n": 1,
    }
    assert "n" not in orjson.loads((await dataset.read(1, 1))[0])
    await dataset.close()


async def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidSpec, match=r"pip install 'kubegym\[parquet\]'"):
        await open_dataset(DatasetSpec(str(path)), scratch=tmp_path)


async def test_broken_parquet_is_said(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(InvalidSpec, match="not readable Parquet"):
        await open_dataset(DatasetSpec(str(path)), scratch=tmp_path)


async def test_remote_objects_are_spooled_up_to_the_limit_and_hashed_whole(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("kubegym.data.sources.REMOTE_BLOCK", 64)
    store = OneObject("rows.jsonl", jsonl(100))
    spec = DatasetSpec("s3://bucket/folder/rows.jsonl", offset=2, limit=5)
    dataset = await open_dataset(spec, scratch=tmp_path, open_store=store)
    assert (store.url, store.closed) == ("s3://bucket/folder", True)
    assert dataset.digest == hashlib.sha256(store.data).hexdigest()
    assert await contents(dataset) == ([3, 4, 5, 6, 7], [2, 3, 4, 5, 6])
    assert dataset._file.seek(0, 2) == 64, "nothing behind the limit's block is kept"
    await dataset.close()


async def test_remote_parquet(tmp_path: Path) -> None:
    store = OneObject("rows.parquet", write(tmp_path, "parquet", 10).read_bytes())
    dataset = await open_dataset(DatasetSpec("s3://b/rows.parquet", limit=4), scratch=tmp_path, open_store=store)
    assert await contents(dataset) == ([1, 2, 3, 4], [0, 1, 2, 3])
    await dataset.close()


async def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"nothing.jsonl does not exist") as caught:
        await open_dataset(DatasetSpec(str(tmp_path / "nothing.jsonl")), scratch=tmp_path)
    assert caught.value.reason == "DatasetNotFound"
    store = OneObject("other.jsonl", b"")
    with pytest.raises(InvalidSpec, match=r"s3://b/rows.jsonl does not exist"):
        await open_dataset(DatasetSpec("s3://b/rows.jsonl"), scratch=tmp_path, open_store=store)
    assert store.closed


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("rows.txt", "extension tells no format"),
        ("s3://bucket", "names no object"),
        ("file://a/b.jsonl", "three slashes"),
    ],
)
async def test_uris_that_cannot_be_used(tmp_path: Path, uri: str, message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        await open_dataset(DatasetSpec(uri), scratch=tmp_path)


async def test_a_pinned_digest_is_held(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl(3))
    digest = hashlib.sha256(jsonl(3)).hexdigest()
    await (await open_dataset(DatasetSpec(str(path), sha256=digest.upper()), scratch=tmp_path)).close()
    path.write_bytes(jsonl(4))
    with pytest.raises(InvalidSpec, match="not the one that was pinned") as caught:
        await open_dataset(DatasetSpec(str(path), sha256=digest, limit=3), scratch=tmp_path)
    assert caught.value.reason == "DatasetChanged"


async def test_a_file_that_changes_under_the_run_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl(3))
    dataset = await open_dataset(DatasetSpec(str(path)), scratch=tmp_path)
    with path.open("ab") as file:
        file.write(b'{"n":3}\n')
    with pytest.raises(InvalidSpec, match="was changed"):
        await dataset.read(0, 1)
    await dataset.close()


async def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lines_module, "MAX_ROW_BYTES", 100)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n":0}\n' + b" " * 200)
    with pytest.raises(InvalidRows, match=r"rows.jsonl:2: the line is longer"):
        await open_dataset(DatasetSpec(str(path)), scratch=tmp_path)


async def test_memory_does_not_grow_with_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(b'{"n":%d,"text":"%s"}\n' % (n, b"x" * 400) for n in range(50_000)))
    tracemalloc.start()
    try:
        dataset = await open_dataset(DatasetSpec(str(path)), scratch=tmp_path)
        async for _ in dataset.iterate():
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20, "a few blocks of 1 MiB, of a file of 20 MiB"
    await dataset.close()


async def test_rows_in_memory() -> None:
    dataset = MemoryDataset([{"n": 0}, {"n": 1}])
    assert await contents(dataset) == ([1, 2], [0, 1])
    assert await dataset.read(1, 5) == [b'{"n":1}']
    assert dataset.digest == hashlib.sha256(b'{"n":0}\n{"n":1}\n').hexdigest()
    with pytest.raises(InvalidRows, match="rows:2: "):
        MemoryDataset([{"n": 0}, {"n": object()}])


def test_permutations_are_the_same_everywhere() -> None:
    assert list(permutation(10, 42)) == PERMUTATION_42
    assert list(permutation(0, 1)) == []
    assert list(permutation(10, 1)) != list(permutation(10, -1))


PERMUTATION_42 = [1, 7, 8, 9, 3, 0, 6, 2, 5, 4]


@given(st.integers(0, 300), st.integers())
def test_a_permutation_has_every_row_once(count: int, seed: int) -> None:
    assert sorted(permutation(count, seed)) == list(range(count))


@given(
    rows=st.lists(st.sampled_from([b"", b" ", b"1", b"22", b'{"a":1}', b"x" * 50, b"\r"]), max_size=120),
    cuts=st.integers(1, 97),
    offset=st.integers(0, 70),
    limit=st.none() | st.integers(0, 70),
    newline=st.booleans(),
)
def test_an_index_finds_what_splitting_finds(tmp_path_factory, rows, cuts, offset, limit, newline) -> None:
    data = b"\n".join(rows) + (b"\n" if newline else b"")
    index = RowIndex("x", offset=offset, limit=limit)
    for start in range(0, len(data), cuts):
        index.feed(data[start : start + cuts])
    index.finish()
    wanted = [(number, row.strip()) for number, row in enumerate(data.split(b"\n"), 1) if row.strip()]
    wanted = wanted[offset:] if limit is None else wanted[offset : offset + limit]
    assert index.rows == len(wanted)
    path = tmp_path_factory.getbasetemp() / "index.jsonl"
    path.write_bytes(data)
    with path.open("rb") as file:
        found = RowFile(file.fileno(), index, "x")
        assert [pair for block in found.blocks() for pair in block] == wanted
        assert [found.read(i, 1)[0] for i in range(len(wanted))] == [row for _, row in wanted]
        assert found.read(0, 1000) == [row for _, row in wanted]


async def test_objects_come_from_the_stores_of_the_storage_package(tmp_path: Path) -> None:
    await open_store("memory://dataset-test").put("rows.jsonl", jsonl(3))
    dataset = await open_dataset(DatasetSpec("memory://dataset-test/rows.jsonl"), scratch=tmp_path)
    assert await contents(dataset) == ([1, 2, 3], [0, 1, 2])
    await dataset.close()
