"""Writes ``corpus.jsonl`` and ``example.jsonl`` beside it: ``python data/generate.py``. The same every time.

The world is invented, so that nobody knows an answer by heart. A question names one thing and asks for another, two or
three pages away.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOWNS = 80
SITE = "https://atlas.example"
ASK = (
    "{question} Use the tools to find out: search finds pages, browse reads one. "
    "Put the name that is asked for, and nothing else, in \\boxed{{}}."
)
STARTS = ("Bre", "Kol", "Mar", "Tess", "Vin", "Ul", "Hart", "Nor", "Pel", "Quin", "Sar", "Dro", "Fen", "Gal", "Os")
ENDS = ("mouth", "wick", "by", "holt", "stead", "ford", "grave", "minster", "thwaite", "combe", "dale", "kirk")
RIVERS = ("a", "en", "os", "ith", "ane", "ull", "ey")
GIVEN = ("Ada", "Bruno", "Cleo", "Dario", "Edda", "Felix", "Greta", "Hugo", "Iris", "Jonas", "Karin", "Lorenz", "Mina")
FAMILIES = ("Abel", "Brandt", "Castell", "Dorn", "Elm", "Fabry", "Gersh", "Holl", "Ivers", "Jarn", "Kessel", "Lund")
SUFFIXES = ("er", "ow", "ski", "mann", "sen", "ard")
GOODS = ("lanterns", "looms", "bicycles", "pianos", "clocks", "kettles", "barometers", "saddles", "lenses", "stoves")
TRADES = ("Works", "Brothers", "Foundry", "Company", "Mills")


@dataclass(frozen=True)
class Town:
    """A town with its river, the architect of its tower, and a company with its founder."""

    name: str
    river: str
    architect: str
    company: str
    founder: str
    goods: str


def world() -> tuple[list[Town], dict[str, str]]:
    """All towns, and the town in which each person was born: never their own."""
    rng = random.Random(20)
    names = rng.sample([start + end for start in STARTS for end in ENDS], TOWNS)
    rivers = rng.sample([start + "r" + end for start in STARTS for end in RIVERS], TOWNS)
    families = [family + suffix for family in FAMILIES for suffix in SUFFIXES]
    people = rng.sample([f"{given} {family}" for given in GIVEN for family in families], 2 * TOWNS)
    companies = rng.sample([f"{family} {trade}" for family in families for trade in TRADES], TOWNS)
    towns = [
        Town(names[i], rivers[i], people[2 * i], companies[i], people[2 * i + 1], rng.choice(GOODS))
        for i in range(TOWNS)
    ]
    shift = rng.randrange(1, TOWNS // 2)
    born = {town.architect: names[(i + shift) % TOWNS] for i, town in enumerate(towns)}
    born |= {town.founder: names[(i - shift) % TOWNS] for i, town in enumerate(towns)}
    return towns, born


def address(kind: str, name: str) -> str:
    """A page's URL."""
    return f"{SITE}/{kind}/{name.lower().replace(' ', '-')}"


def pages() -> Iterator[dict[str, str]]:
    """All pages, each with something that could be taken for the answer."""
    towns, born = world()
    rng = random.Random(21)
    for i, town in enumerate(towns):
        other = towns[(i + 7) % TOWNS]
        built = rng.randint(1650, 1890)
        yield _page("town", town.name, (
            f"{town.name} lies on the river {town.river}, a day's walk from {other.name}. Its bell tower was designed "
            f"by {town.architect} and finished in {built}; {other.architect} repaired it in "
            f"{built + rng.randint(20, 90)}. "
            f"The market is held every {rng.choice(('Monday', 'Wednesday', 'Saturday'))}."
        ))  # fmt: skip
        yield _page("company", town.company, (
            f"{town.company} makes {town.goods}. {town.founder} founded it in {town.name} in "
            f"{rng.randint(1820, 1930)}. Since {rng.randint(1940, 2000)} it also has a branch in {other.name}."
        ))  # fmt: skip
        yield _page("person", town.architect, (
            f"{town.architect} was an architect, born in {born[town.architect]}, who designed the bell tower of "
            f"{town.name} and taught in {other.name}."
        ))  # fmt: skip
        yield _page("person", town.founder, (
            f"{town.founder}, born in {born[town.founder]}, founded {town.company} and later lived in {other.name}."
        ))  # fmt: skip


def _page(kind: str, title: str, text: str) -> dict[str, str]:
    return {"url": address(kind, title), "title": title, "text": text}


def questions() -> list[tuple[str, str, list[str]]]:
    """Question, answer, and the pages that lead there; no answer stands on an earlier one of them."""
    towns, born = world()
    texts = {page["url"]: page["text"] for page in pages()}
    by_name = {town.name: town for town in towns}
    asked = []
    for town in towns:
        company, tower = address("company", town.company), address("town", town.name)
        asked.append((
            f"Who designed the bell tower of the town in which {town.company} was founded?",
            town.architect, [company, tower],
        ))  # fmt: skip
        asked.append((
            f"In which town was the founder of {town.company} born?",
            born[town.founder], [company, address("person", town.founder)],
        ))  # fmt: skip
        home = by_name[born[town.architect]]
        asked.append((
            f"Which river flows through the birthplace of the architect of the bell tower of {town.name}?",
            home.river, [tower, address("person", town.architect), address("town", home.name)],
        ))  # fmt: skip
    return [one for one in asked if not any(one[1] in texts[url] for url in one[2][:-1])]


def rows(count: int = 12, seed: int = 20) -> Iterator[dict[str, Any]]:
    """``count`` of about 230 questions."""
    for question, answer, evidence in random.Random(seed).sample(questions(), count):
        message = {"role": "user", "content": ASK.format(question=question)}
        yield {"responses_create_params": {"input": [message]}, "expected_answer": answer, "evidence": evidence}


def content() -> str:
    """The text of the rows' file."""
    return "".join(json.dumps(one) + "\n" for one in rows())


def corpus() -> str:
    """The text of the corpus."""
    return "".join(json.dumps(one) + "\n" for one in pages())


if __name__ == "__main__":
    Path(__file__).with_name("example.jsonl").write_text(content())
    Path(__file__).with_name("corpus.jsonl").write_text(corpus())
