"""Writes ``example.jsonl``: ``python data/generate.py``; with ``COUNT SEED`` it prints that many other rows."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

_ASK = " Give your answer in \\boxed{}."


def rows(count: int = 10, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Fractions, roots, polynomials, intervals and points, in turn; no answer twice."""
    rng = random.Random(seed)
    kinds = (_fraction, _root, _polynomial, _interval, _intersection)
    seen: set[str] = set()
    for number in range(count):
        answer = ""
        while not answer or answer in seen:
            question, answer = kinds[number % len(kinds)](rng)
        seen.add(answer)
        content = question + _ASK
        yield {
            "responses_create_params": {"input": [{"role": "user", "content": content}]},
            "question": question,
            "expected_answer": answer,
            "uuid": f"math-{seed}-{number}",
        }


def _fraction(rng: random.Random) -> tuple[str, str]:
    a, b, c, d = rng.randint(1, 40), rng.randint(41, 97), rng.randint(1, 40), rng.randint(41, 97)
    total = Fraction(a, b) + Fraction(c, d)
    question = f"One pipe fills $\\frac{{{a}}}{{{b}}}$ of a tank in an hour, another one $\\frac{{{c}}}{{{d}}}$."
    return f"{question} How much do both?", f"\\frac{{{total.numerator}}}{{{total.denominator}}}"


def _root(rng: random.Random) -> tuple[str, str]:
    factor, rest = rng.randint(3, 60), rng.choice((2, 3, 5, 6, 7, 10, 11, 13))
    return f"A square has the area ${factor * factor * rest}$. How long is a side?", f"${factor}\\sqrt{{{rest}}}$"


def _polynomial(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randint(2, 40), rng.randint(41, 90)
    return f"A polynomial $x^2+px+q$ is zero at ${b}$ and at $-{a}$. Which one is it?", f"x^2-{b - a}x-{a * b}"


def _interval(rng: random.Random) -> tuple[str, str]:
    low, width = rng.randint(-60, 40), rng.randint(3, 70)
    high = low + width
    return f"For which $x$ is $(x-({low}))(x-({high})) < 0$? Write an interval.", f"({low},{high})"


def _intersection(rng: random.Random) -> tuple[str, str]:
    x, y = rng.randint(-50, 50), rng.randint(121, 400)
    a, b = rng.sample(range(2, 30), 2)
    lines = f"$y={a}x+({y - a * x})$ and $y={b}x+({y - b * x})$"
    return f"At which height $y$ do the lines {lines} meet?", str(y)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        for row in rows(*map(int, sys.argv[1:])):
            print(json.dumps(row))
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows())
        Path(__file__).with_name("example.jsonl").write_text(lines)
