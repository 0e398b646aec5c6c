"""Writes ``example.jsonl`` beside it: ``python data/generate.py``. The same rows every time.

``python data/generate.py COUNT SEED [DIFFICULTY [VARIANT]]`` prints rows, of all variants and difficulties (1 to 5) in
turn unless one is named.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

WORDS = (
    "amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "haven", "indigo", "jasper", "kelp", "lotus",
    "maple", "north", "opal", "pine", "quartz", "river", "slate", "thorn", "umber", "violet", "willow", "zephyr",
)  # fmt: skip
NAMES = ("Ada", "Ben", "Cora", "Dan", "Eva", "Finn", "Gia", "Hugo", "Iris", "Jack", "Kira", "Leo")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
GOODS = ("apples", "bread", "cheese", "dates", "eggs", "figs", "garlic", "honey", "jam", "kale", "lemons", "milk")
Made = tuple[list[dict[str, str]], dict[str, Any], list[str]]
ANSWER_LINE = "End with one line `Answer: X`."


def chain(rng: random.Random, difficulty: int) -> Made:
    """Entries that lead from one to the next, among others that do not; the last one holds a code."""
    keys = [f"{word}-{rng.randint(100, 999)}" for word in rng.sample(WORDS, difficulty + 6)]
    path, others = keys[: difficulty + 1], keys[difficulty + 1 :]
    code = f"K-{rng.randint(100000, 999999)}"
    entries = {key: f"See entry {after}." for key, after in itertools.pairwise(path)}
    entries[path[-1]] = f"The code is {code}."
    entries |= {key: f"The code is K-{rng.randint(100000, 999999)}." for key in others}
    text = f"Which code do you come to from entry {path[0]}? Follow the entries. {ANSWER_LINE}"
    return [user(text)], {"entries": entries, "chain": path, "answer": code}, ["look_up"]


def asking(rng: random.Random, difficulty: int) -> Made:
    """A table is to be booked; as many details are left out as the difficulty says, up to three."""
    wanted = {
        "day": rng.choice(DAYS),
        "time": f"{rng.randint(11, 21)}:{rng.choice(('05', '10', '20', '25', '35', '40', '50', '55'))}",
        "people": rng.randint(3, 24),
    }
    hidden = sorted(rng.sample(list(wanted), min(difficulty - 1, 3)))
    said = {"day": f"on {wanted['day']}", "time": f"at {wanted['time']}", "people": f"for {wanted['people']} people"}
    given = " ".join(said[name] for name in wanted if name not in hidden)
    text = f"Please book a table {given}".strip() + ". If I left something out, ask me; do not ask for what I said."
    return [user(text)], {"wanted": wanted, "hidden": hidden, "patience": 4}, ["book"]


def schema(rng: random.Random, difficulty: int) -> Made:
    """Facts, and the shape of JSON in which to tell them; keys have drawn names."""
    keys = iter(rng.sample(WORDS, 8))
    name, city, tags = rng.choice(NAMES), rng.choice(WORDS).title(), rng.sample(WORDS, 1 + difficulty)
    age, score, member = rng.randint(20, 90), rng.randint(100, 999) / 10, rng.random() < 0.5
    fields = [
        (next(keys), "the name, a string", name),
        (next(keys), "the age, an integer", age),
        (next(keys), "the tags in alphabetical order, a list of strings", sorted(tags)),
        (next(keys), "whether they are a member, a boolean", member),
        (next(keys), "the score, a number", score),
        (next(keys), "the city in upper case, a string", city.upper()),
    ][: difficulty + 2]
    answer: dict[str, Any] = {key: value for key, _, value in fields[:-1]}
    answer[fields[-1][0]] = fields[-1][2] if difficulty < 3 else {"value": fields[-1][2]}
    shape = "; ".join(f"`{key}`: {what}" for key, what, _ in fields)
    nested = "" if difficulty < 3 else f" The value of `{fields[-1][0]}` is an object with the one key `value`."
    text = (
        f"{name}, {age}, of {city}, {'is' if member else 'is not'} a member, has a score of {score} and the tags "
        f"{', '.join(tags)}. Answer with a JSON object and nothing else. {shape}.{nested} No other keys."
    )
    return [user(text)], {"answer": answer}, []


def metadata(rng: random.Random, difficulty: int) -> Made:
    """Notes with headers; the request's own header says which count, and in which unit to answer."""
    notes = []
    for number in range(4 + 2 * difficulty):
        status, team = rng.choice(("final", "draft")), rng.choice(("north", "south"))
        notes.append((number + 1, status, team, rng.randint(11, 99)))
    notes[0], notes[1] = (1, "final", "north", rng.randint(11, 99)), (2, "draft", "south", rng.randint(11, 99))
    rules = {"count-only": "status=final"}
    if difficulty > 1:
        rules["and-only"] = "team=north"
    chosen = [n for n in notes if n[1] == "final" and (difficulty == 1 or n[2] == "north")]
    unit = rng.choice((("units", 1), ("tens of units, such as 4.5", 10))) if difficulty > 2 else ("units", 1)
    total = sum(n[3] for n in chosen)
    rules["answer-in"] = unit[0]
    header = "\n".join(f"{name}: {value}" for name, value in rules.items())
    listed = "\n".join(f"[note {n} | status={s} | team={t}] {amount} units" for n, s, t, amount in notes)
    plain = sum(n[3] for n in notes)
    system = "Requests begin with a header. What it says goes before everything else. " + ANSWER_LINE
    text = f"{header}\n---\nHow much is it in all?\n{listed}"
    written = f"{total / unit[1]:g}"
    decoys = [f"{one:g}" for one in (plain, plain / unit[1], total * 10) if f"{one:g}" != written]
    return [{"role": "system", "content": system}, user(text)], {"answer": written, "decoys": decoys}, []


