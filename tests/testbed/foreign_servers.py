"""Small servers as NeMo Gym's users write theirs: a cookie that changes at every reply, nulls, extra fields,
crashes that answer 500 with a JSON string and forget the cookie, slow ones, dying ones (contract 1.1, 1.3, 1.5).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from testbed.raw_server import Peer, raw_server

COOKIE = "CounterServer___counter"


@dataclass
class Seen:
    """A request that came."""

    path: str
    headers: dict[str, str]
    body: Any

    @property
    def cookies(self) -> dict[str, str]:
        pairs = (piece.strip().partition("=") for piece in self.headers.get("cookie", "").split(";"))
        return {name: value for name, _, value in pairs if name}


@dataclass
class Told:
    """A reply: JSON unless it is text or bytes. ``cookies`` are Set-Cookie lines; status 0 breaks off instead."""

    body: Any = None
    status: int = 200
    cookies: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        raw = isinstance(self.body, str | bytes)
        data = self.body if isinstance(self.body, bytes) else (self.body if raw else json.dumps(self.body)).encode()
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", f"Content-Length: {len(data)}"]
        named = {"Content-Type": "text/plain" if raw else "application/json", **self.headers}
        lines += [f"{name}: {value}" for name, value in named.items()]
        lines += [f"set-cookie: {cookie}" for cookie in self.cookies]
        return "\r\n".join([*lines, "", ""]).encode() + data


Answer = Callable[[Seen], Awaitable[Told]]


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[str]:
    """Serve ``answer`` on 127.0.0.1 while the block runs; the base URL."""

    async def script(peer: Peer) -> None:
        while True:
            head, body = await peer.request()
            first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            told = await answer(Seen(first.split(" ")[1], headers, json.loads(body) if body else None))
            if not told.status:
                return
            peer.say(told.encode())

    async with raw_server(script) as url:
        yield url


class ForeignCounter:
    """NeMo Gym's ``example_session_state_mgmt`` in manner: the session is whatever its newest cookie says.

    Attributes:
        seen: requests, in order.
        lost: requests that came with an outdated cookie, which would begin an empty session.
        release: lets ``/slow`` answer.
        waiting: set when ``/slow`` was asked.
        verify: replaces what ``/verify`` answers, if set.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.lost: list[Seen] = []
        self.release = asyncio.Event()
        self.waiting = asyncio.Event()
        self.verify: Callable[[Seen, int], Told] | None = None
        self._counters: dict[str, int] = {}
        self._issued: dict[str, int] = {}

    async def __call__(self, seen: Seen) -> Told:
        self.seen.append(seen)
        session = self._session(seen)
        told = await self._answer(seen, session)
        if told.status != 500:  # an unhandled exception passes the session middleware by
            self._issued[session] += 1
            cookie = f"{COOKIE}={session}.{self._issued[session]}; Path=/; Max-Age=1209600; HttpOnly; SameSite=lax"
            told.cookies.insert(0, cookie)
        return told

    def paths(self) -> list[str]:
        return [seen.path for seen in self.seen]

    def _session(self, seen: Seen) -> str:
        session, _, number = seen.cookies.get(COOKIE, "").partition(".")
        if session in self._issued and self._issued[session] == int(number):
            return session
        if session:
            self.lost.append(seen)
        session = f"s{len(self._issued)}"
        self._issued[session] = 0
        return session

    async def _answer(self, seen: Seen, session: str) -> Told:
        match seen.path:
            case "/seed_session":
                self._counters[session] = seen.body.get("initial_count") or 0
                return Told({})
            case "/increment_counter":
                if not isinstance(seen.body.get("count"), int):
                    detail = [{"type": "int_type", "loc": ["body", "count"], "msg": "no integer", "input": None}]
                    return Told({"detail": detail}, 422)
                self._counters[session] += seen.body["count"]
                return Told({"success": True, "note": None})
            case "/get_counter_value":
                return Told(json.dumps(str(self._counters[session])))
            case "/crash":
                return Told(json.dumps("RuntimeError('no such table')"), 500)
            case "/silent_crash":
                return Told(b"", 500)
            case "/bad_gateway":
                return Told("<html>502</html>", 502, headers={"Content-Type": "text/html"})
            case "/die":
                return Told(status=0)
            case "/slow":
                self.waiting.set()
                await self.release.wait()
                return Told("late")
            case "/verify":
                return self._verify(seen, self._counters.get(session, -1))
            case "/aggregate_metrics":
                return Told({"agent_metrics": {"count": len(seen.body["verify_responses"])}})
            case _:
                return Told({"detail": "Not Found"}, 404)

    def _verify(self, seen: Seen, value: int) -> Told:
        if self.verify is not None:
            return self.verify(seen, value)
        reward = float(value == seen.body.get("expected_count"))
        # ``extra="allow"``: the whole request comes back, with nulls for what was not set.
        return Told({**seen.body, "reward": reward, "final_value": value, "note": None, "judge": {"votes": []}})


def foreign_agent(change: Callable[[dict[str, Any]], Told] | None = None) -> tuple[Answer, list[Seen]]:
    """A NeMo Gym agent that answers every ``/run`` as ``simple_agent`` would; ``change`` makes another reply of it."""
    seen: list[Seen] = []

    async def answer(request: Seen) -> Told:
        seen.append(request)
        row = request.body
        reply = {
            "responses_create_params": {**row["responses_create_params"], "temperature": None},
            "response": responses_object("fine", "four"),
            "reward": 1.0,
            "extracted": "4",
            "note": None,
        }
        return change(reply) if change is not None else Told(reply)

    return answer, seen


def responses_object(identity: str, text: str) -> dict[str, Any]:
    """A Responses object with one assistant message."""
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {
        "id": identity,
        "object": "response",
        "created_at": 0,
        "model": "m",
        "output": [{"type": "message", "role": "assistant", "id": "m1", "status": "completed", "content": content}],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "incomplete_details": None,
        "usage": {
            "input_tokens": 3,
            "input_tokens_details": {"cached_tokens": None},
            "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": None},
            "total_tokens": 5,
        },
    }
