"""Searching, reading, and which answers are right; the API and the pages are those of a real server."""

from __future__ import annotations

import json
import re
import runpy
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym.testing import Played, load_environment, play

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).resolve().parents[1]
ROWS = [json.loads(line) for line in (FOLDER / "data/example.jsonl").read_text().splitlines()]
FIRST_BOX = sys.modules[load_environment(FOLDER).cls.__module__]._first_box
SCRIPT = runpy.run_path(str(FOLDER / "data/generate.py"))
TOWN = SCRIPT["world"]()[0][0].name
PARITY = {"parity": "nemo-gym"}
TASK = {"expected_answer": "Ada Abelsen"}
HTML = (
    b"<html><head><title>Tower</title><style>p {color: red}</style></head><body><p>Built by <b>Ada</b>&amp;Co.</p>"
    b"<script>lie()</script><p>In \xe4 year</p></body></html>"
)


def search(query: str, config: dict[str, Any] | None = None) -> Played:
    return play(FOLDER, TASK, [{"name": "search", "arguments": {"query": query}}, "?"], config)


def found(query: str, **config: Any) -> list[dict[str, str]]:
    return json.loads(search(query, config).tool_outputs[0])["search_results"]


def browse(url: str, config: dict[str, Any] | None = None) -> str:
    return play(FOLDER, TASK, [{"name": "browse", "arguments": {"url": url}}, "?"], config).tool_outputs[0]


def answered(text: str, config: dict[str, str] | None = None) -> float | None:
    return play(FOLDER, TASK, [text], config).reward


@pytest.mark.parametrize("config", [{}, PARITY], ids=["honest", "parity"])
@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_the_oracle_earns_every_example_by_what_it_finds(row: dict[str, Any], config: dict[str, str]) -> None:
    played = play(FOLDER, row, "oracle", config)
    assert played.reward == 1.0
    assert row["expected_answer"] in json.loads(played.tool_outputs[-1])["page_content"]
    for url, output in zip(row["evidence"], played.tool_outputs[::2], strict=True):
        assert json.loads(output)["search_results"][0]["link"] == url


def test_the_files_are_what_the_script_writes() -> None:
    assert (FOLDER / "data/example.jsonl").read_text() == SCRIPT["content"]()
    assert (FOLDER / "data/corpus.jsonl").read_text() == SCRIPT["corpus"]()


def test_every_answer_stands_on_the_last_page_of_its_evidence_and_on_no_earlier_one() -> None:
    texts = {page["url"]: page["text"] for page in SCRIPT["pages"]()}
    for question, answer, evidence in SCRIPT["questions"]():
        assert [answer in texts[url] for url in evidence] == [False] * (len(evidence) - 1) + [True], question
        assert answer not in question


def test_rare_words_rank_above_common_ones_and_any_syntax_is_text() -> None:
    assert [one["title"] for one in found(f'bell tower "{TOWN.lower()}', results=1)] == [TOWN]
    assert found("AND OR NOT ( * ^ : -") == found("and or not")
    assert found("???") == []
    assert search("  ").tool_outputs == ["the query is empty"]


def test_long_pages_are_cut_and_unknown_ones_refused() -> None:
    page = json.loads(browse(f"https://atlas.example/town/{TOWN.lower()}", {"page_words": 3}))["page_content"]
    assert page.startswith(f"{TOWN}\n{TOWN} lies on [cut: ")
    assert browse("https://atlas.example/nowhere").startswith("there is no page")


