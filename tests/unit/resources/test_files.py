"""Files that a configuration names."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubegym import read_file
from kubegym.core.errors import InvalidSpec, StoreError
from kubegym.storage import open_store


async def test_paths_start_beside_the_module(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    file = tmp_path / "data/table.csv"
    file.write_bytes(b"a,b")
    module = tmp_path / "app.py"
    for uri in ("data/table.csv", str(file), file.as_uri()):
        assert await read_file(uri, module) == b"a,b"


async def test_objects_of_a_store(tmp_path: Path) -> None:
    await open_store("memory://tables/new").put("table.csv", b"c,d")
    assert await read_file("memory://tables/new/table.csv", tmp_path) == b"c,d"
    with pytest.raises(StoreError, match=r"memory://tables/new/other\.csv does not exist"):
        await read_file("memory://tables/new/other.csv", tmp_path)


@pytest.mark.parametrize(
    ("uri", "says"), [("none.csv", "none.csv cannot be read: No such file"), ("s3://bucket", "names no object")]
)
async def test_what_is_not_there_is_named(uri: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=says):
        await read_file(uri, tmp_path / "app.py")
