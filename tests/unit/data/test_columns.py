import math
import statistics
import sys
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym.data import columns
from kubegym.data.columns import Column, Spill, describe, select

numbers = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, 0.5])


def expected(values: list[float]) -> tuple[float, ...]:
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.fmean(values), max(values), min(values), statistics.median(values), std


@given(st.lists(numbers, min_size=1, max_size=40))
def test_a_few_numbers(values: list[float]) -> None:
    assert describe(values) == pytest.approx(expected(values), rel=1e-9, abs=1e-9)


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=300),
    st.integers(1, 40),
    st.integers(1, 30),
    st.integers(0, 299),
)
def test_selection_is_sorting(values: list[float], width: int, fit: int, place: int) -> None:
    values = values or [0.0]
    chunks = [sorted(values[start : start + width]) for start in range(0, len(values), width)]
    place %= len(values)
    assert select(lambda: chunks, len(values), place, fit) == sorted(values)[place]


@pytest.mark.parametrize("values", [[1.0] * 500, [float(n % 3) for n in range(500)], [float(-n) for n in range(500)]])
def test_selection_among_equal_numbers(values: list[float]) -> None:
    chunks = [sorted(values[start : start + 50]) for start in range(0, 500, 50)]
    for place in (0, 1, 249, 250, 498, 499):
        assert select(lambda: chunks, 500, place, 10) == sorted(values)[place]


def unused() -> Spill:
    raise AssertionError("a column of few different values needs no file")


def test_a_column_of_few_values_stays_in_memory() -> None:
    column = Column(unused)
    values = [float(n % 7) for n in range(10_000)]
    for value in values:
        column.extend([value])
    assert column.statistics() == pytest.approx(expected(values), rel=1e-12)


@pytest.mark.parametrize("count", [1025, 4096, 20_001])
def test_a_column_of_many_values_goes_to_disk(tmp_path: Path, count: int) -> None:
    spill = Spill(tmp_path)
    column = Column(lambda: spill)
    values = [math.sin(n) * 1e3 + 1e6 for n in range(count)] + [7.0] * 5000
    for start in range(0, len(values), 8):
        column.extend(values[start : start + 8])
    assert column.statistics() == pytest.approx(expected(values), rel=1e-12)
    column.extend([7.0] * 30_000)
    assert column.statistics()[3] == 7.0, "a column may be asked, and go on"
    spill.close()


def test_the_spread_survives_a_large_mean() -> None:
    column = Column(unused)
    column.extend([1e9 + n % 3 for n in range(3000)])
    assert column.statistics()[4] == pytest.approx(statistics.stdev([n % 3 for n in range(3000)]), rel=1e-9)


def test_the_mean_of_equal_numbers_is_that_number() -> None:
    column = Column(unused)
    column.extend([0.1] * 1003)
    assert column.statistics() == (0.1, 0.1, 0.1, 0.1, 0.0)


def test_numbers_beyond_all_doubles_stay_finite() -> None:
    column = Column(unused)
    column.extend([1e308, 1e308, -1e308, 1e308])
    assert all(math.isfinite(number) for number in column.statistics())
    assert describe([1e308, 1e308, 1e307])[4] == pytest.approx(math.sqrt(sys.float_info.max / 2))


def test_a_spilled_chunk_comes_back(tmp_path: Path) -> None:
    spill = Spill(tmp_path)
    first, second = array("d", [1.0, 2.0]), array("d", [3.0])
    offsets = [spill.append(first), spill.append(second)]
    assert [spill.read(offsets[1], 1), spill.read(offsets[0], 2)] == [second, first]
    assert list(tmp_path.iterdir()) == [], "no name, so no crash leaves it behind"
    spill.close()


def test_memory_of_a_spilled_column_is_bounded() -> None:
    assert columns._CHUNK * 8 + columns._BUFFER * 32 + columns._DISTINCT * 200 < 1 << 19
