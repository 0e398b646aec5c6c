"""A working folder is empty afterwards, whatever was in it, and nothing outside is touched."""

from __future__ import annotations

import os
from pathlib import Path

from kubegym.sandbox import scratch


def test_everything_goes_and_links_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    folder = tmp_path / "scratch"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "up").symlink_to("..")
    (folder / "a").mkdir()
    (folder / "a" / "link").symlink_to(outside / "kept")
    (folder / "closed").mkdir(0)
    (folder / os.fsdecode(b"\xff\n")).write_text("x")
    scratch.empty(str(folder))
    assert list(folder.iterdir()) == []
    assert (outside / "kept").read_text() == "kept"


def test_no_depth_is_too_deep(tmp_path: Path) -> None:
    home = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tmp_path)
        for _ in range(3000):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.fchdir(home)
        os.close(home)
    scratch.empty(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_usage_counts_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "large").write_bytes(bytes(1 << 20))
    (tmp_path / "link").symlink_to("/usr")
    size, files = scratch.usage(str(tmp_path), 100)
    assert (size >= 1 << 20, files) == (True, 3)
    assert scratch.usage(str(tmp_path), 1)[1] == 2


def test_collected_are_regular_files_below(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    (folder / "d").mkdir(parents=True)
    (folder / "d" / "file").write_text("good")
    (tmp_path / "outside").write_text("bad")
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "folder-link").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    found = scratch.collect(str(folder), "d/file", 100)
    assert found is not None
    assert os.read(found, 10) == b"good"
    os.close(found)
    for path in ("link", "folder-link/outside", "pipe", "d", "absent", "d/file/x"):
        assert scratch.collect(str(folder), path, 100) is None
    assert scratch.collect(str(folder), "d/file", 3) is None