@pytest.mark.parametrize(
    ("text", "honest", "parity"),
    [
        (r"\boxed{Ada Abelsen}", 1.0, 1.0),
        (r"It is \boxed{ada  abelsen.}", 1.0, 0.0),
        (r"\boxed{\text{Ada Abelsen}}", 1.0, 0.0),
        (r"\boxed{Ada Abelsen} or \boxed{Ada Lundski}", 0.0, 1.0),
        (r"\boxed{Ada Lundski}, no, \boxed{Ada Abelsen}", 0.0, 0.0),
        (r"\boxed{Ada Abelsen}, that is \boxed{Ada Abelsen}", 1.0, 1.0),
        (r"\boxed{Ada Abelsen, Ada Lundski}", 0.0, 0.0),
        (r"\boxed{Ada Abelsen", 0.0, 0.0),
        ("Ada Abelsen", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_what_counts_as_the_answer(text: str, honest: float, parity: float) -> None:
    assert (answered(text), answered(text, PARITY)) == (honest, parity)


@given(st.lists(st.sampled_from(["\\boxed{", "}", "{", " ", "\n", "a"]), max_size=30).map("".join))
def test_parity_finds_the_box_that_nemo_gym_finds(text: str) -> None:
    theirs = re.search(r"\\boxed\{(.*?)\}", text)
    assert FIRST_BOX(text) == (theirs and theirs[1])


def test_an_empty_expected_answer_is_refused() -> None:
    with pytest.raises(Exception, match="expected_answer is empty"):
        play(FOLDER, {"expected_answer": " . "}, ["?"])


class Internet(BaseHTTPRequestHandler):
    """A search API and some pages; ``status`` is what the API answers."""

    status = 200

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if path == "/api":
            hits = [{"name": f"{query['q'][0]} {query['key'][0]} {n}", "url": f"/{n}"} for n in range(3)]
            return self.say(type(self).status, "application/json", json.dumps({"web": {"results": hits}}).encode())
        if path == "/away":
            self.send_response(302)
            self.send_header("Location", "ftp://files.example/")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        kinds = {"/page": ("text/html; charset=latin-1", HTML), "/picture": ("image/png", b"\x89PNG")}
        kind, body = kinds.get(path, ("text/plain", b""))
        return self.say(200 if path in kinds else 404, kind, body)

    def say(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def internet() -> Iterator[str]:
    Internet.status = 200
    with ThreadingHTTPServer(("127.0.0.1", 0), Internet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def config(internet: str, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "key").write_text("s&cret\n")
    url = f"{internet}/api?q={{query}}&num={{count}}&key={{key}}"
    api = {"url": url, "key_file": str(tmp_path / "key"), "items": "web.results", "title": "name", "link": "url"}
    return {"api": {**api, "private_pages": True}, "results": 2}


def test_an_api_is_asked_as_configured(config: dict[str, Any]) -> None:
    assert found("a {key} & b", **config) == [
        {"title": "a {key} & b s&cret 0", "link": "/0", "snippet": ""},
        {"title": "a {key} & b s&cret 1", "link": "/1", "snippet": ""},
    ]


@pytest.mark.parametrize(("status", "retryable"), [(429, True), (503, True), (403, False), (500, False)])
def test_an_api_in_trouble_fails_the_attempt_and_scores_nothing(
    config: dict[str, Any], status: int, retryable: bool
) -> None:
    Internet.status = status
    played = search("tower", config)
    assert (played.outcome, played.reward) == ("failed", None)
    assert played.failure is not None
    assert (played.failure.stage, played.failure.retryable) == ("tool", retryable)


def test_an_api_that_is_not_there_may_be_there_later() -> None:
    played = search("tower", {"api": {"url": "http://127.0.0.1:1/"}})
    assert played.failure is not None
    assert (played.failure.reason, played.failure.retryable) == ("ToolUnavailable", True)


def test_pages_are_read_as_text(config: dict[str, Any], internet: str) -> None:
    assert json.loads(browse(f"{internet}/page", config)) == {"page_content": "Tower\nBuilt by Ada&Co.\nIn ä year"}
    assert browse(f"{internet}/picture", config).endswith("is no text but image/png")
    assert browse(f"{internet}/nothing", config).endswith("answers 404")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://[", "mailto:a@b", "tower", "http:///x"])
def test_what_is_no_page_is_not_opened(config: dict[str, Any], url: str) -> None:
    assert "is no address" in browse(url, config)


def test_a_redirect_is_checked_like_an_address(config: dict[str, Any], internet: str) -> None:
    assert browse(f"{internet}/away", config).startswith("'ftp://files.example/' is no address")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "[::1]"])
def test_private_hosts_are_out_of_reach_unless_allowed(config: dict[str, Any], host: str) -> None:
    config["api"]["private_pages"] = False
    assert browse(f"http://{host}/page", config).endswith("is no public host")


class TavilyTwin(BaseHTTPRequestHandler):
    """``/search`` and ``/extract`` in the API's documented shapes; what the API would refuse, it refuses."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append(body)
        if self.headers["Authorization"] != "Bearer tvly-key":
            return self.say(401, {"detail": {"error": "Unauthorized: missing or invalid API key."}})
        if self.path == "/search" and len(body["query"]) <= 400 and 0 <= body["max_results"] <= 20:
            hits = [
                {"title": f"T{n}", "url": f"https://site/{n}", "content": "word " * 600, "score": 1 / (n + 1)}
                for n in range(body["max_results"])
            ]
            return self.say(200, {"query": body["query"], "results": hits, "images": [], "response_time": 0.5})
        if self.path == "/extract":
            (url,) = body["urls"]
            there, failed = [{"url": url, "raw_content": "A tower\nof Ada."}], [{"url": url, "error": "not there"}]
            gone = url.endswith("/gone")
            return self.say(200, {"results": [] if gone else there, "failed_results": failed if gone else []})
        return self.say(400, {"detail": {"error": "Invalid request."}})

    def say(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def tavily(tmp_path: Path) -> Iterator[dict[str, Any]]:
    TavilyTwin.asked.clear()
    (tmp_path / "key").write_text("tvly-key\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), TavilyTwin) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/"
        yield {"tavily": {"url": url, "key_file": str(tmp_path / "key"), "exclude_domains": ["quiz.example"]}}
        server.shutdown()
        thread.join()


def test_tavily_searches(tavily: dict[str, Any]) -> None:
    results = found("tower", **tavily, results=50)
    assert [one["link"] for one in results] == [f"https://site/{n}" for n in range(20)]
    assert (results[0]["title"], len(results[0]["snippet"])) == ("T0", 2000)
    assert TavilyTwin.asked == [{"query": "tower", "max_results": 20, "exclude_domains": ["quiz.example"]}]
    assert search("t" * 401, tavily).tool_outputs == ["the query has 401 characters; 400 are the most"]


def test_tavily_reads_pages(tavily: dict[str, Any]) -> None:
    assert json.loads(browse("https://site/1", tavily)) == {"page_content": "A tower\nof Ada."}
    assert browse("https://site/gone", tavily) == "https://site/gone cannot be read: not there"
    assert browse("tower", tavily).startswith("'tower' is no address")
    asked = len(TavilyTwin.asked)
    for host in ("quiz.example", "QUIZ.example", "www.quiz.example."):
        assert browse(f"https://{host}/answers", tavily).endswith("cannot be read")
    assert len(TavilyTwin.asked) == asked


def test_tavily_with_a_wrong_key_scores_nothing(tavily: dict[str, Any]) -> None:
    Path(tavily["tavily"]["key_file"]).write_text("other")
    played = search("tower", tavily)
    assert (played.outcome, played.reward) == ("failed", None)
