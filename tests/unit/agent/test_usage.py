"""Sums of usage (contract 1.7)."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kubegym.core.usage import add_response_usage, count_call

counts = st.integers(0, 10**6)
known = st.none() | counts


@st.composite
def usages(draw: st.DrawFn) -> dict[str, Any]:
    given_tokens, made = draw(counts), draw(counts)
    return {
        "input_tokens": given_tokens,
        "input_tokens_details": draw(st.none() | st.builds(lambda n: {"cached_tokens": n}, known)),
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": draw(known)},
        "total_tokens": given_tokens + made,
    }


@given(st.lists(usages(), min_size=2, max_size=6))
def test_sums_are_sums_and_unknown_details_stay_unknown(calls: list[dict[str, Any]]) -> None:
    total: dict[str, Any] | None = None
    role: dict[str, int] = {}
    for call in calls:
        total = add_response_usage(total, call)
        count_call(role, call)
    assert total is not None
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        assert total[name] == sum(call[name] for call in calls)
    cached = [(call["input_tokens_details"] or {}).get("cached_tokens") for call in calls]
    expected = None if None in cached else sum(n for n in cached if n is not None)
    assert total["input_tokens_details"] == {"cached_tokens": expected}
    assert role["cached_tokens"] == sum(n or 0 for n in cached)
    assert role["calls"] == len(calls)


def test_calls_without_usage() -> None:
    usage = {"input_tokens": 1, "output_tokens": 2}
    assert add_response_usage(None, None) is None
    assert add_response_usage(usage, None) == usage
    assert add_response_usage(None, usage) == usage
    total = add_response_usage(usage, usage)
    assert total is not None
    assert total["total_tokens"] == 6
    role: dict[str, int] = {}
    count_call(role, None)
    assert role["calls"] == 1
