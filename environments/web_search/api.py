"""Search by an API on the web, described in the configuration, and pages as text."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.error
import urllib.request
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

from kubegym import Model, ToolError

from .index import Page

_UNAVAILABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
_SILENT = frozenset({"script", "style", "noscript", "template", "head", "nav", "footer"})
_BLOCKS = frozenset({"p", "br", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article"})


class ApiConfig(Model):
    """A search API; the defaults are those of Google's Programmable Search.

    Attributes:
        url: with ``{query}``, and ``{key}`` where the key belongs into it.
        key_env: the environment variable with the key, of the process that searches.
        key_header: the header that takes the key, else none.
        body: JSON to post, with ``{query}``; none for GET.
        results: where the list of results is, by keys joined with dots.
        title: the key of a result's title; ``link`` and ``snippet`` likewise.
        timeout: seconds.
    """

    url: str
    key_env: str = "SEARCH_API_KEY"
    key_header: str = ""
    body: str = ""
    results: str = "items"
    title: str = "title"
    link: str = "link"
    snippet: str = "snippet"
    timeout: float = 20.0


class Api:
    """Searches and reads over HTTP."""

    def __init__(self, config: ApiConfig) -> None:
        self._config = config

    async def search(self, query: str, limit: int) -> list[Page]:
        """The API's results. Raises ConnectionError where it is not to be had, ValueError for an odd answer."""
        config = self._config
        key = os.environ.get(config.key_env, "")
        headers = {"Accept": "application/json", **({config.key_header: key} if config.key_header else {})}
        body = config.body.replace("{query}", json.dumps(query)[1:-1]).encode() if config.body else None
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = config.url.replace("{query}", quote(query)).replace("{key}", quote(key))
        answer: Any = json.loads(await asyncio.to_thread(self._get, url, headers, body))
        for part in config.results.split("."):
            answer = answer.get(part) or []
        return [
            Page(str(one[config.link]), str(one.get(config.title, "")), str(one.get(config.snippet, "")))
            for one in answer[:limit]
        ]

    async def read(self, url: str) -> str:
        """A page's text. Raises ConnectionError; ToolError for a page that cannot be read."""
        if not url.startswith(("http://", "https://")):
            raise ToolError("only http and https can be read")
        try:
            data = await asyncio.to_thread(self._get, url, {"Accept": "text/html, text/plain"}, None)
        except ValueError as error:
            raise ToolError(str(error)) from error
        return page_text(data.decode(errors="replace"))

    def close(self) -> None:
        """Nothing is kept open."""

    def _get(self, url: str, headers: dict[str, str], body: bytes | None) -> bytes:
        request = urllib.request.Request(url, body, {"User-Agent": "kubegym", **headers})
        try:
            with urllib.request.urlopen(request, timeout=self._config.timeout) as reply:
                return bytes(reply.read(4 << 20))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in _UNAVAILABLE:
                raise ConnectionError(f"the server answered {error.code}") from None
            raise ValueError(f"the server answered {error.code}") from None
        except urllib.error.URLError as error:
            raise ConnectionError(str(error.reason)) from error


class _Text(HTMLParser):
    """The text of a page, without scripts, styles and navigation."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._silent += tag in _SILENT
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in _SILENT and self._silent > 0

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data)


def page_text(html: str) -> str:
    """What a reader sees of a page."""
    parser = _Text()
    parser.feed(html)
    lines = (" ".join(line.split()) for line in "".join(parser.parts).splitlines())
    return "\n".join(line for line in lines if line)
