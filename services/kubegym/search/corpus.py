"""An offline corpus with a full-text index: SQLite's FTS5, ranked by BM25, in memory."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from itertools import pairwise

from kubegym.core.errors import ToolError

_WORD = re.compile(r"\w+")
_SNIPPET_WORDS = 30


class Corpus:
    """Pages that can be searched and read.

    Args:
        pages: address, title and text of each; no two have the same address.
    """

    def __init__(self, pages: Iterable[tuple[str, str, str]]) -> None:
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.execute(
            "CREATE VIRTUAL TABLE pages USING fts5(url UNINDEXED, title, text, tokenize='porter unicode61')"
        )
        self._database.executemany("INSERT INTO pages VALUES (?, ?, ?)", pages)
        self._database.execute("CREATE TABLE places AS SELECT url, rowid AS page FROM pages")
        self._database.execute("CREATE UNIQUE INDEX by_url ON places (url)")

    async def search(self, query: str, count: int) -> list[dict[str, str]]:
        """The pages with most of the query's words, rare words and titles counting more."""
        return self.find(query, count)

    def find(self, query: str, count: int) -> list[dict[str, str]]:
        """``search``, for who is in a thread of their own."""
        words = _WORD.findall(query.lower())
        terms = dict.fromkeys([*words, *map(" ".join, pairwise(words))])  # words that stand together count once more
        found = self._database.execute(
            f"SELECT title, url, snippet(pages, 2, '', '', ' ... ', {_SNIPPET_WORDS}) FROM pages WHERE pages MATCH ?"
            " ORDER BY bm25(pages, 0, 3, 1), rowid LIMIT ?",
            (" OR ".join(f'"{term}"' for term in terms) or '""', count),
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
