"""Tavily's search API, which also reads pages: https://docs.tavily.com, ``/search`` and ``/extract``."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from kubegym.core.errors import ToolError
from kubegym.resources.models import Model
from kubegym.search.web import MOST_BYTES, Pool, host_of

SECONDS = 60.0  # it reads the page while we wait
LONGEST_QUERY = 400  # characters, of the API
MOST_RESULTS = 20  # of the API


class TavilyApi(Model):
    """Tavily, or what speaks as it does.

    Attributes:
        key_file: holds the key, read on use: a Secret that is mounted, say.
        url: of the API.
        exclude_domains: whose pages are neither found nor read, such as those that publish the questions.
        snippet_characters: of a result.
    """

    key_file: str
    url: str = "https://api.tavily.com"
    exclude_domains: tuple[str, ...] = ()
    snippet_characters: int = 2000


class Tavily(Pool):
    """Searches and reads pages by the API, a bounded number at a time; no page is opened from here."""

    def __init__(self, api: TavilyApi) -> None:
        super().__init__()
        self._api = api

    def _search(self, query: str, count: int) -> list[dict[str, str]]:
        if len(query) > LONGEST_QUERY:
            raise ToolError(f"the query has {len(query)} characters; {LONGEST_QUERY} are the most")
        api = self._api
        asked = {"query": query, "max_results": min(count, MOST_RESULTS), "exclude_domains": list(api.exclude_domains)}
        results = self._ask("search", asked)["results"]
        return [
            {"title": one["title"], "link": one["url"], "snippet": one["content"][: api.snippet_characters]}
            for one in results
        ]

    def _page(self, url: str) -> str:
        host = host_of(url).rstrip(".")
        if any(f".{host}".endswith(f".{domain.lower()}") for domain in self._api.exclude_domains):
            raise ToolError(f"{url} cannot be read")
        reply = self._ask("extract", {"urls": [url], "format": "text"})
        for one in reply["results"]:
            return str(one["raw_content"])
        why = [str(one["error"]) for one in reply["failed_results"]]
        raise ToolError(f"{url} cannot be read" + (f": {why[0]}" if why else ""))

    def _ask(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {
            "Authorization": f"Bearer {Path(self._api.key_file).read_text().strip()}",
            "Content-Type": "application/json",
        }
        request = urllib.request.Request(f"{self._api.url.rstrip('/')}/{route}", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as reply:
                answer: dict[str, Any] = json.loads(reply.read(MOST_BYTES))
        except urllib.error.HTTPError as error:
            error.close()
            raise
        return answer
