"""Writes ``corpus.jsonl`` and ``example.jsonl`` beside it: ``python data/generate.py``. The same every time.

Towns, people and bridges are made up, so that nothing is known by heart.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START = ("Al", "Bren", "Cor", "Dur", "Els", "Fen", "Gar", "Hol", "Ister", "Kar", "Lun", "Mor", "Nor", "Ost", "Per")
END = ("mouth", "stead", "vik", "ford", "burg", "haven", "dale", "minster")
FIRST = ("Agda", "Bero", "Cilla", "Dorin", "Edda", "Falk", "Greta", "Henk", "Ilse", "Jorin", "Klara", "Lars")
LAST = ("Abend", "Brook", "Castel", "Drost", "Enkel", "Farrow", "Grieg", "Holm", "Iversen", "Jansen")
TRADES = ("bell founder", "glass painter", "cartographer", "clock maker", "botanist", "bridge builder", "printer")


def world(seed: int = 3) -> dict[str, list[dict[str, Any]]]:
    """Towns with a founder and a bridge, people with a birthplace, bridges with a year and a builder."""
    rng = random.Random(seed)
    names = rng.sample([a + b for a in START for b in END], 100)
    people = rng.sample([f"{a} {b}" for a in FIRST for b in LAST], 100)
    towns = [
        {"town": town, "founder": person, "bridge": f"{person.split()[1]} Bridge of {town}", "river": f"the {town[:3]}"}
        for town, person in zip(names, people, strict=True)
    ]
    for town in towns:
        town["year"] = rng.randint(1405, 1899)
        town["birthplace"] = rng.choice([other["town"] for other in towns if other is not town])
        town["builder"] = rng.choice([other["founder"] for other in towns if other is not town])
        town["trade"] = rng.choice(TRADES)
        town["people"] = rng.randint(2_000, 90_000)
    return {"towns": towns}


def url(name: str) -> str:
    """A page's address."""
    return f"https://almanac.example/{name.lower().replace(' ', '-')}"


def corpus() -> Iterator[dict[str, str]]:
    """Three pages a town."""
    for town in world()["towns"]:
        name, founder, bridge = town["town"], town["founder"], town["bridge"]
        yield {
            "url": url(name),
            "title": name,
            "text": f"{name} is a town on {town['river']} with {town['people']:,} inhabitants. It was founded by the "
            f"{town['trade']} {founder}. Its landmark is the {bridge}.",
        }
        yield {
            "url": url(founder),
            "title": founder,
            "text": f"{founder}, a {town['trade']}, came from {town['birthplace']} and later founded {name}.",
        }
        yield {
            "url": url(bridge),
            "title": bridge,
            "text": f"The {bridge} crosses {town['river']}. It was opened in {town['year']} after plans by "
            f"{town['builder']}.",
        }


def rows(count: int = 12, seed: int = 20) -> Iterator[dict[str, Any]]:
    """Questions over two or three pages, no two alike; at most 300."""
    rng = random.Random(seed)
    towns = world()["towns"]
    if count > 3 * len(towns):
        raise ValueError(f"there are {3 * len(towns)} questions in this world, not {count}")
    by_name = {town["town"]: town for town in towns}
    by_founder = {town["founder"]: town for town in towns}
    asked: set[str] = set()
    while len(asked) < count:
        town = rng.choice(towns)
        home, other = by_name[town["birthplace"]], by_founder[town["builder"]]
        made = (
            (
                f"The founder of {town['town']} came from a town. In which year was its landmark bridge opened?",
                str(home["year"]),
                [town["town"], town["founder"], home["bridge"]],
            ),
            (
                f"The planner of {town['town']}'s landmark bridge founded a town. How many inhabitants has it?",
                f"{other['people']:,}",
                [town["town"], town["bridge"], other["town"]],
            ),
            (
                f"Which town did the planner of the {town['bridge']} come from?",
                other["birthplace"],
                [town["bridge"], other["founder"]],
            ),
        )[len(asked) % 3]
        question, answer, hops = made
        if question in asked:
            continue
        asked.add(question)
        text = f"{question} Search for pages and read them. End with the answer in \\boxed{{}}."
        yield {
            "responses_create_params": {"input": [{"role": "user", "content": text}]},
            "question": question,
            "expected_answer": answer,
            "hops": [{"query": hop, "url": url(hop)} for hop in hops],
        }


def content() -> dict[str, str]:
    """Both files, by name."""
    files = {"corpus.jsonl": corpus(), "example.jsonl": rows()}
    return {name: "".join(json.dumps(one) + "\n" for one in made) for name, made in files.items()}


if __name__ == "__main__":
    for name, text in content().items():
        Path(__file__).with_name(name).write_text(text)
