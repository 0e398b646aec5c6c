"""Writes ``example.jsonl`` beside it: ``python data/generate.py``. The same rows every time."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def rows(count: int = 10, seed: int = 20) -> Iterator[dict[str, Any]]:
    """Tasks of both datasets by turns; the environment makes them from their index."""
    indices = random.Random(seed).sample(range(100_000), count)
    for number, index in enumerate(indices):
        dataset = ("sums", "locks")[number % 2]
        yield {"responses_create_params": {"input": []}, "dataset": dataset, "task_idx": index}


def content() -> str:
    """The file's text."""
    return "".join(json.dumps(one) + "\n" for one in rows())


if __name__ == "__main__":
    Path(__file__).with_name("example.jsonl").write_text(content())
