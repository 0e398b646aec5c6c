"""Writes ``example.jsonl`` beside it: ``python data/generate.py``. The same rows every time.

The expressions are ones that the shipped model was not trained on: the training script leaves out those whose checksum
is divisible by ten. (Secrets of the guessing game are not held out: there are only 63.)
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PHRASINGS = (
    "What is {e}? Answer with a number.",
    "Compute {e}. Answer with a number.",
    "{e} = ?",
    "Calculate {e}.",
)
SECRETS = (7, 16, 32, 41, 50, 63)


def tool(name: str, description: str) -> dict[str, Any]:
    """A Responses tool definition with the integer parameters ``a`` and ``b``."""
    parameters = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    return {"type": "function", "name": name, "description": description, "parameters": parameters, "strict": True}


TOOLS = [
    tool("add", "Add two integers."),
    tool("subtract", "Subtract b from a."),
    tool("multiply", "Multiply two integers."),
]


def held_out(expression: str) -> bool:
    """Whether the training script leaves the expression out."""
    return zlib.crc32(expression.encode()) % 10 == 0


def value(expression: str) -> int:
    """What an expression of integers, ``+``, ``-`` and ``*`` is worth."""
    total = 0
    for term in expression.replace("-", "+-").split("+"):
        product = 1
        for factor in term.split("*"):
            product *= int(factor)
        total += product
    return total


def draw(kind: str, rng: random.Random) -> str:
    """An expression of the size the shipped model can handle."""
    if kind == "direct":
        sign = rng.choice("+-*")
        highest = 12 if sign == "*" else 20
        return f"{rng.randint(0, highest)}{sign}{rng.randint(0, highest)}"
    if kind == "tool":
        return f"{rng.randint(2, 99)}{rng.choice('+-*')}{rng.randint(2, 99)}"
    return f"{rng.randint(2, 99)}{rng.choice('+-')}{rng.randint(2, 30)}*{rng.randint(2, 12)}"


def row(text: str, tools: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """One row of the dataset."""
    params = {"input": [{"role": "user", "content": text}], "tools": tools, "max_output_tokens": 64}
    return {"responses_create_params": params, **fields}


def rows(count: int = 24, seed: int = 20) -> Iterator[dict[str, Any]]:
    """A quarter of ``count`` of each kind; no expression twice."""
    rng = random.Random(seed)
    per_kind = count // 4
    seen: set[str] = set()
    for kind in ("direct", "tool", "chain"):
        made = 0
        while made < per_kind:
            expression = draw(kind, rng)
            if expression in seen or not held_out(expression):
                continue
            seen.add(expression)
            text = PHRASINGS[made % len(PHRASINGS)].format(e=expression)
            tools = [] if kind == "direct" else TOOLS
            yield row(text, tools, kind=kind, expression=expression, expected_answer=value(expression))
            made += 1
    for position in range(per_kind):
        secret = SECRETS[position] if position < len(SECRETS) else rng.randint(1, 63)
        yield row("Guess my number between 1 and 63.", [], kind="guess", secret=secret)


def content() -> str:
    """The file's text."""
    return "".join(json.dumps(one) + "\n" for one in rows())


if __name__ == "__main__":
    Path(__file__).with_name("example.jsonl").write_text(content())
