"""The index, an API on a real server, and which answers count."""

from __future__ import annotations

import json
import runpy
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from kubegym.testing import Played, play

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).resolve().parents[1]
ROWS = [json.loads(line) for line in (FOLDER / "data/example.jsonl").read_text().splitlines()]
MADE = runpy.run_path(str(FOLDER / "data/generate.py"))
TASK = {"question": "Where?", "expected_answer": "Bad Ems"}
PARITY = {"parity": "nemo-gym"}


def search(query: str) -> dict[str, Any]:
    return {"name": "search", "arguments": {"query": query}}


def browse(url: str) -> dict[str, Any]:
    return {"name": "browse", "arguments": {"url": url}}


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_the_oracle_finds_every_page_and_the_answer_stands_in_the_last(row: dict[str, Any]) -> None:
    played = play(FOLDER, row, "oracle")
    assert played.reward == 1.0
    assert "only pages that a search has found" not in "".join(played.tool_outputs)
    assert row["expected_answer"] in played.tool_outputs[-1]
    assert row["expected_answer"] not in row["question"]
    assert (played.fields["searches"], played.fields["pages_read"]) == (len(row["hops"]), len(row["hops"]))


def test_files_are_what_the_script_writes() -> None:
    for name, text in MADE["content"]().items():
        assert (FOLDER / "data" / name).read_text() == text


def test_a_search_finds_stems_and_titles_first() -> None:
    town = MADE["world"]()["towns"][0]
    played = play(FOLDER, TASK, [search(f"{town['town'].upper()}!"), search('"; DROP TABLE page'), search("?"), "no"])
    found = json.loads(played.tool_outputs[0])
    assert found[0]["title"] == town["town"]
    assert len(found) <= 5
    assert played.tool_outputs[2] == "nothing was found"


def test_only_found_pages_are_read(tmp_path: Path) -> None:
    corpus = tmp_path / "pages.jsonl"
    corpus.write_text(json.dumps({"url": "https://a.example/1", "title": "Cats", "text": "cats purr " * 40}) + "\n")
    url = "https://a.example/1"
    config = {"corpus": str(corpus), "max_words": 5}
    played = play(FOLDER, TASK, [browse(url), search("purring cat"), browse(url), "x"], config)
    assert played.tool_outputs[0] == "only pages that a search has found can be read"
    assert [one["url"] for one in json.loads(played.tool_outputs[1])] == [url]
    assert len(played.tool_outputs[2].split(" ")) == 5


@pytest.mark.parametrize(
    ("text", "honest", "parity"),
    [
        ("\\boxed{Bad Ems}", 1.0, 1.0),
        ("\\boxed{ bad  ems. }", 1.0, 0.0),
        ("\\boxed{\\text{Bad} Ems}", 0.0, 0.0),
        ("\\boxed{Bad Ems} or \\boxed{Bonn}", 0.0, 1.0),
        ("\\boxed{Bonn} or \\boxed{Bad Ems}", 0.0, 0.0),
        ("Bad Ems", 0.0, 0.0),
        ("\\boxed{Bad Ems", 0.0, 0.0),
    ],
)
def test_answers(text: str, honest: float, parity: float) -> None:
    assert (play(FOLDER, TASK, [text]).reward, play(FOLDER, TASK, [text], PARITY).reward) == (honest, parity)


def test_a_corpus_with_a_broken_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"url": "x", "title": "y", "text": "z"}\n{"url": 1}\n')
    with pytest.raises(Exception, match="line 2 of the corpus"):
        play(FOLDER, TASK, ["x"], {"corpus": str(tmp_path / "bad.jsonl")})


class _Server(BaseHTTPRequestHandler):
    """A search API in two styles, and a page."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if parts.path == "/broken":
            self._answer(503, "text/plain", b"")
        elif parts.path == "/search":
            host = self.headers["Host"]
            found = [{"title": query["q"][0], "link": f"http://{host}/page?key={query['key'][0]}", "snippet": "s"}]
            self._answer(200, "application/json", json.dumps({"items": found}).encode())
        else:
            page = b"<html><head><title>t</title></head><body><script>no()</script><p>Born in<b> Bonn</b>.<p>End</body>"
            self._answer(200, "text/html", page)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        results = [{"name": asked["query"], "url": "ftp://x.example/", "content": self.headers["X-Key"]}]
        self._answer(200, "application/json", json.dumps({"data": {"hits": results}}).encode())

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("SEARCH_API_KEY", "k 1")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}"
        finally:
            httpd.shutdown()
            thread.join()


def with_api(api: dict[str, Any], replies: list[Any]) -> Played:
    return play(FOLDER, TASK, [*replies, "x"], {"api": api})


def test_an_api_in_the_style_of_google(server: str) -> None:
    api = {"url": f"{server}/search?q={{query}}&key={{key}}"}
    url = f"{server}/page?key=k 1"
    played = with_api(api, [search("cats & dogs"), browse(url)])
    assert json.loads(played.tool_outputs[0]) == [{"title": "cats & dogs", "url": url, "snippet": "s"}]


def test_pages_are_read_without_their_scripts(server: str) -> None:
    api = {"url": f"{server}/search?q={{query}}&key=K"}
    played = with_api(api, [search("x"), browse(f"{server}/page?key=K")])
    assert played.tool_outputs[1] == "Born in Bonn.\nEnd"


def test_an_api_that_takes_posts(server: str) -> None:
    shape = {"results": "data.hits", "title": "name", "link": "url", "snippet": "content"}
    api = {"url": f"{server}/", "key_header": "X-Key", "body": '{"query": "{query}"}', **shape}
    played = with_api(api, [search('say "hi"'), browse("ftp://x.example/")])
    assert json.loads(played.tool_outputs[0]) == [{"title": 'say "hi"', "url": "ftp://x.example/", "snippet": "k 1"}]
    assert played.tool_outputs[1] == "only http and https can be read"


@pytest.mark.parametrize("broken", ["/broken", ":1/"])
def test_an_api_that_is_not_there_is_no_reward(server: str, broken: str) -> None:
    url = f"{server}{broken}" if broken.startswith("/") else f"http://127.0.0.1{broken}"
    played = with_api({"url": url}, [search("x")])
    assert (played.outcome, played.reward) == ("failed", None)
    assert played.failure is not None
    assert (played.failure.stage, played.failure.reason, played.failure.retryable) == ("tool", "ToolUnavailable", True)
