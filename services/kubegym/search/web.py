"""The real web: a search API that answers in JSON, and pages as text.

What an API or a network does wrong is no answer of the policy's: it raises, and the attempt is made again. What a page
does (it is not there, it is no text) is said to the policy.
"""

from __future__ import annotations

import asyncio
import html.parser
import ipaddress
import json
import re
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from kubegym.core.errors import ToolError
from kubegym.resources.models import Model

T = TypeVar("T")

CONNECTIONS = 32
SECONDS = 20.0
MOST_BYTES = 8 << 20
KEPT_CHARACTERS = 64 << 20


class SearchApi(Model):
    """A search API: ``{query}``, ``{count}`` and ``{key}`` of the URL are filled in.

    Attributes:
        url: asked by GET.
        key_file: holds the key, read on use: a Secret that is mounted, say.
        items: where the list of results stands in the reply, keys joined by dots.
        title, link, snippet: what a result calls these.
        private_pages: whether ``browse`` may read pages of private networks, too.
    """

    url: str
    key_file: str | None = None
    items: str = "items"
    title: str = "title"
    link: str = "link"
    snippet: str = "snippet"
    private_pages: bool = False


class Pool:
    """Searches and reads pages in threads, a bounded number at a time.

    Pages are kept, those that were asked for last: one that is read in pieces is fetched once.

    Args:
        kept_characters: of all pages that are kept.
    """

    def __init__(self, kept_characters: int = KEPT_CHARACTERS) -> None:
        self._pool = ThreadPoolExecutor(CONNECTIONS, "web")
        self._most = kept_characters
        self._kept: OrderedDict[str, str] = OrderedDict()
        self._characters = 0

    async def search(self, query: str, count: int) -> list[dict[str, str]]:
        """What the API finds: ``title``, ``link`` and ``snippet`` of each result."""
        return await self._run(self._search, query, count)

    async def page(self, url: str) -> str:
        """The text of a page. Raises ToolError for one that cannot be read."""
        url = url.strip()
        if url not in self._kept:
            text = await self._run(self._page, url)
            self._keep(url, text)
            return text
        self._kept.move_to_end(url)
        return self._kept[url]

    def close(self) -> None:
        """Wait for nobody."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _keep(self, url: str, text: str) -> None:
        self._characters += len(text) - len(self._kept.pop(url, ""))  # another call may have read it meanwhile
        self._kept[url] = text
        while self._characters > self._most:
            self._characters -= len(self._kept.popitem(last=False)[1])

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    def _search(self, query: str, count: int) -> list[dict[str, str]]:
        raise NotImplementedError

    def _page(self, url: str) -> str:
        raise NotImplementedError


class Web(Pool):
    """Searches by an API of any shape, and opens pages itself."""

    def __init__(self, api: SearchApi) -> None:
        super().__init__()
        self._api = api
        self._opener = urllib.request.build_opener(_CheckedRedirects(self._check))

    def _search(self, query: str, count: int) -> list[dict[str, str]]:
        api = self._api
        key = Path(api.key_file).read_text().strip() if api.key_file else ""
        parts = {"query": query, "count": str(count), "key": key}
        url = re.sub(r"\{(query|count|key)\}", lambda part: urllib.parse.quote(parts[part[1]], safe=""), api.url)
        try:
            with urllib.request.urlopen(url, timeout=SECONDS) as reply:
                found = json.loads(reply.read(MOST_BYTES))
        except urllib.error.HTTPError as error:
            error.close()
            raise
        for name in api.items.split("."):
            found = found.get(name) or {}
        names = {"title": api.title, "link": api.link, "snippet": api.snippet}
        return [{ours: str(one.get(theirs) or "") for ours, theirs in names.items()} for one in list(found)[:count]]

    def _page(self, url: str) -> str:
        self._check(url)
        try:
            with self._opener.open(url, timeout=SECONDS) as reply:
                kind, encoding = reply.headers.get_content_type(), reply.headers.get_content_charset() or "utf-8"
                body = reply.read(MOST_BYTES)
        except urllib.error.HTTPError as error:
            error.close()
            raise ToolError(f"{url} answers {error.code}") from error
        if not kind.startswith("text/"):
            raise ToolError(f"{url} is no text but {kind}")
        try:
            text = body.decode(encoding, "replace")
        except LookupError:
            text = body.decode(errors="replace")
        return _text_of(text) if kind == "text/html" else text

    def _check(self, url: str) -> None:
        """Refuse what is no public page: a policy must not read what only this machine can reach. Raises ToolError."""
        host = host_of(url)
        if self._api.private_pages:
            return
        try:
            found = socket.getaddrinfo(host, urllib.parse.urlsplit(url).port or 443, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            raise ToolError(f"there is no host {host!r}") from error
        if not all(ipaddress.ip_address(str(one[4][0]).partition("%")[0]).is_global for one in found):
            raise ToolError(f"{host} is no public host")


def host_of(url: str) -> str:
    """The host of a page's address. Raises ToolError for what is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ToolError(f"{url!r} is no address: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise ToolError(f"{url!r} is no address of a page; it begins with http:// or https://")
    return host


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, check: Callable[[str], None]) -> None:
        self._check = check

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        try:
            self._check(newurl)
        except ToolError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Reader(html.parser.HTMLParser):
    """Collects the text that a reader sees; block elements begin lines."""

    _HIDDEN = frozenset({"script", "style", "noscript", "template", "svg"})
    _INLINE = frozenset({"a", "abbr", "b", "cite", "code", "em", "i", "small", "span", "strong", "sub", "sup", "u"})

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._hidden += tag in self._HIDDEN
        if tag not in self._INLINE:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = max(0, self._hidden - (tag in self._HIDDEN))
        if tag not in self._INLINE:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)


def _text_of(page: str) -> str:
    reader = _Reader()
    reader.feed(page)
    lines = (" ".join(line.split()) for line in "".join(reader.parts).split("\n"))
    return "\n".join(line for line in lines if line)
