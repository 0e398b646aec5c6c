"""Counting tokens: the contract's summed ``usage`` and the row's ``usage`` by role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DETAILS = (("input_tokens_details", "cached_tokens"), ("output_tokens_details", "reasoning_tokens"))
"""Where a Responses ``usage`` keeps the counts that an endpoint may not know."""


def add_response_usage(total: dict[str, Any] | None, usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The sum of two Responses ``usage`` objects, for a response made of several model calls.

    ``total_tokens`` counts the prompt again at each call; a detail that either side does not know (null or absent) is
    null in the sum (contract 1.7). None is the sum of nothing; a call without usage adds nothing.
    """
    if usage is None:
        return total
    if total is None:
        return dict(usage)
    summed = {name: _count(total, name) + _count(usage, name) for name in ("input_tokens", "output_tokens")}
    summed["total_tokens"] = _total(total) + _total(usage)
    details = {
        outer: {inner: _known_sum(_detail(total, outer, inner), _detail(usage, outer, inner))}
        for outer, inner in DETAILS
    }
    return {**total, **usage, **summed, **details}


def count_call(role: dict[str, int], usage: Mapping[str, Any] | None) -> None:
    """Add one model call to a role's entry of the row's ``usage``; what the endpoint does not tell counts as 0."""
    if not role:
        role.update(calls=0, input_tokens=0, output_tokens=0, cached_tokens=0, reasoning_tokens=0)
    role["calls"] += 1
    if usage is None:
        return
    role["input_tokens"] += _count(usage, "input_tokens")
    role["output_tokens"] += _count(usage, "output_tokens")
    for outer, inner in DETAILS:
        role[inner] += _detail(usage, outer, inner) or 0


def _count(usage: Mapping[str, Any], name: str) -> int:
    return usage.get(name) or 0


def _total(usage: Mapping[str, Any]) -> int:
    return usage.get("total_tokens") or _count(usage, "input_tokens") + _count(usage, "output_tokens")


def _detail(usage: Mapping[str, Any], outer: str, inner: str) -> int | None:
    details = usage.get(outer)
    return details.get(inner) if details else None


def _known_sum(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b
