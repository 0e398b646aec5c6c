"""Writes ``corpus.jsonl`` and ``example.jsonl`` beside it: ``python data/generate.py``. The same every time.

The chronicles are invented, so that nobody knows an answer by heart. Each tells of fifty years in some 2,500 words. A
question leads from what one of them says of a year to what another says of the same year.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

YEARS = range(1800, 1850)
SITE = "https://chronicles.example"
ASK = (
    "{question} Use the tools to find out: web_search finds pages, find_in_page shows where a page speaks of "
    "something, scroll_page reads on. End with a line that begins with Answer: and has the name that is asked for."
)
TOWNS = ("Bregrave", "Kolwick", "Marstead", "Tessford", "Vinholt", "Ulminster", "Hartcombe", "Pelby")
TOWNS += ("Quindale", "Sarmouth", "Drothwaite", "Fenkirk")
GIVEN = ("Ada", "Bruno", "Cleo", "Dario", "Edda", "Felix", "Greta", "Hugo", "Iris", "Jonas", "Karin", "Lorenz", "Mina")
GIVEN += ("Nils", "Odile", "Paul", "Runa")
FAMILIES = ("Abel", "Brandt", "Castell", "Dorn", "Elm", "Fabry", "Gersh", "Holl", "Ivers", "Jarn", "Kessel", "Lund")
SUFFIXES = ("er", "ow", "ski", "mann", "sen", "ard")
KINDS = ("brass", "copper", "stone", "marble", "painted")
THINGS = ("fountain", "clock", "bell", "organ", "weathervane", "bench", "lantern", "gate", "globe", "sundial")
HARVESTS = ("rich", "poor", "late", "early", "spoilt by hail", "better than anybody had hoped", "soon eaten")
NEWS = (
    "A bear was seen on the road to {other}, and twelve people walked out to look at it; none of them found it.",
    "The bridge was closed for {days} days, because nobody could agree on who should pay for its boards.",
    "Players from {other} stayed for {days} evenings and were asked to come again, though not too soon.",
    "The school had {days} pupils, of whom most were needed in the fields before the summer was over.",
    "A letter from {other} took {days} days to arrive, and was read aloud on the market when it did.",
    "There was a dispute with {other} over a meadow of {days} acres, which both sides gave up in the end.",
)


@dataclass(frozen=True)
class Year:
    """What happened in a town: who was mayor, what the town was given, and by whom."""

    mayor: str
    gift: str
    giver: str


@functools.cache
def world() -> dict[str, dict[int, Year]]:
    """All towns, year by year. A gift is given to a town once, and nobody is named twice."""
    rng = random.Random(30)
    names = [f"{given} {family}{suffix}" for given in GIVEN for family in FAMILIES for suffix in SUFFIXES]
    people = iter(rng.sample(names, 2 * len(TOWNS) * len(YEARS)))
    towns = {}
    for town in TOWNS:
        gifts = rng.sample([f"{kind} {thing}" for kind in KINDS for thing in THINGS], len(YEARS))
        towns[town] = {year: Year(next(people), gift, next(people)) for year, gift in zip(YEARS, gifts, strict=True)}
    return towns


def address(town: str) -> str:
    """The URL of a town's chronicle."""
    return f"{SITE}/chronicle-of-{town.lower()}"


def pages() -> Iterator[dict[str, str]]:
    """All chronicles."""
    rng = random.Random(31)
    for town, years in world().items():
        told = [
            f"In {year} {one.mayor} was mayor of {town}. {one.giver} gave the town a {one.gift}, at which everybody "
            f"came to look. The harvest was {rng.choice(HARVESTS)}. "
            + rng.choice(NEWS).format(
                other=rng.choice([each for each in TOWNS if each != town]), days=rng.randint(3, 90)
            )
            for year, one in years.items()
        ]
        yield {"url": address(town), "title": f"Chronicle of {town}", "text": "\n".join(told)}


def questions(rng: random.Random) -> Iterator[tuple[str, str, list[dict[str, str]]]]:
    """Question, answer, and where it is looked up: the year in a first chronicle, what happened in a second.

    One for every year of every town, so that no answer is right for two of them.
    """
    for town, years in world().items():
        for year, one in years.items():
            first = rng.choice([each for each in TOWNS if each != town])
            gift = world()[first][year].gift
            asked, answer = (f"gave {town} something", one.giver) if year % 2 else (f"was mayor of {town}", one.mayor)
            evidence = [
                {"url": address(first), "query": gift},
                {"url": address(town), "query": f"in {year} mayor gave"},
            ]
            yield f"Who {asked} in the year in which {first} was given a {gift}?", answer, evidence


def rows(count: int = 12, seed: int = 30) -> Iterator[dict[str, Any]]:
    """``count`` of 600 questions."""
    rng = random.Random(seed)
    for question, answer, evidence in rng.sample(list(questions(rng)), count):
        message = {"role": "user", "content": ASK.format(question=question)}
        yield {
            "responses_create_params": {"input": [message]},
            "question": question,
            "ground_truth": answer,
            "evidence": evidence,
        }


def content() -> str:
    """The text of the rows' file."""
    return "".join(json.dumps(one) + "\n" for one in rows())


def corpus() -> str:
    """The text of the corpus."""
    return "".join(json.dumps(one) + "\n" for one in pages())


if __name__ == "__main__":
    Path(__file__).with_name("example.jsonl").write_text(content())
    Path(__file__).with_name("corpus.jsonl").write_text(corpus())
