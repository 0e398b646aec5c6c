"""An offline corpus with a full-text index: SQLite's FTS5, ranked by BM25, in memory."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable

from kubegym import ToolError

_WORD = re.compile(r"\w+")
_SNIPPET_WORDS = 30


class Corpus:
    """Pages that can be searched and read.

    Args:
        lines: a page each, as JSON with ``url``, ``title`` and ``text``.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.execute(
            "CREATE VIRTUAL TABLE pages USING fts5(url UNINDEXED, title, text, tokenize='porter unicode61')"
        )
        pages = (json.loads(line) for line in lines if line.strip())
        rows = ((page["url"], page["title"], page["text"]) for page in pages)
        self._database.executemany("INSERT INTO pages VALUES (?, ?, ?)", rows)
        self._database.execute("CREATE TABLE places AS SELECT url, rowid AS page FROM pages")
        self._database.execute("CREATE UNIQUE INDEX by_url ON places (url)")

    async def search(self, query: str, count: int) -> list[dict[str, str]]:
        """The pages with most of the query's words, rare words and titles counting more."""
        words = dict.fromkeys(_WORD.findall(query.lower()))
        found = self._database.execute(
            f"SELECT title, url, snippet(pages, 2, '', '', ' ... ', {_SNIPPET_WORDS}) FROM pages WHERE pages MATCH ?"
            " ORDER BY bm25(pages, 0, 3, 1), rowid LIMIT ?",
            (" OR ".join(f'"{word}"' for word in words) or '""', count),
        )
        return [{"title": title, "link": url, "snippet": snippet} for title, url, snippet in found]

    async def page(self, url: str) -> str:
        """A page's title and text. Raises ToolError for an address that the corpus does not have."""
        found = self._database.execute(
            "SELECT title, text FROM pages WHERE rowid = (SELECT page FROM places WHERE url = ?)", (url.strip(),)
        ).fetchone()
        if found is None:
            raise ToolError(f"there is no page {url!r}; search finds the addresses")
        return "\n".join(found)

    def close(self) -> None:
        """Free the index."""
        self._database.close()
