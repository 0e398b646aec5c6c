"""Prints more rows than ``example.jsonl`` has, which are written by hand: ``python data/generate.py COUNT SEED``."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from typing import Any

SYNONYMS = {
    "Big": ("Large", "Huge", "Vast", "Giant", "Immense", "Massive"),
    "Small": ("Little", "Tiny", "Minute", "Slight", "Compact", "Petite"),
    "Happy": ("Glad", "Cheerful", "Joyful", "Merry", "Content", "Pleased"),
    "Fast": ("Quick", "Rapid", "Swift", "Speedy", "Brisk", "Hasty"),
    "Smart": ("Clever", "Bright", "Sharp", "Astute", "Gifted", "Able"),
    "Quiet": ("Silent", "Mute", "Hushed", "Still", "Calm", "Muted"),
}


def rows(count: int = 200, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows with three to five synonyms of a word, in an order that no other row has; at most 5,000."""
    rng = random.Random(seed)
    seen: set[tuple[str, ...]] = set()
    while len(seen) < count:
        label = rng.choice(list(SYNONYMS))
        chosen = rng.sample(SYNONYMS[label], rng.randint(3, 5))
        if tuple(chosen) in seen:
            continue
        seen.add(tuple(chosen))
        text = (
            f"What are the values of the synonyms of '{label}'? The synonyms, in order, are: {', '.join(chosen)}. Get "
            f"the value of each synonym, not of '{label}' itself, then report them in that order with "
            "extract_synonym_values."
        )
        yield {
            "responses_create_params": {"input": [{"role": "user", "content": text}], "parallel_tool_calls": False},
            "id": len(seen) - 1,
            "expected_synonyms": chosen,
            "expected_synonym_values": [value(word) for word in chosen],
            "minefield_label": label,
            "minefield_label_value": value(label),
        }


def value(word: str) -> int:
    """The sum of the character codes."""
    return sum(map(ord, word))


if __name__ == "__main__":
    for row in rows(*map(int, sys.argv[1:])):
        print(json.dumps(row))
