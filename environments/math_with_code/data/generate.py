"""Writes ``example.jsonl``: ``python data/generate.py``; with ``COUNT SEED`` it prints that many other rows.

Each problem is small to state and tedious without a computer; the results are what ``solution`` prints.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ASK = " Use Python where it helps. Give the result in \\boxed{}."


def rows(count: int = 8, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Remainders, divisors, paths and sums over primes, in turn; no program twice."""
    rng = random.Random(seed)
    seen: set[str] = set()
    for number in range(count):
        solution = ""
        while not solution or solution in seen:
            question, solution = (_power, _divisors, _paths, _primes)[number % 4](rng)
        seen.add(solution)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(solution, {})
        yield {
            "responses_create_params": {"input": [{"role": "user", "content": question + _ASK}]},
            "expected_result": out.getvalue().strip(),
            "solution": solution,
            "uuid": f"math-with-code-{seed}-{number}",
        }


def _power(rng: random.Random) -> tuple[str, str]:
    base, power, modulus = rng.randint(12, 99), rng.randint(100, 999), rng.randint(10_000, 99_999)
    return f"What is the remainder of {base}^{power} divided by {modulus}?", f"print(pow({base}, {power}, {modulus}))"


def _divisors(rng: random.Random) -> tuple[str, str]:
    number = rng.randint(20_000, 99_999)
    solution = f"print(sum(d for d in range(1, {number} + 1) if {number} % d == 0))"
    return f"What is the sum of all positive divisors of {number}?", solution


def _paths(rng: random.Random) -> tuple[str, str]:
    width, height, x = rng.randint(6, 14), rng.randint(6, 14), rng.randint(2, 4)
    solution = (
        f"import math\ntotal = math.comb({width + height}, {width})\n"
        f"closed = math.comb({2 * x}, {x}) * math.comb({width + height - 2 * x}, {width - x})\nprint(total - closed)"
    )
    question = (
        f"On a grid a path goes from (0, 0) to ({width}, {height}) by single steps to the right or up. How many such "
        f"paths avoid the point ({x}, {x})?"
    )
    return question, solution


def _primes(rng: random.Random) -> tuple[str, str]:
    low = rng.randint(500, 4000)
    high = low + rng.randint(300, 900)
    solution = f"print(sum(n * n for n in range({low}, {high} + 1) if all(n % d for d in range(2, int(n ** 0.5) + 1))))"
    return f"What is the sum of the squares of all primes from {low} to {high}?", solution


if __name__ == "__main__":
    if len(sys.argv) > 1:
        for row in rows(*map(int, sys.argv[1:])):
            print(json.dumps(row))
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows())
        Path(__file__).with_name("example.jsonl").write_text(lines)