def counterintuitive(rng: random.Random, difficulty: int) -> Made:
    """Arithmetic whose signs mean something else."""
    swapped = {"+": "-", "-": "+"} if difficulty < 3 else {"+": "*", "*": "-", "-": "+"}
    while True:
        signs = [rng.choice(list(swapped)) for _ in range(difficulty)]
        values = [rng.randint(12, 99) for _ in range(difficulty + 1)]
        usual = reckon(values, signs)
        answer = reckon(values, [swapped[sign] for sign in signs])
        if answer != usual and abs(answer) > 9:
            break
    expression = str(values[0]) + "".join(f" {sign} {value}" for sign, value in zip(signs, values[1:], strict=True))
    words = {"+": "plus", "-": "minus", "*": "times"}
    meaning = ", ".join(f"{sign} means {words[other]}" for sign, other in swapped.items())
    text = f"Here {meaning}. Work strictly from left to right. What is {expression}? {ANSWER_LINE}"
    return [user(text)], {"answer": answer, "decoys": [usual]}, []


def reckon(values: list[int], signs: list[str]) -> int:
    """From left to right."""
    total = values[0]
    for sign, value in zip(signs, values[1:], strict=True):
        total = total + value if sign == "+" else total - value if sign == "-" else total * value
    return total


def relevance(rng: random.Random, difficulty: int) -> Made:
    """A small sum among facts that have nothing to do with it."""
    people, goods = rng.sample(NAMES, 2 + difficulty), rng.sample(GOODS, 2)
    facts, count, everything = [], 0, 0
    for person in people:
        wanted, other = rng.randint(11, 60), rng.randint(11, 60)
        facts += [f"{person} bought {wanted} {goods[0]}.", f"{person} gave away {other} {goods[1]}."]
        everything += wanted + other
        count += wanted if person != people[-1] else 0
    facts += [f"The shop is {rng.randint(2, 90)} km away.", f"It opened {rng.randint(3, 80)} years ago."]
    rng.shuffle(facts)
    text = f"{' '.join(facts)} How many {goods[0]} did all but {people[-1]} buy in total? {ANSWER_LINE}"
    decoys = [one for one in (everything, count + 1, len(people)) if one != count]
    return [user(text)], {"answer": count, "decoys": decoys}, []


