"""Tables that all sessions share and each may change: a base that never changes, and what a session made of it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

TableRow: TypeAlias = dict[str, str | None]

PAGE = 5
"""Results on a page, where nobody asks for more."""

EXACT = frozenset({"status", "list_name", "board"})
"""Columns whose case counts when tables are compared."""


@dataclass(frozen=True)
class Base:
    """A table as it was loaded.

    Attributes:
        columns: the first is the key.
        rows: by key, in the order of the file; by position where keys are not unique.
        texts: of each row, lower-case, for searches.
    """

    columns: tuple[str, ...]
    rows: dict[str, TableRow]
    texts: dict[str, str]

    @cached_property
    def top(self) -> str | None:
        """The highest key that is a number."""
        return max((key for key in self.rows if key.isdigit()), key=int, default=None)


def load(data: bytes, searched: tuple[str, ...] = ()) -> Base:
    """A table from CSV with a header; ``searched`` are the columns that a search looks at."""
    reader = csv.DictReader(io.StringIO(data.decode()))
    columns = tuple(reader.fieldnames or ())
    listed: list[TableRow] = [dict(row) for row in reader]
    rows = {row[columns[0]] or "": row for row in listed}
    if len(rows) < len(listed):
        rows = {str(position): row for position, row in enumerate(listed)}
    return Base(columns, rows, {key: text_of(row, searched) for key, row in rows.items()})


def text_of(row: TableRow, columns: tuple[str, ...]) -> str:
    """What a search finds in a row."""
    return " ".join(row[column] or "" for column in columns).lower()


class Table:
    """A session's view of a base: rows that it changed or added, and None for those it deleted."""

    __slots__ = ("_searched", "base", "changed")

    def __init__(self, base: Base, searched: tuple[str, ...] = ()) -> None:
        self.base = base
        self.changed: dict[str, TableRow | None] = {}
        self._searched = searched

    def get(self, key: str) -> TableRow | None:
        """The row, if it is there."""
        return self.changed[key] if key in self.changed else self.base.rows.get(key)

    def rows(self) -> Iterator[TableRow]:
        """All rows: those of the file in its order, then new ones."""
        changed = self.changed
        for key, row in self.base.rows.items():
            now = changed.get(key, row) if changed else row
            if now is not None:
                yield now
        yield from (row for key, row in changed.items() if row is not None and key not in self.base.rows)

    def search(self, words: list[str]) -> list[TableRow]:
        """Rows that have all words, lower-case, in the searched columns."""
        key, texts = self.base.columns[0], self.base.texts
        found = []
        for row in self.rows():
            text = texts.get(row[key] or "") if row[key] not in self.changed else None
            if all(word in (text if text is not None else text_of(row, self._searched)) for word in words):
                found.append(row)
        return found

    def add(self, **fields: str | None) -> str:
        """Add a row under the next key, which is returned."""
        key, top = self.base.columns[0], self.base.top
        taken = [int(name) for name, row in self.changed.items() if row is not None and name.isdigit()]
        if top is not None and self.get(top) is not None:
            taken.append(int(top))
        else:
            taken += [int(name) for name in self.base.rows if name.isdigit() and self.get(name) is not None]
        new = f"{max(taken, default=0) + 1:08d}"
        self.changed[new] = {key: new, **fields}
        return new

    def delete(self, key: str) -> bool:
        """Delete a row; False where there is none."""
        if self.get(key) is None:
            return False
        if key in self.base.rows:
            self.changed[key] = None
        else:
            del self.changed[key]
        return True

    def update(self, key: str, field: str, value: str) -> bool:
        """Set a field; False where there is no such row."""
        row = self.get(key)
        if row is None:
            return False
        self.changed[key] = {**row, field: value}
        return True

    def difference(self) -> dict[str, Any]:
        """What differs from the base, case aside: rows by key, None for deleted ones."""
        return {
            key: now
            for key, row in self.changed.items()
            if (now := _folded(row)) != (_folded(self.base.rows[key]) if key in self.base.rows else ())
        }

    def added(self) -> list[Any]:
        """New rows without their keys, case aside, in an order of their own."""
        key = self.base.columns[0]
        new = [row for name, row in self.changed.items() if row is not None and name not in self.base.rows]
        return sorted(repr(_folded({name: text for name, text in row.items() if name != key})) for row in new)


def _folded(row: TableRow | None) -> tuple[Any, ...] | None:
    if row is None:
        return None
    return tuple(
        (name, text if text is None or name in EXACT else str(text).lower()) for name, text in sorted(row.items())
    )


def paged(rows: list[TableRow], name: str, page: int, page_size: int) -> dict[str, Any]:
    """One page of results and where it stands."""
    size = max(1, page_size)
    start = (max(1, page) - 1) * size
    total = len(rows)
    pages = {f"total_{name}": total, "page": page, "page_size": page_size, "total_pages": math.ceil(total / size)}
    return {name: rows[start : start + size], "pagination": pages}


def said(value: Any) -> dict[str, Any]:
    """What every tool answers."""
    return {"output": value}


def is_email(text: str) -> bool:
    """Whether a text looks like an address."""
    return "@" in text and "." in text
