"""Prints more rows than ``example.jsonl`` has, which are written by hand: ``python data/generate.py COUNT SEED``."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from typing import Any


def rows(count: int = 200, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows that ask for two to four additions, some of them negative; the sum is never 0."""
    rng = random.Random(seed)
    made = 0
    while made < count:
        start = rng.randint(-50, 50)
        steps = [rng.choice((-1, 1)) * rng.randint(1, 400) for _ in range(rng.randint(2, 4))]
        if sum(steps) == 0:
            continue
        text = " then ".join(f"add {step}" for step in steps) + " then get the count"
        made += 1
        params = {"input": [{"role": "user", "content": text}], "parallel_tool_calls": False}
        yield {"responses_create_params": params, "initial_count": start, "expected_count": start + sum(steps)}


if __name__ == "__main__":
    for row in rows(*map(int, sys.argv[1:])):
        print(json.dumps(row))