def intents(rng: random.Random, difficulty: int) -> Made:
    """Several wishes about a list in one message, some of which take back others."""
    goods = rng.sample(GOODS, len(GOODS))
    start = {name: rng.randint(1, 9) for name in goods[:4]}
    answer = dict(start)
    wishes = []
    for position in range(difficulty + 2):
        kind = position % 4
        if kind == 0:
            answer[goods[4 + position // 4]] = number = rng.randint(11, 40)
            wishes.append(f"put {number} {goods[4 + position // 4]} on it")
        elif kind == 1:
            name = next(one for one in start if one in answer)
            del answer[name]
            wishes.append(f"take the {name} off")
        elif kind == 2:
            name = [one for one in start if one in answer][-1]
            answer[name] = number = answer[name] * 2
            wishes.append(f"double the {name}")
        else:
            name = goods[4]
            answer[name] = number = rng.randint(41, 90)
            wishes.append(f"on second thoughts make it {number} {name}")
    listed = ", ".join(f"{count} {name}" for name, count in start.items())
    text = f"My list: {listed}. Please {'; '.join(wishes)}. Leave the rest as it is."
    return [user(text)], {"start": start, "answer": answer}, ["set_item"]


VARIANTS: dict[str, Callable[[random.Random, int], Made]] = {
    "information-dependency": chain,
    "proactive-asking": asking,
    "schema-adherence": schema,
    "metadata-instruction-following": metadata,
    "counterintuitive-instruction-following": counterintuitive,
    "information-relevance": relevance,
    "multiple-intent-synthesis": intents,
}


def user(text: str) -> dict[str, str]:
    """A message of the user."""
    return {"role": "user", "content": text}


def _tool(name: str, description: str, /, **properties: tuple[str, str]) -> dict[str, Any]:
    typed = {key: {"type": kind, "description": text} for key, (kind, text) in properties.items()}
    parameters = {"type": "object", "properties": typed, "required": list(typed), "additionalProperties": False}
    return {"type": "function", "name": name, "description": description, "parameters": parameters, "strict": True}


TOOLS = {
    "look_up": _tool("look_up", "Read the entry of a key.", key=("string", "The key, exactly as it was told.")),
    "book": _tool(
        "book",
        "Book a table. It is final.",
        day=("string", "The day of the week."),
        time=("string", "The time, such as 18:30."),
        people=("integer", "For how many people."),
    ),
    "set_item": _tool(
        "set_item",
        "Put an item on the list, or change its count; 0 takes it off.",
        name=("string", "The item."),
        count=("integer", "How many."),
    ),
}


def rows(
    count: int = 21, seed: int = 20, difficulty: int | None = None, variant: str | None = None
) -> Iterator[dict[str, Any]]:
    """Rows of each variant in turn, a little harder each time round, up to 5 and from 1 again."""
    rng = random.Random(seed)
    names = list(VARIANTS) if variant is None else [variant]
    for number in range(count):
        name = names[number % len(names)]
        level = difficulty or number // len(names) % 5 + 1
        messages, payload, tools = VARIANTS[name](rng, level)
        params = {"input": messages, "tools": [TOOLS[one] for one in tools]}
        yield {"responses_create_params": params, "variant": name, "difficulty": level, "payload": payload}


def content() -> str:
    """The file's text."""
    return "".join(json.dumps(one) + "\n" for one in rows())


if __name__ == "__main__":
    if len(sys.argv) == 1:
        Path(__file__).with_name("example.jsonl").write_text(content())
    else:
        for row in rows(*map(int, sys.argv[1:4]), *sys.argv[4:5]):  # type: ignore[arg-type]
            print(json.dumps(row))
