"""Replicas of a model whose weights are exchanged while calls come: what was answered, by which weights, and as told.

Which weights made an answer is known without asking anybody: greedy answers of each checkpoint are computed before, by
another engine (llama.cpp), and only questions count on which all checkpoints differ.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubegym.agent.model_server import ModelServerClient
from kubegym.core.clock import Deadline
from kubegym.core.errors import ModelError
from kubegym.core.protocols import CallContext
from kubegym.http import HttpClient, Url
from kubegym.model.embedded import EmbeddedEngine
from kubegym.model.server import ControlPort, ModelServer
from kubegym.model.weights import Places, Start
from testbed.checkpoints import gguf
from testbed.pods import eventually
from testbed.served import serving

TOKEN = "s3cret"
QUESTIONS = tuple(f"What is {a}+{b}? Answer with a number." for a in range(2, 20) for b in range(2, 20, 2))
GREEDY = {"temperature": 0, "max_output_tokens": 12}


@dataclass
class Seen:
    """What callers saw.

    Attributes:
        answered: replies by the version that they told.
        failed: calls that failed at last, with their reasons.
        wrong: replies that the weights of the version that they told do not give, as ``(question, answer, version)``.
    """

    answered: Counter[int | None] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[str, str, int | None]] = field(default_factory=list)


async def answers_of(folders: Sequence[Path]) -> list[dict[str, str]]:
    """The greedy answers of checkpoints, by question: only to questions on which all of them differ."""
    told: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for number, folder in enumerate(folders):
            twin = gguf(Path(temporary) / str(number), folder)
            engine = EmbeddedEngine(twin / "model.gguf", slots=8)
            asked = [
                {"messages": [{"role": "user", "content": q}], "temperature": 0, "max_tokens": 12} for q in QUESTIONS
            ]
            replies = await asyncio.gather(*(engine.chat(body, 600.0) for body in asked))
            told.append({q: _said(reply) for q, reply in zip(QUESTIONS, replies, strict=True)})
            engine.close()
    differ = [q for q in QUESTIONS if len({answers[q] for answers in told}) == len(folders)]
    return [{q: answers[q] for q in differ} for answers in told]


def _said(chat: Mapping[str, Any]) -> str:
    return str(chat["choices"][0]["message"]["content"] or "")


@asynccontextmanager
async def controlled(engines: Sequence[str], first: Path, **options: Any) -> AsyncIterator[tuple[list[str], list[str]]]:
    """A model server before each engine, all of which start with ``first`` as version 1: their URLs, and control's."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "token").write_text(TOKEN)
        urls: list[str] = []
        controls: list[str] = []
        for engine in engines:
            port = ControlPort("127.0.0.1", 0, folder / "token", controls.append)
            start = Start(1, first)
            server = ModelServer([engine], model="policy", control=port, weights=(Places(), start), **options)
            urls.append(await stack.enter_async_context(serving(server)))
        yield urls, controls


class Orders:
    """Gives orders to control ports."""

    def __init__(self) -> None:
        self._http = HttpClient()

    async def call(self, method: bytes, url: str, body: Any = None) -> tuple[int, Any]:
        """A call; status and JSON."""
        headers = f"authorization: Bearer {TOKEN}\r\n".encode()
        data = b"" if body is None else json.dumps(body).encode()
        reply = await self._http.request(method, Url(url), headers, data, 600.0)
        return reply.status, json.loads(reply.body or b"null")

    async def ready(self, control: str) -> None:
        """Wait until a replica is."""

        async def so() -> bool:
            return bool((await self.call(b"GET", f"{control}/state"))[1]["ready"])

        await eventually(so)

    async def exchange(self, control: str, folder: Path, version: int, **order: Any) -> dict[str, Any]:
        """Exchange the weights of one replica, and wait until that is over; its state. ``order``: more of it."""
        order |= {"uri": f"file://{folder}", "version": version}
        status, told = await self.call(b"POST", f"{control}/weights", order)
        assert status == 200, told
        state: dict[str, Any] = {}

        async def over() -> bool:
            nonlocal state
            state = (await self.call(b"GET", f"{control}/state"))[1]
            settled = state["weights"]["phase"] is None
            return settled and (state["policyVersion"] == version or state["weights"]["failure"] is not None)

        await eventually(over)
        return state

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()


class Load:
    """Callers that ask without a pause, until they are told to end.

    Args:
        urls: of the replicas.
        answers: of each version, by question.
        callers: how many ask at a time.
    """

    def __init__(self, urls: Sequence[str], answers: Mapping[int, Mapping[str, str]], callers: int) -> None:
        self.seen = Seen()
        self._client = ModelServerClient(urls)
        self._answers = answers
        self._questions = sorted(next(iter(answers.values())))
        self._callers = callers
        self._over = False
        self._tasks: list[asyncio.Future[None]] = []

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.ensure_future(self._ask(number)) for number in range(self._callers)]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)
        await self._client.close()

    async def until(self, version: int, replies: int) -> None:
        """Wait until so many replies told a version."""

        async def so() -> bool:
            return self.seen.answered[version] >= replies

        await eventually(so)

    async def _ask(self, number: int) -> None:
        turn = 0
        while not self._over:
            rollout, question = f"0123abcd-{number}-{turn}", self._questions[(number + turn) % len(self._questions)]
            turn += 1
            try:
                reply = await self._client.respond({"input": question, **GREEDY}, CallContext(rollout, Deadline(600.0)))
            except ModelError as error:
                self.seen.failed[error.reason] += 1
                continue
            finally:
                self._client.leave(rollout)
            version = reply.policy_version
            self.seen.answered[version] += 1
            said = "".join(
                part["text"]
                for item in reply.response["output"]
                if item["type"] == "message"
                for part in item["content"]
            )
            if version is None or said != self._answers[version][question]:
                self.seen.wrong.append((question, said, version))
