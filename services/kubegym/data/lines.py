"""JSON lines in a file: where rows begin, and reading them by position."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator

from kubegym.core.errors import InvalidRows, InvalidSpec, RowProblem

STRIDE = 32
"""The offset of every 32nd row is kept: 1 byte of memory for 4 rows, and a shard's tasks are read at once."""

BLOCK = 1 << 20
"""Bytes read from a local file at a time."""

MAX_ROW_BYTES = 64 << 20
"""A longer line is refused: it is no row, and lines are held whole."""

_BOM = b"\xef\xbb\xbf"


class RowIndex:
    """Finds the rows of a JSON-lines stream, block by block, without keeping any of it.

    Blank lines are no rows but count as lines.

    Args:
        source: name of the stream, for messages.
        offset: rows to leave out at the beginning.
        limit: rows to take at most; None takes all.
        stride: the start of every ``stride``-th row taken is kept.

    Attributes:
        rows: rows taken so far.
        starts: byte offsets of rows 0, stride, 2 * stride, ... of those taken.
        lines: 1-based line number of every row taken (only with ``stride`` 1).
        first_line: line number of the first row taken.
        end: where the last row taken ends.
        full: whether ``limit`` rows are found, so that the rest of the stream does not matter.
    """

    def __init__(self, source: str, *, offset: int = 0, limit: int | None = None, stride: int = STRIDE) -> None:
        self.rows = 0
        self.starts = array("Q")
        self.lines = array("Q")
        self.first_line = 1
        self.end = 0
        self.full = limit == 0
        self._source = source
        self._skip = offset
        self._limit = limit
        self._stride = stride
        self._fed = 0  # bytes seen
        self._start = 0  # where the current line began
        self._line = 1  # and its number
        self._written = False  # whether the current line has shown anything but white space

    def feed(self, block: bytes) -> None:
        """Take the next bytes of the stream. Raises InvalidRows for a line beyond ``MAX_ROW_BYTES``."""
        if self.full:
            return
        position = self._fed
        self._fed += len(block)
        if position == 0 and block.startswith(_BOM):
            block = block[len(_BOM) :]
            position = self._start = len(_BOM)
        pieces = block.split(b"\n")
        rest = pieces.pop()
        for piece in pieces:
            position += len(piece) + 1
            if self._written or piece.strip():
                self._found(position)
                if self.full:
                    return
            self._start = position
            self._line += 1
            self._written = False
        self._written = self._written or bool(rest.strip())
        if self._fed - self._start > MAX_ROW_BYTES:
            raise InvalidRows([RowProblem(self._source, self._line, "the line is longer than 64 MiB")], 1)

    def finish(self) -> None:
        """The stream has ended: a last line without a newline is a row, too."""
        if self._written and not self.full:
            self._found(self._fed)

    def _found(self, end: int) -> None:
        if self._skip:
            self._skip -= 1
            return
        if not self.rows:
            self.first_line = self._line
        if self.rows % self._stride == 0:
            self.starts.append(self._start)
        if self._stride == 1:
            self.lines.append(self._line)
        self.rows += 1
        self.end = end
        self.full = self.rows == self._limit


class RowFile:
    """Rows of an open JSON-lines file by position, found by a ``RowIndex`` of stride ``STRIDE``.

    Args:
        descriptor: the open file; not closed here.
        index: of this file.
        source: name for messages.
    """

    def __init__(self, descriptor: int, index: RowIndex, source: str) -> None:
        self.rows = index.rows
        self._descriptor = descriptor
        self._starts = index.starts
        self._first_line = index.first_line
        self._end = index.end
        self._source = source
        self._stamp = self._state()

    def blocks(self) -> Iterator[list[tuple[int, bytes]]]:
        """All rows with their line numbers, in order, a block of the file at a time."""
        position = self._starts[0] if self.rows else self._end
        line, carry = self._first_line, b""
        while position < self._end:
            block = self._read(position, min(BLOCK, self._end - position))
            position += len(block)
            pieces = block.split(b"\n")
            pieces[0] = carry + pieces[0]
            carry = pieces.pop() if position < self._end else b""
            found = []
            for number, piece in enumerate(pieces, line):
                if row := piece.strip():
                    found.append((number, row))
            line += len(pieces)
            yield found

    def read(self, first: int, count: int) -> list[bytes]:
        """Rows ``first`` to ``first + count``; fewer at the end."""
        stop = min(first + count, self.rows)
        if first < 0 or stop <= first:
            return []
        begin = self._starts[first // STRIDE]
        after = (stop - 1) // STRIDE + 1
        end = self._starts[after] if after < len(self._starts) else self._end
        rows = [row for piece in self._read(begin, end - begin).split(b"\n") if (row := piece.strip())]
        skip = first % STRIDE
        return rows[skip : skip + stop - first]

    def _read(self, position: int, length: int) -> bytes:
        data = os.pread(self._descriptor, length, position)
        while len(data) < length:
            more = os.pread(self._descriptor, length - len(data), position + len(data))
            if not more:
                break
            data += more
        if len(data) < length or self._state() != self._stamp:
            raise InvalidSpec(f"{self._source} was changed while the run read it", reason="DatasetChanged")
        return data

    def _state(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns
