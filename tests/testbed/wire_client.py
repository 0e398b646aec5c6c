"""A plain HTTP client for tests of the wire: exact bytes, every header, cookies only where a test carries them."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

LIMIT_SECONDS = 300.0
"""Far above what anything takes here; what takes longer hangs."""


ROW = {
    "responses_create_params": {"input": "count to three"},
    "initial_count": 3,
    "expected_count": 3,
    "_ng_task_index": 7,
    "_ng_rollout_index": 2,
    "note": None,
    "mine": {"kept": [1, None, "ä"]},
}


@dataclass
class Answer:
    """A reply as it came; header names in lower case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()

    def header(self, name: str) -> str | None:
        return next((value for found, value in self.headers if found == name), None)

    def set_cookies(self) -> dict[str, str]:
        """Cookies that the reply sets, by name, without attributes."""
        lines = [value for name, value in self.headers if name == "set-cookie"]
        pairs = (line.split(";")[0].partition("=") for line in lines)
        return {name.strip(): value.strip() for name, _, value in pairs}


@dataclass
class Wire:
    """Somebody who talks to one server. ``cookies`` are sent with every call and renewed by every reply."""

    url: str
    cookies: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        limit: float = LIMIT_SECONDS,
    ) -> Answer:
        """One request on a connection of its own; a body that is not bytes goes as JSON."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=limit)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"content-type": "application/json", **self.headers, **(headers or {})}
        if self.cookies:
            sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        try:
            connection.request(method, parts.path.rstrip("/") + path, data, sent)
            reply = connection.getresponse()
            answer = Answer(reply.status, [(name.lower(), value) for name, value in reply.getheaders()], reply.read())
        finally:
            connection.close()
        self.cookies.update(answer.set_cookies())
        return answer

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.call("GET", path, headers=headers)

    def post(
        self, path: str, body: Any = None, headers: Mapping[str, str] | None = None, *, limit: float = LIMIT_SECONDS
    ) -> Answer:
        return self.call("POST", path, {} if body is None else body, headers, limit=limit)

    def other(self) -> Wire:
        """Somebody else at the same server, without these cookies."""
        return Wire(self.url, {}, dict(self.headers))

    def metric(self, pattern: str) -> float:
        """The sum of the samples whose name and labels match, by the server's ``/metrics``."""
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line[:1] != "#" and re.match(pattern, line))


@dataclass
class Target:
    """A server under test.

    Attributes:
        url: its base URL.
        row: a row that it can run.
        tool: a tool's name and arguments.
        ours: whether it is KubeGym's.
    """

    url: str
    row: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(ROW)))
    tool: tuple[str, dict[str, Any]] = ("increment_counter", {"count": 1})
    ours: bool = True

    def wire(self) -> Wire:
        """Somebody new who talks to it."""
        return Wire(self.url)


def events(body: bytes) -> list[tuple[str | None, Any]]:
    """Server-sent events as (name, data); data is parsed unless it is ``[DONE]``."""
    found: list[tuple[str | None, Any]] = []
    for block in body.decode().split("\n\n"):
        if not block.strip():
            continue
        fields = dict(line.partition(": ")[::2] for line in block.splitlines())
        data = fields["data"]
        found.append((fields.get("event"), data if data == "[DONE]" else json.loads(data)))
    return found
