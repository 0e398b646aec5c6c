"""Writes ``example.jsonl``: ``python data/generate.py``; with ``COUNT SEED`` it prints that many other rows."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_UNITS = {"hours": ("minutes", 60), "days": ("hours", 24), "weeks": ("days", 7), "dozens": ("pieces", 12)}
_TOWNS = ("Aldersgate", "Birkholm", "Castelnou", "Dunmore", "Elverum", "Farnborough", "Gallipoli", "Hohenfels")
_CRAFTS = ("baker", "cooper", "joiner", "potter", "tanner", "weaver", "glazier", "thatcher")
_REGEX = r"Answer:\s*(.+)"


def rows(count: int = 8, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Conversions and questions on a short text, in turn; half of them name the form of their answer. None twice."""
    rng = random.Random(seed)
    seen: set[str] = set()
    for number in range(count):
        expected = ""
        while not expected or expected in seen:
            question, expected = (_conversion if number % 2 == 0 else _town)(rng)
        seen.add(expected)
        row: dict[str, Any] = {"expected_answer": expected, "uuid": f"equivalence-{seed}-{number}"}
        if number % 4 > 1:
            question += " End with a line such as `Answer: the answer`."
            row["template_metadata"] = {"output_regex": _REGEX}
        yield {"responses_create_params": {"input": [{"role": "user", "content": question}]}, **row}


def _conversion(rng: random.Random) -> tuple[str, str]:
    unit, (smaller, factor) = rng.choice(list(_UNITS.items()))
    whole, rest = rng.randint(2, 300), rng.randint(1, factor - 1)
    return f"How many {smaller} are {whole} {unit} and {rest} {smaller}?", f"{whole * factor + rest} {smaller}"


def _town(rng: random.Random) -> tuple[str, str]:
    towns, crafts = rng.sample(_TOWNS, 3), rng.sample(_CRAFTS, 3)
    years = rng.sample(range(1610, 1890), 3)
    told = " ".join(
        f"The {craft} of {town} opened the shop in {year}."
        for craft, town, year in zip(crafts, towns, years, strict=True)
    )
    first = years.index(min(years))
    return f"{told} Whose shop is the oldest, and since when?", f"the {crafts[first]} of {towns[first]}, {years[first]}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        for row in rows(*map(int, sys.argv[1:])):
            print(json.dumps(row))
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows())
        Path(__file__).with_name("example.jsonl").write_text(lines)
