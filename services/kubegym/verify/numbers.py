"""Numbers in answers: reading them, and comparing with a tolerance. Pure."""

from __future__ import annotations

import math
import re

from kubegym.verify.text import peeled, undelimited

_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d)\.)?(?:[eE][-+]?\d+)?"
_WHOLE = re.compile(rf"({_NUMBER})(?:\s*/\s*({_NUMBER}))?\s*(%?)")
_IN_TEXT = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?")
_CURRENCY = str.maketrans("", "", "$€£¥")
_MINUS = str.maketrans("−–", "--")  # noqa: RUF001


def number(text: str) -> float | None:
    r"""The number that a text is: ``1,234.5``, ``3/4``, ``12 %``, ``-2e-3``, ``$5``, ``\text{7}``; None for others."""
    plain = peeled(undelimited(text)).translate(_MINUS).translate(_CURRENCY).strip()
    match = _WHOLE.fullmatch(plain)
    if match is None or not match[1]:
        return None
    try:
        value = _float(match[1])
        if match[2] is not None:
            value /= _float(match[2])
    except (ValueError, ZeroDivisionError):
        return None
    value = value / 100 if match[3] else value
    return value if math.isfinite(value) else None


def last_number(text: str) -> float | None:
    """The last number that stands in a text."""
    found = _IN_TEXT.findall(text.translate(_MINUS))
    return _float(found[-1]) if found else None


def close(answer: float | None, expected: float, *, relative: float = 1e-6, absolute: float = 0.0) -> bool:
    """Whether a number is within a tolerance of another one; None and what is not finite never are.

    Args:
        answer: the number to judge.
        expected: the right one.
        relative: allowed difference as a share of the expected number.
        absolute: allowed difference whatever its size; the larger of the two counts.
    """
    if answer is None or not math.isfinite(answer):
        return False
    return abs(answer - expected) <= max(relative * abs(expected), absolute)


def _float(text: str) -> float:
    return float(text.replace(",", ""))
