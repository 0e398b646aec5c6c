"""Where a long page speaks of something: its best passages, by the index of a corpus."""

from __future__ import annotations

import asyncio
from typing import Any

from kubegym.search.corpus import Corpus


async def passages(text: str, query: str, *, count: int, words: int) -> list[dict[str, Any]]:
    """The passages of a page that have most of the query's words, rare words counting more.

    Args:
        text: the page.
        query: words to look for.
        count: passages at most; no two share a word.
        words: of a passage.

    Returns:
        ``start_index`` (of the passage's first word, counted from 0) and ``text`` of each, the best first.
    """
    return await asyncio.to_thread(_find, text.split(), query, count, words)  # long pages take a while to index


def _find(page: list[str], query: str, count: int, words: int) -> list[dict[str, Any]]:
    half = (words + 1) // 2  # what one passage cuts in two stands whole in the next
    starts = range(0, len(page), half)
    index = Corpus((str(start), "", " ".join(page[start : start + words])) for start in starts)
    try:
        ranked = [int(one["link"]) for one in index.find(query, 3 * count)]  # each has at most two that it overlaps
    finally:
        index.close()
    chosen: list[int] = []
    for start in ranked:
        if len(chosen) < count and all(abs(start - other) >= words for other in chosen):
            chosen.append(start)
    return [{"start_index": start, "text": " ".join(page[start : start + words])} for start in chosen]
