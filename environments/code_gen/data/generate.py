"""Writes ``example.jsonl``: ``python data/generate.py``; with ``COUNT SEED`` it prints that many other rows.

Each kind of problem is a program with numbers drawn into it; the tests are what that program answers.
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
from unittest import mock

_ASK = "\n\nAnswer with one Python program between code fences (```)."
_TESTS = 6


def rows(count: int = 8, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Two kinds that read and print, and two that are functions, in turn."""
    rng = random.Random(seed)
    seen: set[str] = set()
    for number in range(count):
        solution = ""
        while not solution or solution in seen:
            problem, solution, inputs, name = (_sums, _words, _digits, _walk)[number % 4](rng)
        seen.add(solution)
        answer = _called if name else _printed
        tests = {"inputs": inputs, "outputs": [answer(solution, given, name) for given in inputs], "fn_name": name}
        yield {
            "responses_create_params": {"input": [{"role": "user", "content": problem + _ASK}]},
            "verifier_metadata": {"unit_tests": tests, "difficulty": "easy" if number % 4 < 2 else "medium"},
            "solution": solution,
            "uuid": f"code-{seed}-{number}",
        }


def _sums(rng: random.Random) -> tuple[str, str, list[str], str]:
    factor = rng.randint(5, 60)
    rest = rng.randrange(1, factor)
    problem = (
        "The first line of the input is n, the second one has n integers. Print the sum of those that leave the "
        f"remainder {rest} when divided by {factor}, and on a second line how many they are."
    )
    solution = (
        f"input()\nchosen = [n for n in map(int, input().split()) if n % {factor} == {rest}]\n"
        "print(sum(chosen))\nprint(len(chosen))"
    )
    lists = [
        [rng.randint(-99, 999) * factor + rng.choice((rest, rng.randrange(factor))) for _ in range(rng.randint(5, 30))]
        for _ in range(_TESTS)
    ]
    return problem, solution, [f"{len(one)}\n{' '.join(map(str, one))}" for one in lists], ""


def _words(rng: random.Random) -> tuple[str, str, list[str], str]:
    banned, weight, letters = rng.choice("abcdefghij"), rng.randint(2, 99), "abcdefghij"
    problem = (
        f"Read a line of words. For each word without the letter {banned}, multiply its length by {weight} and add the "
        "number of its place in the line, from 1. Print these numbers, largest first, separated by a space; print - "
        "when there are none."
    )
    solution = (
        "words = enumerate(input().split(), 1)\n"
        f"scores = [len(w) * {weight} + place for place, w in words if {banned!r} not in w]\n"
        "print(' '.join(map(str, sorted(scores, reverse=True))) or '-')"
    )
    vocabulary = ["".join(rng.choices(letters, k=rng.randint(2, 8))) for _ in range(30)]
    return problem, solution, [" ".join(rng.choices(vocabulary, k=rng.randint(12, 30))) for _ in range(_TESTS)], ""


def _digits(rng: random.Random) -> tuple[str, str, list[str], str]:
    base, weight = rng.randint(3, 60), rng.randint(2, 30)
    problem = (
        f"Write a function digit_score(n) for n >= 0. Write n in base {base}; every digit counts once, the lowest one "
        f"counts {weight} times. Return the sum."
    )
    solution = (
        f"def digit_score(n):\n    total = (n % {base}) * {weight}\n    n //= {base}\n    while n:\n"
        f"        total += n % {base}\n        n //= {base}\n    return total"
    )
    return problem, solution, [json.dumps(rng.randint(0, 10**9)) for _ in range(_TESTS)], "digit_score"


def _walk(rng: random.Random) -> tuple[str, str, list[str], str]:
    step, size = rng.randint(2, 19), rng.randint(30, 99)
    problem = (
        f"A token walks on a ring of {size} fields, numbered from 0. Write a class Solution with a method "
        f"walk(self, start, moves): 'R' moves it {step} fields up, 'L' one field down. Return the list [last field, "
        "number of different fields it stood on, the start included]."
    )
    solution = (
        "class Solution:\n    def walk(self, start, moves):\n        at, seen = start, {start}\n"
        f"        for move in moves:\n            at = (at + ({step} if move == 'R' else -1)) % {size}\n"
        "            seen.add(at)\n        return [at, len(seen)]"
    )
    inputs = [
        f"{rng.randrange(size)}\n{json.dumps(''.join(rng.choices('LR', k=rng.randint(5, 40))))}" for _ in range(_TESTS)
    ]
    return problem, solution, inputs, "walk"


def _printed(solution: str, given: str, _: str) -> str:
    """What the program prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), mock.patch("sys.stdin", io.StringIO(given)):
        exec(solution, {})
    return out.getvalue()


def _called(solution: str, given: str, name: str) -> str:
    """What the function returns, as JSON."""
    namespace: dict[str, Any] = {}
    exec(solution, namespace)
    owner = namespace["Solution"]() if "Solution" in namespace else None
    function = getattr(owner, name) if owner is not None else namespace[name]
    return json.dumps(function(*map(json.loads, given.split("\n"))))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        for row in rows(*map(int, sys.argv[1:])):
            print(json.dumps(row))
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows())
        Path(__file__).with_name("example.jsonl").write_text(lines)
