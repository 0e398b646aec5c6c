"""Answers that are sets: reading them, and how far they overlap. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kubegym.verify.text import first_json, normalised

_SEPARATOR = re.compile(r"[,;\n]")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")


@dataclass(frozen=True, slots=True)
class Overlap:
    """How two sets overlap.

    Attributes:
        precision: share of the found ones that are right; 1 for none found where none is right.
        recall: share of the right ones that were found.
        f1: their harmonic mean.
        jaccard: common ones as a share of all.
    """

    precision: float
    recall: float
    f1: float
    jaccard: float

    @property
    def equal(self) -> bool:
        """Whether both are the same."""
        return self.jaccard == 1.0


def members(text: str) -> list[str]:
    """The members that a text lists: a JSON array, else what commas, semicolons and lines separate, bullets off."""
    listed = first_json(text, "array") if text.lstrip().startswith("[") else None
    if isinstance(listed, list):
        return [str(member) for member in listed]
    return [member for part in _SEPARATOR.split(text) if (member := _BULLET.sub("", part).strip())]


def overlap(found: Iterable[str], expected: Iterable[str], *, form: Callable[[str], str] = normalised) -> Overlap:
    """Compare two sets. Listing much does not pay: what is wrong lowers precision.

    Args:
        found: the members found.
        expected: the right ones.
        form: what members are made before they are compared.
    """
    ours, right = {form(member) for member in found}, {form(member) for member in expected}
    common = len(ours & right)
    precision = common / len(ours) if ours else float(not right)
    recall = common / len(right) if right else float(not ours)
    f1 = 2 * precision * recall / (precision + recall) if common else float(not ours and not right)
    return Overlap(precision, recall, f1, common / len(ours | right) if ours or right else 1.0)
