"""Writes ``example.jsonl`` beside it: ``python data/generate.py``. The same rows every time."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("ada", "ben", "cora", "dan", "eva", "finn", "gia", "hugo", "iris", "jack", "kira", "leo")
ITEMS = ("desk lamp", "tea kettle", "rain coat", "chess set", "yoga mat", "bike light", "photo album", "cook book")
STREETS = ("Elm Street", "Mill Lane", "Harbour Road", "Station Square", "Garden Row", "Hill Path")
OPENINGS = (
    "Hi, I have a problem with an order.",
    "Hello, can you help me with something I bought?",
    "Good morning. I need something changed, please.",
)
SYSTEM = (
    "You are the agent of a web shop. Find out what the customer wants, then do it with your tools, and nothing else. "
    "You need the customer's email address to find orders. When all is done, say so and ask if there is anything else."
)


def rows(count: int = 8, seed: int = 20) -> Iterator[dict[str, Any]]:
    """Cancellations and changes of address in turn, among other orders of the customer and of others."""
    rng = random.Random(seed)
    for number in range(count):
        yield row(rng, cancels=number % 2 == 0)


def row(rng: random.Random, cancels: bool) -> dict[str, Any]:
    """One conversation."""
    names, items = rng.sample(NAMES, 2), rng.sample(ITEMS, 8)
    emails = [f"{name}{rng.randint(10, 99)}@mail.example" for name in names]
    orders = {}
    for item, email in zip(items, [emails[0]] * 6 + [emails[1]] * 2, strict=True):
        orders[f"R{rng.randint(10000, 99999)}"] = {
            "email": email,
            "item": item,
            "address": address(rng),
            "status": "open",
        }
    numbers = list(orders)
    rng.choice([orders[name] for name in numbers[1:]])["status"] = "shipped"
    wanted, expected = numbers[0], copy.deepcopy(orders)
    facts = {"email": emails[0], "item": f"the {items[0]}", "order": wanted}
    if cancels:
        expected[wanted]["status"] = "cancelled"
        facts["wish"] = "please cancel it"
        wish = "You want it cancelled, because you found it cheaper elsewhere."
    else:
        new = next(one for one in iter(lambda: address(rng), "") if one != orders[wanted]["address"])
        facts |= {"wish": "please send it elsewhere", "address": new}
        expected[wanted]["address"] = facts["address"]
        wish = f"You want it sent to {facts['address']} instead, because you are moving house next week."
    instructions = (
        f"Your name is {names[0].capitalize()} and your email address is {emails[0]}. You ordered several things; this "
        f"is about the {items[0]}, whose order number you do not have at hand. {wish}"
    )
    shuffled = dict(sorted(orders.items()))
    return {
        "responses_create_params": {"input": [{"role": "system", "content": SYSTEM}]},
        "opening": rng.choice(OPENINGS),
        "instructions": instructions,
        "facts": facts,
        "orders": shuffled,
        "expected": expected,
    }


def address(rng: random.Random) -> str:
    """A made-up address."""
    return f"{rng.randint(1, 99)} {rng.choice(STREETS)}"


def content() -> str:
    """The file's text."""
    return "".join(json.dumps(one) + "\n" for one in rows())


if __name__ == "__main__":
    Path(__file__).with_name("example.jsonl").write_text(content())
