"""Which place an environment searches, as its ``Config`` says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

from kubegym.resources.files import read_file
from kubegym.resources.models import Model
from kubegym.search.corpus import Corpus
from kubegym.search.tavily import Tavily, TavilyApi
from kubegym.search.web import SearchApi, Web


class Sources(Model):
    """Base of a ``Config``: ``tavily`` or ``api`` search the web, else ``corpus`` is searched.

    Attributes:
        corpus: JSON lines with ``url``, ``title`` and ``text``; what ``kubegym.read_file`` reads.
        api: a search API, and the pages themselves.
        tavily: Tavily's, which reads pages, too.
    """

    corpus: str = "data/corpus.jsonl"
    api: SearchApi | None = None
    tavily: TavilyApi | None = None


class Pages(Protocol):
    """What all places can do."""

    async def search(self, query: str, count: int) -> list[dict[str, str]]:
        """The best ``count`` results, the best first: ``title``, ``link`` and ``snippet`` of each."""

    async def page(self, url: str) -> str:
        """The text of a page. Raises ToolError for one that cannot be read."""

    def close(self) -> None:
        """Free what it holds."""


async def open_pages(sources: Sources, beside: str | Path) -> Pages:
    """Index the corpus, or get ready to ask the API: for ``setup``.

    Args:
        sources: the configuration.
        beside: the module that asks, ``__file__``: a relative path starts in its folder.

    Raises:
        InvalidSpec, StoreError: the corpus cannot be read (``kubegym.read_file``).
    """
    if sources.tavily is not None:
        return Tavily(sources.tavily)
    if sources.api is not None:
        return Web(sources.api)
    lines = (await read_file(sources.corpus, beside)).splitlines()
    pages = (json.loads(line) for line in lines if line.strip())
    return Corpus((page["url"], page["title"], page["text"]) for page in pages)
