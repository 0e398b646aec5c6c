"""Comparing the state that a rollout left with the one that it should have left. Pure.

Which calls led there, and in which order, does not matter: only where they ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

Table = Sequence[Mapping[str, Any]]
_SHOWN = 80


def differences(
    actual: Mapping[str, Table],
    expected: Mapping[str, Table],
    *,
    case_sensitive: Set[str] = frozenset(),
    ordered: bool = True,
) -> list[str]:
    """Where two databases differ, table by table, in words; none where they are equal.

    Args:
        actual: tables by name as the rollout left them, each a sequence of rows.
        expected: as they should be.
        case_sensitive: columns whose texts differ by case, too; in all others ``A`` is ``a``.
        ordered: whether the order of a table's rows counts.
    """
    found = [f"{name}: no such table" for name in sorted(expected.keys() - actual.keys())]
    found += [f"{name}: unexpected table" for name in sorted(actual.keys() - expected.keys())]
    for name in sorted(actual.keys() & expected.keys()):
        ours = [_canonical(row, case_sensitive) for row in actual[name]]
        right = [_canonical(row, case_sensitive) for row in expected[name]]
        if not ordered:
            ours, right = sorted(ours, key=repr), sorted(right, key=repr)
        found += _table(name, ours, right)
    return found


def _canonical(row: Mapping[str, Any], case_sensitive: Set[str]) -> dict[str, Any]:
    return {
        column: value.lower() if isinstance(value, str) and column not in case_sensitive else value
        for column, value in sorted(row.items())
    }


def _table(name: str, ours: list[dict[str, Any]], right: list[dict[str, Any]]) -> list[str]:
    if len(ours) != len(right):
        return [f"{name}: {len(ours)} rows instead of {len(right)}"]
    return [
        f"{name}[{number}].{column}: {_shown(mine.get(column))} instead of {_shown(other.get(column))}"
        for number, (mine, other) in enumerate(zip(ours, right, strict=True))
        for column in sorted(mine.keys() | other.keys())
        if (column in mine) != (column in other) or mine.get(column) != other.get(column)
    ]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
