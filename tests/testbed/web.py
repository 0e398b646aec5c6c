"""A small web server for tests: pages by path, redirects, replies that break off; it remembers what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """A reply.

    Attributes:
        body: its body.
        to: where it redirects instead.
        token: the bearer token it wants.
        breaks: how often it is cut off in the middle before it comes whole.
        statuses: statuses to answer with before it comes.
        ranges: whether it can go on in the middle.
    """

    body: bytes = b""
    to: str = ""
    token: str = ""
    breaks: int = 0
    statuses: list[int] = field(default_factory=list)
    ranges: bool = True


@dataclass
class Web:
    """A running server.

    Attributes:
        url: its base URL.
        pages: by path with query; may change while it runs.
        asked: path and headers of every request.
    """

    url: str
    pages: dict[str, Page]
    asked: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)


@contextmanager
def web_server(pages: Mapping[str, Page] | None = None) -> Iterator[Web]:
    """Serve pages on 127.0.0.1 while the block runs."""
    web = Web("", dict(pages or {}))

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            return None

        def do_GET(self) -> None:
            web.asked.append((self.path, dict(self.headers)))
            page = web.pages.get(self.path)
            if page is None:
                self.send_error(404)
            elif page.token and self.headers.get("Authorization") != f"Bearer {page.token}":
                self.send_error(401)
            elif page.statuses:
                self.send_error(page.statuses.pop(0))
            elif page.to:
                self.send_response(302)
                self.send_header("Location", page.to)
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self._body(page)

        def _body(self, page: Page) -> None:
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            body = page.body[start:] if page.ranges else page.body
            self.send_response(206 if start and page.ranges else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if page.breaks:
                page.breaks -= 1
                body = body[: len(body) // 2]
                self.close_connection = True
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
