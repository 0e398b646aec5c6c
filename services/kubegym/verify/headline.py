"""The headline numbers that graded environments have in common, for ``get_key_metrics``. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

ALWAYS = ("mean/reward", "pass@1/accuracy")
AT_HIGHEST_K = (
    r"pass@1\[avg-of-(\d+)\]/(?:accuracy|no_answer)",
    r"pass@(\d+)/no_answer",
    r"majority@(\d+)/accuracy",
)


def headline(
    metrics: Mapping[str, Any], always: Sequence[str] = (), at_highest_k: Sequence[str] = AT_HIGHEST_K
) -> dict[str, Any]:
    """Mean reward, pass@1, and at the highest k the averaged, the no-answer and the majority numbers.

    Args:
        metrics: all metrics.
        always: names beside ``ALWAYS``.
        at_highest_k: patterns whose one group is k; of each the names with the highest k are taken.
    """
    chosen = {name: metrics[name] for name in (*ALWAYS, *always) if name in metrics}
    for pattern in at_highest_k:
        matches = [match for match in (re.fullmatch(pattern, name) for name in metrics) if match]
        highest = max((int(match[1]) for match in matches), default=0)
        chosen |= {match[0]: metrics[match[0]] for match in matches if int(match[1]) == highest}
    return chosen
