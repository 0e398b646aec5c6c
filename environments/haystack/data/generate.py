"""Writes ``example.jsonl`` beside it: ``python data/generate.py``. The same rows every time.

A ledger of any length: ``python data/generate.py 200 100000`` prints 200 rows of up to 100,000 tokens each.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

NAMES = (
    "Ada", "Bruno", "Cleo", "Dario", "Edda", "Felix", "Greta", "Hugo", "Iris", "Jonas", "Karin", "Lorenz", "Mina",
    "Nils", "Olga", "Piet", "Quirin", "Rosa", "Sven", "Tilda", "Uwe", "Vera", "Wanda", "Xaver", "Yara", "Zeno", "Alma",
    "Boris", "Carla", "Detlef", "Elena", "Franz", "Gerda", "Hanno", "Ines", "Jakob", "Kira", "Linus", "Marta",
    "Norbert",
)  # fmt: skip
COLOURS = ("red", "green", "blue", "yellow", "black", "white", "brown", "grey", "purple", "orange")
METALS = ("tin", "brass", "steel", "copper", "silver", "iron")
CHARACTERS_PER_TOKEN = 2.5
"""Fewer than any tokenizer has on such text, so that ``context_tokens`` is enough."""
ANSWER_TOKENS = 256
ASK = (
    "Here is a ledger of boxes, in the order of time. A box may be passed on several times.\n\n{ledger}\n\n"
    "Who has the {box} box in the end? Put the name, and nothing else, on the last line of your answer."
)


def rows(count: int = 8, seed: int = 20, tokens: int = 2_000, passes: int = 3) -> Iterator[dict[str, Any]]:
    """Ledgers of half of ``tokens`` and more, each with one question.

    Args:
        count: of rows.
        seed: other rows for another one.
        tokens: the most that prompt and answer need.
        passes: how often the box that is asked for is passed on, at most.
    """
    rng = random.Random(seed)
    for _ in range(count):
        yield row(rng, rng.randint(tokens // 2, tokens), rng.randint(1, passes))


def row(rng: random.Random, tokens: int, passes: int) -> dict[str, Any]:
    """One ledger: the box's own lines, in order, among lines about other boxes."""
    boxes = [f"{colour} {metal}" for colour in COLOURS for metal in METALS]
    box = boxes.pop(rng.randrange(len(boxes)))
    chain = rng.sample(NAMES, passes + 1)
    needles = [line(box, giver, taker) for giver, taker in pairwise(chain)]
    room = int((tokens - ANSWER_TOKENS) * CHARACTERS_PER_TOKEN) - len(ASK) - sum(map(len, needles))
    hay: list[str] = []
    while room > 0:
        hay.append(line(rng.choice(boxes), *rng.sample(NAMES, 2)))
        room -= len(hay[-1]) + 1
    places = sorted(rng.sample(range(len(hay) + 1), len(needles)), reverse=True)
    for place, needle in zip(places, reversed(needles), strict=True):
        hay.insert(place, needle)
    content = ASK.format(ledger="\n".join(hay), box=box)
    params = {"input": [{"role": "user", "content": content}], "max_output_tokens": ANSWER_TOKENS}
    needed = int(len(content) / CHARACTERS_PER_TOKEN) + ANSWER_TOKENS
    return {
        "responses_create_params": params,
        "context_tokens": needed,
        "expected_answer": chain[-1],
        "names": sorted(NAMES),
    }


def line(box: str, giver: str, taker: str) -> str:
    """An entry of the ledger."""
    return f"{giver} passes the {box} box on to {taker}."


def content() -> str:
    """The file's text."""
    return "".join(json.dumps(one) + "\n" for one in rows())


if __name__ == "__main__":
    if sys.argv[1:]:
        for one in rows(int(sys.argv[1]), tokens=int(sys.argv[2])):
            print(json.dumps(one))
    else:
        Path(__file__).with_name("example.jsonl").write_text(content())
