"""Prints more rows than ``example.jsonl`` has, which are written by hand: ``python data/generate.py COUNT SEED``."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from typing import Any


def rows(count: int = 200, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Sums with four options, the right one under a drawn letter, in each of the grading modes in turn."""
    rng = random.Random(seed)
    endings = {
        "strict_single_letter_boxed": "End with the letter of your choice in \\boxed{}.",
        "lenient_boxed": "End with your choice in \\boxed{}.",
        "lenient_answer_colon": "End with a line such as `Answer: B`.",
    }
    for number in range(count):
        mode = list(endings)[number % len(endings)]
        first, second = rng.randint(11, 99), rng.randint(11, 99)
        wrong = rng.sample([first + second + off for off in (-20, -10, -2, -1, 1, 2, 10, 20)], 3)
        letter = rng.choice("ABCD")
        values = dict(zip([one for one in "ABCD" if one != letter], wrong, strict=True)) | {letter: first + second}
        options = {one: str(values[one]) for one in "ABCD"}
        listed = "\n".join(f"{one}: {text}" for one, text in options.items())
        question = f"What is {first} + {second}?\n{listed}\n{endings[mode]}"
        yield {
            "responses_create_params": {"input": [{"role": "user", "content": question}]},
            "uuid": f"mcqa-{seed}-{number}",
            "options": [{one: text} for one, text in options.items()],
            "expected_answer": letter,
            "grading_mode": mode,
        }


if __name__ == "__main__":
    for row in rows(*map(int, sys.argv[1:])):
        print(json.dumps(row))
