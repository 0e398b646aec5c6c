"""A full-text index of an offline corpus, by SQLite's FTS5, ranked by BM25."""

from __future__ import annotations

import json
import re
import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True)
class Page:
    """A page that was found; ``text`` is a snippet."""

    url: str
    title: str
    text: str


class Index:
    """Pages of a corpus: JSONL with ``url``, ``title``, ``text``. Raises ValueError for other lines."""

    def __init__(self, corpus: bytes) -> None:
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.execute("CREATE VIRTUAL TABLE page USING fts5(url UNINDEXED, title, text, tokenize='porter')")
        pages = []
        for number, line in enumerate(corpus.splitlines(), 1):
            try:
                page = json.loads(line)
                pages.append((page["url"], page["title"], page["text"]))
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"line {number} of the corpus is no object with url, title, text") from error
        self._database.executemany("INSERT INTO page VALUES (?, ?, ?)", pages)

    async def search(self, query: str, limit: int) -> list[Page]:
        """The best pages for any of the query's words; a word of the title counts thrice."""
        words = re.findall(r"\w+", query)
        if not words:
            return []
        match = " OR ".join(f'"{word}"' for word in words)
        rows = self._database.execute(
            "SELECT url, title, snippet(page, 2, '', '', ' ... ', 24) FROM page WHERE page MATCH ? "
            "ORDER BY bm25(page, 0, 3, 1) LIMIT ?",
            (match, limit),
        )
        return [Page(*row) for row in rows]

    async def read(self, url: str) -> str:
        """A page's text."""
        title, text = self._database.execute("SELECT title, text FROM page WHERE url = ?", (url,)).fetchone()
        return f"{title}\n\n{text}"

    def close(self) -> None:
        """Free the memory."""
        self._database.close()
