"""JSON lines in a scratch file: what aggregation keeps of every task, off the memory."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast, overload

import orjson

_READ = 1 << 20  # bytes of lines held while they are iterated
_STRIDE = 64  # the place of every 64th line is remembered


class DiskLines:
    """JSON lines on disk, written once and read as often as wanted; the file appears with the first line."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._file: BinaryIO | None = None
        self._starts = array("Q")  # of every _STRIDE-th line
        self._count = 0
        self._end = 0

    def __len__(self) -> int:
        return self._count

    def append(self, line: bytes) -> None:
        """Add a line, which ends with its newline."""
        if self._file is None:
            self._scratch.mkdir(parents=True, exist_ok=True)
            self._file = cast(BinaryIO, tempfile.TemporaryFile(dir=self._scratch))  # noqa: SIM115
        if self._count % _STRIDE == 0:
            self._starts.append(self._end)
        self._count += 1
        self._end += self._file.write(line)

    def __iter__(self) -> Iterator[bytes]:
        position = 0
        while self._file is not None and position < self._end:
            self._file.seek(position)  # others may read in between
            lines = self._file.readlines(_READ)
            position += sum(map(len, lines))
            for line in lines:
                yield line[:-1]

    def __getitem__(self, index: int) -> bytes:
        place = range(self._count)[index]
        assert self._file is not None
        self._file.seek(self._starts[place // _STRIDE])
        for _ in range(place % _STRIDE):
            self._file.readline()
        return self._file.readline()[:-1]

    def close(self) -> None:
        """Free the file."""
        if self._file is not None:
            self._file.close()


class DiskTasks(Sequence[list[dict[str, Any]]]):
    """Lines that are JSON lists of rows, parsed as they are asked for."""

    def __init__(self, lines: DiskLines) -> None:
        self._lines = lines

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        return map(orjson.loads, self._lines)

    @overload
    def __getitem__(self, index: int) -> list[dict[str, Any]]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[dict[str, Any]]]: ...
    def __getitem__(self, index: int | slice) -> list[Any]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        rows: list[dict[str, Any]] = orjson.loads(self._lines[index])
        return rows
