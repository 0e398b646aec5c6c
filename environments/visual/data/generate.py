"""Writes ``example.jsonl`` and ``images/`` beside it: ``python data/generate.py``. The same every time."""

from __future__ import annotations

import json
import random
import runpy
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PICTURE = runpy.run_path(str(FOLDER.parent / "picture.py"))
COLOURS, png = list(PICTURE["COLOURS"]), PICTURE["png"]
ROOMS = ("kitchen", "attic", "cellar", "garden", "study", "hall")
EXAMPLES = 8


def rows(count: int = EXAMPLES, seed: int = 20, boxes: int = 6, terms: int = 2) -> Iterator[dict[str, Any]]:
    """One picture in the task and three rooms to look into, by turns; images are data URIs.

    Args:
        count: of rows.
        seed: other rows for another one.
        boxes: in a picture, up to 8; more are harder.
        terms: numbers to be added, at most.
    """
    rng = random.Random(seed)
    for number in range(count):
        drawn = picture_row if number % 2 == 0 else rooms_row
        yield drawn(rng, boxes, rng.randint(1, terms))


def picture_row(rng: random.Random, boxes: int, terms: int) -> dict[str, Any]:
    """A question about the picture beside it."""
    drawn = draw(rng, boxes)
    asked = rng.sample(drawn, terms)
    question = f"{ask([f'the {colour} box' for colour, _ in asked])} Answer with a number."
    content = [
        {"type": "input_text", "text": question},
        {"type": "input_image", "image_url": f"data:image/png;base64,{b64encode(png(drawn)).decode()}"},
    ]
    params = {"input": [{"role": "user", "content": content}], "tools": []}
    return {"responses_create_params": params, "expected_answer": sum(number for _, number in asked)}


def rooms_row(rng: random.Random, boxes: int, terms: int) -> dict[str, Any]:
    """A question about boxes in several rooms, each of which has boxes of the same colours."""
    rooms = {room: draw(rng, boxes) for room in rng.sample(ROOMS, 3)}
    asked = [(room, *rng.choice(rooms[room])) for room in rng.sample(list(rooms), terms)]
    question = (
        f"The house has these rooms: {', '.join(rooms)}. Look into them to find the boxes. "
        f"{ask([f'the {colour} box in the {room}' for room, colour, _ in asked])} Answer with a number."
    )
    params = {"input": [{"role": "user", "content": question}]}
    return {
        "responses_create_params": params,
        "rooms": rooms,
        "expected_answer": sum(number for _, _, number in asked),
    }


def draw(rng: random.Random, boxes: int) -> list[tuple[str, int]]:
    """Colours and numbers, none twice."""
    return list(zip(rng.sample(COLOURS, boxes), rng.sample(range(100, 1000), boxes), strict=True))


def ask(places: list[str]) -> str:
    """The question."""
    if len(places) == 1:
        return f"Which number stands in {places[0]}?"
    return f"What is the sum of the numbers in {' and '.join(places)}?"


def files() -> dict[str, bytes]:
    """Everything that is written, by name: the first two pictures lie beside the rows, which name them by path."""
    written: dict[str, bytes] = {}
    lines = []
    for number, row in enumerate(rows()):
        content = row["responses_create_params"]["input"][0]["content"]
        if number in (0, 2):
            image = content[1]
            name = f"images/{number}.png"
            written[name] = png_of(image["image_url"])
            image["image_url"] = name
        lines.append(json.dumps(row) + "\n")
    return {**written, "example.jsonl": "".join(lines).encode()}


def png_of(uri: str) -> bytes:
    """The bytes of a data URI."""
    return b64decode(uri.partition(",")[2])


if __name__ == "__main__":
    (FOLDER / "images").mkdir(exist_ok=True)
    for name, data in files().items():
        (FOLDER / name).write_bytes(data)
