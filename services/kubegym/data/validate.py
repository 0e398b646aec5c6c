"""Check every row before anything runs: a run that would trip over row 90,000 must not start (contract 2.1)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from kubegym.core.errors import InvalidRows, InvalidSpec, RowProblem
from kubegym.data.dataset import Dataset
from kubegym.data.route import route
from kubegym.data.rowcheck import agent_name, check_row

EntryCheck = Callable[[str, dict[str, Any]], str | None]
"""``check(entry, row)``: what is wrong with the fields the entry's environment declares, or None."""

Look = Callable[[str, str, str, bytes, dict[str, Any]], str | None]
"""``look(home, entry, place, line, row)``: what the run finds wrong with a row of a dataset, or None. ``home`` is the
entry whose dataset it is, ``entry`` the one it goes to, ``place`` names source and line, ``line`` is its JSON."""

Progress = Callable[[int], None]
"""Called with the number of rows checked so far, every ``_PAUSE`` rows and at the end."""

_PAUSE = 2048  # rows between two turns of the event loop: about 30 ms
_DENSE = 1 << 27  # task indices below this are remembered by one bit each (16 MiB at most)


@dataclass(frozen=True, slots=True)
class ValidRows:
    """What validation counted.

    Attributes:
        rows: rows in all datasets.
        entries: rows by the environment entry they go to.
        indexed: rows that bring their own ``_ng_task_index``.
    """

    rows: int
    entries: dict[str, int]
    indexed: int


def no_check(entry: str, row: dict[str, Any]) -> str | None:
    """The ``EntryCheck`` of environments that declare no fields."""
    return None


async def validate(
    datasets: Sequence[tuple[str, Dataset]],
    claims: Mapping[str, str],
    check: EntryCheck = no_check,
    progress: Progress | None = None,
    shown: int = InvalidRows.SHOWN,
    look: Look | None = None,
) -> ValidRows:
    """Check all rows of a run.

    Args:
        datasets: each with the name of the environment entry it belongs to.
        claims: agent name -> entry, see ``route``.
        check: the environments' own checks.
        progress: told how far it is.
        shown: how many bad rows are named.
        look: the run's own check.

    Raises:
        InvalidRows: with source, line and reason of the first ``shown`` bad rows, and the count.
        InvalidSpec: a dataset has no rows.
    """
    checker = _Checker(claims, check, {entry: 0 for entry, _ in datasets}, shown, look)
    for home, dataset in datasets:
        if not dataset.rows:
            raise InvalidSpec(f"dataset {dataset.source} of {home!r} has no rows", reason="DatasetEmpty")
        async for line, data in dataset.iterate():
            problem = checker.problem_of(data, home, f"{dataset.source}:{line}")
            if problem is not None:
                checker.report(RowProblem(dataset.source, line, problem))
            if checker.rows % _PAUSE == 0:
                if progress is not None:
                    progress(checker.rows)
                await asyncio.sleep(0)
    if progress is not None:
        progress(checker.rows)
    if checker.bad:
        raise InvalidRows(checker.problems, checker.bad, shown)
    return ValidRows(checker.rows, checker.entries, checker.indexed)


class _Checker:
    """Checks rows one by one, and counts."""

    def __init__(
        self, claims: Mapping[str, str], check: EntryCheck, entries: dict[str, int], shown: int, look: Look | None
    ) -> None:
        self.rows = 0
        self.indexed = 0
        self.bad = 0
        self.problems: list[RowProblem] = []
        self.entries = entries
        self._claims = claims
        self._check = check
        self._look = look
        self._shown = shown
        self._indices = _IndexSet()

    def problem_of(self, data: bytes, home: str, place: str) -> str | None:
        self.rows += 1
        try:
            row = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            return f"not JSON: {error.msg} at column {error.colno}"
        problem = check_row(row)
        if problem is not None:
            return problem
        name = agent_name(row)
        entry = route(name, home, self._claims)
        if entry is None:
            return _unrouted(name, home, self._claims)
        index = row.get("_ng_task_index")
        if index is not None:
            self.indexed += 1
            if not self._indices.add(index):
                return f"_ng_task_index: {index} stands in an earlier row already"
        self.entries[entry] = self.entries.get(entry, 0) + 1
        if self._look is not None and (problem := self._look(home, entry, place, data, row)) is not None:
            return problem
        return self._check(entry, row)

    def report(self, problem: RowProblem) -> None:
        self.bad += 1
        if len(self.problems) < self._shown:
            self.problems.append(problem)


def _unrouted(name: str | None, home: str, claims: Mapping[str, str]) -> str:
    known = ", ".join(sorted(claims))
    if name is None:
        return f"agent_ref is missing, and environment {home!r} takes only rows of its agentRefs (known: {known})"
    return f"agent_ref.name: no environment claims {name!r} (known: {known})"


@dataclass(slots=True)
class _IndexSet:
    """Task indices seen: a bit each where they are dense, as they nearly always are."""

    _bits: bytearray = field(default_factory=bytearray)
    _large: set[int] = field(default_factory=set)

    def add(self, index: int) -> bool:
        """Whether it is new."""
        if index >= _DENSE:
            before = len(self._large)
            self._large.add(index)
            return len(self._large) > before
        byte, bit = index >> 3, 1 << (index & 7)
        if byte >= len(self._bits):
            self._bits.extend(bytes(max(byte + 1, 2 * len(self._bits)) - len(self._bits)))
        elif self._bits[byte] & bit:
            return False
        self._bits[byte] |= bit
        return True
