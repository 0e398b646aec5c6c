"""Statistics of a column of numbers in bounded memory: mean, max, min, median and standard deviation, all exact.

The median is the hard one. A column with few different values (rewards, flags, counts of turns) is a table of counts;
any other goes to a scratch file, 8 bytes a number, in sorted chunks from which the median is selected at the end.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

_BUFFER = 512  # numbers gathered before they enter the sums
_DISTINCT = 1024  # different values that are counted; with more the numbers go to disk
_CHUNK = 4096  # numbers in a sorted chunk on disk: 32 KiB
_LARGEST = sys.float_info.max
_SELECT = 65536  # numbers sorted in memory when a median is selected


Statistics = tuple[float, float, float, float, float]
"""What is said of a column, in the order of ``STATISTICS``. ``std`` is the sample's (n - 1), 0 for a single number."""

STATISTICS = ("mean", "max", "min", "median", "std")


def describe(values: Sequence[float]) -> Statistics:
    """Statistics of a few numbers, at least one."""
    first = values[0]
    count = len(values)
    if count == 1:
        return first, first, first, first, 0.0
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    if low == high:
        return low, low, low, low, 0.0
    mean = _sum(ordered) / count
    std = math.sqrt(_moment(ordered, mean) / (count - 1))
    return mean, high, low, _middle(ordered[(count - 1) // 2], ordered[count // 2]), std


def _sum(values: Sequence[float]) -> float:
    """The sum, rounded once; the largest double where it is beyond all doubles, so that it has a word in JSON."""
    try:
        return math.fsum(values)
    except OverflowError:
        return math.copysign(_LARGEST, sum(value / 2 for value in values))


def _moment(values: Iterable[float], mean: float) -> float:
    """Sum of squared differences from the mean."""
    return min(_sum([(apart := value - mean) * apart for value in values]), _LARGEST)


def _middle(lower: float, upper: float) -> float:
    return lower if lower == upper else lower / 2 + upper / 2


class Spill:
    """A scratch file for doubles, shared by all columns; it has no name, so it goes with the process.

    Args:
        scratch: a folder on a local disk.
    """

    def __init__(self, scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115  (closed by ``close``)
        self._end = 0

    def append(self, numbers: array[float]) -> int:
        """Keep a chunk; its offset."""
        offset = self._end
        self._end += self._file.write(numbers.tobytes())
        return offset

    def read(self, offset: int, count: int) -> array[float]:
        """A chunk of ``count`` numbers."""
        self._file.flush()
        numbers = array("d")
        numbers.frombytes(os.pread(self._file.fileno(), count * numbers.itemsize, offset))
        return numbers

    def close(self) -> None:
        """Free the file."""
        self._file.close()


class Column:
    """Numbers that come one by one.

    Args:
        spill: makes the scratch file; called when the column has too many different values to count.
    """

    __slots__ = ("_buffer", "_chunks", "_count", "_counts", "_high", "_low", "_moment", "_pending", "_spill", "_total")

    def __init__(self, spill: Callable[[], Spill]) -> None:
        self._spill = spill
        self._buffer: list[float] = []
        self._count = 0
        self._total = 0.0
        self._moment = 0.0  # sum of squared differences from the mean
        self._low = math.inf
        self._high = -math.inf
        self._counts: Counter[float] | None = Counter()
        self._pending = array("d")  # not yet a full chunk
        self._chunks = array("Q")  # offsets of full chunks

    def extend(self, values: Iterable[float]) -> None:
        """Take numbers (finite; booleans count as 0 and 1)."""
        self._buffer.extend(values)
        if len(self._buffer) >= _BUFFER:
            self._fold()

    def statistics(self) -> Statistics:
        """Statistics of all numbers so far, at least one."""
        self._fold()
        count = self._count
        std = math.sqrt(self._moment / (count - 1)) if count > 1 and self._low != self._high else 0.0
        lower, upper = self._ordered((count - 1) // 2), self._ordered(count // 2)
        # Rounding may put the mean of equal numbers an ulp outside of them.
        mean = min(max(self._total / count, self._low), self._high)
        return mean, self._high, self._low, _middle(lower, upper), std

    def _fold(self) -> None:
        """Merge the buffer into the sums (Chan, Golub, LeVeque 1979) and into the counts or the file."""
        values = self._buffer
        if not values:
            return
        self._buffer = []
        count, total = len(values), _sum(values)
        mean = total / count
        moment = _moment(values, mean)
        if self._count:
            apart = mean - self._total / self._count
            moment += apart * apart * self._count * count / (self._count + count)
        self._moment = min(self._moment + moment, _LARGEST)
        self._total = _sum((self._total, total))
        self._count += count
        self._low = min(self._low, min(values))
        self._high = max(self._high, max(values))
        if self._counts is None:
            self._store(values)
            return
        self._counts.update(values)
        if len(self._counts) > _DISTINCT:
            counts, self._counts = self._counts, None
            for value, times in counts.items():
                for start in range(0, times, _CHUNK):
                    self._store([value] * min(_CHUNK, times - start))

    def _store(self, values: Sequence[float]) -> None:
        self._pending.extend(map(float, values))
        while len(self._pending) >= _CHUNK:
            self._chunks.append(self._spill().append(array("d", sorted(self._pending[:_CHUNK]))))
            del self._pending[:_CHUNK]

    def _ordered(self, place: int) -> float:
        """The number at a 0-based place of the sorted column."""
        if self._counts is None:
            return select(self._sorted_chunks, self._count, place)
        for value, times in sorted(self._counts.items()):
            if place < times:
                return float(value)
            place -= times
        raise IndexError(place)

    def _sorted_chunks(self) -> Iterator[Sequence[float]]:
        for offset in self._chunks:
            yield self._spill().read(offset, _CHUNK)
        yield sorted(self._pending)


def select(chunks: Callable[[], Iterable[Sequence[float]]], count: int, place: int, fit: int = _SELECT) -> float:
    """The number at a 0-based place of the sorted union of sorted chunks, without holding them.

    Keeps an open interval that is known to hold the number. While too much lies inside, an even sample of it gives
    two pivots close to the place wanted, and a pass that counts below and up to each narrows the interval to between
    or beside them. Each pass costs two bisections a chunk; a sample of ``fit`` narrows by a factor of about 30.

    Args:
        chunks: called for each pass.
        count: numbers in all chunks.
        place: which one, 0 <= place < count.
        fit: numbers that may be held at a time.
    """
    low, high = -math.inf, math.inf
    below, inside = 0, count
    while inside > fit:
        step = -(-inside // fit)
        sample: list[float] = []
        seen = 0
        for part in _between(chunks(), low, high):
            sample.extend(part[-seen % step :: step])
            seen += len(part)
        sample.sort()
        guess = (place - below) * len(sample) // inside
        margin = len(sample) // 64 + 1
        pivots = (sample[max(0, guess - margin)], sample[min(len(sample) - 1, guess + margin)])
        less, up_to = [0, 0], [0, 0]
        for chunk in chunks():
            for i, pivot in enumerate(pivots):
                less[i] += bisect_left(chunk, pivot)
                up_to[i] += bisect_right(chunk, pivot)
        end = below + inside
        if place < less[0]:
            high, end = pivots[0], less[0]
        elif place < up_to[0]:
            return pivots[0]
        elif place < less[1]:
            low, high, below, end = pivots[0], pivots[1], up_to[0], less[1]
        elif place < up_to[1]:
            return pivots[1]
        else:
            low, below = pivots[1], up_to[1]
        inside = end - below
    found: list[float] = []
    for part in _between(chunks(), low, high):
        found.extend(part)
    found.sort()
    return found[place - below]


def _between(chunks: Iterable[Sequence[float]], low: float, high: float) -> Iterator[Sequence[float]]:
    for chunk in chunks:
        start, stop = bisect_right(chunk, low), bisect_left(chunk, high)
        if start < stop:
            yield chunk[start:stop]
