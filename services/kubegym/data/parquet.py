"""Parquet datasets as JSON lines. pyarrow is optional: ``pip install 'kubegym[parquet]'``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from kubegym.core.errors import InvalidRows, InvalidSpec, RowProblem

_BATCH = 256  # rows held as Python objects at a time


def parquet_lines(file: BinaryIO, source: str) -> Iterator[bytes]:
    """The rows as JSON lines, a few hundred at a time.

    Parquet has no word for an absent field of a struct: every null field is left out. Dates and UUIDs become strings.

    Args:
        file: an open, seekable file.
        source: its name, for messages.

    Raises:
        InvalidSpec: pyarrow is missing, or the file is not Parquet.
        InvalidRows: a row holds something JSON has no word for (binary columns).
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InvalidSpec(
            f"dataset {source} is Parquet, for which pyarrow is needed: pip install 'kubegym[parquet]'",
            reason="MissingDependency",
        ) from None
    try:
        batches = pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=_BATCH)
        number = 0
        for batch in batches:
            lines = []
            for row in batch.to_pylist():
                number += 1
                lines.append(_line(row, source, number))
            yield b"".join(lines)
    except pyarrow.ArrowException as error:
        raise InvalidSpec(f"dataset {source} is not readable Parquet: {error}") from error


def _line(row: dict[str, Any], source: str, number: int) -> bytes:
    try:
        return orjson.dumps(_without_nulls(row), option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as error:
        raise InvalidRows([RowProblem(source, number, str(error))], 1) from None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value
