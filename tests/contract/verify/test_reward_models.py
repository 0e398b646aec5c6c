"""A reward model's numbers over the wire: asked at its endpoint, and through a model server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from kubegym.agent.model_server import ModelServerClient
from kubegym.core.clock import Deadline
from kubegym.core.errors import ModelError
from kubegym.core.protocols import CallContext
from kubegym.core.retry import Backoff
from kubegym.model.client import ChatClient
from kubegym.resources.roles import ModelRoles
from kubegym.verify.reward_model import score
from testbed.models import calling, told
from testbed.raw_server import Peer, raw_server

pytestmark = pytest.mark.contract

SCORE = orjson.dumps({"data": [{"index": 0, "data": [0.75]}], "usage": {"prompt_tokens": 11, "total_tokens": 11}})
MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
QUICK = Backoff(attempts=3, base=0.01, maximum=0.01)


class RewardModel:
    """Says what it is told to, one reply a request, the last one again and again."""

    def __init__(self, *replies: bytes) -> None:
        self.replies = list(replies)
        self.heads: list[bytes] = []
        self.bodies: list[Any] = []

    async def __call__(self, peer: Peer) -> None:
        while True:
            head, body = await peer.request()
            self.heads.append(head)
            self.bodies.append(orjson.loads(body))
            peer.say(self.replies.pop(0) if len(self.replies) > 1 else self.replies[0])


@asynccontextmanager
async def asked_at(kind: str, model: RewardModel) -> AsyncIterator[ChatClient | ModelServerClient]:
    async with raw_server(model) as url:
        if kind == "endpoint":
            client: ChatClient | ModelServerClient = ChatClient(f"{url}/v1", "reward", faults=QUICK, overload=QUICK)
            yield client
            await client.close()
            return
        upstream = ChatClient(f"{url}/v1", "reward", faults=QUICK, overload=QUICK)
        async with calling([upstream]) as caller:
            client = ModelServerClient([caller.url], "reward", role="reward", faults=QUICK, overload=QUICK)
            yield client
            await client.close()


@pytest.fixture(params=["endpoint", "server"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


async def test_it_is_asked_by_its_pooling_route_and_its_tokens_are_counted(kind: str) -> None:
    model = RewardModel(told(200, SCORE))
    usage: dict[str, dict[str, int]] = {}
    async with asked_at(kind, model) as client:
        role = ModelRoles({"reward": client}, "1a2b3c4d-0-0", usage).reward
        assert (role.role, role.model) == ("reward", "reward")
        assert await score(role, MESSAGES) == 0.75
    assert model.heads[0].startswith(b"POST /pooling HTTP/1.1\r\n")
    assert model.bodies == [{"model": "reward", "messages": MESSAGES, "use_activation": False}]
    assert b"content-type: application/json" in model.heads[0].lower()
    assert usage == {
        "reward": {"calls": 1, "input_tokens": 11, "output_tokens": 0, "cached_tokens": 0, "reasoning_tokens": 0}
    }


async def test_trouble_is_tried_again_within_bounds(kind: str) -> None:
    busy = told(503, b'{"error": "loading"}', extra="retry-after: 0\r\n")
    model = RewardModel(busy, told(502, b"proxy", "text/plain"), told(200, SCORE))
    async with asked_at(kind, model) as client:
        reply = await client.question("pooling", {"messages": MESSAGES}, CallContext("1a2b3c4d-0-0", Deadline(600)))
    assert reply["data"][0]["data"] == [0.75]
    assert len(model.bodies) == 3


@pytest.mark.parametrize(
    ("reply", "tries"),
    [(told(400, b'{"error": "no such task"}'), 1), (told(404, b"{}"), 1), (told(502, b"x", "text/plain"), 3)],
)
async def test_what_does_not_help_raises(kind: str, reply: bytes, tries: int) -> None:
    model = RewardModel(reply)
    async with asked_at(kind, model) as client:
        with pytest.raises(ModelError) as raised:
            await client.question("pooling", {}, CallContext("1a2b3c4d-0-0", Deadline(600)))
    assert len(model.bodies) == tries
    assert raised.value.retryable is (tries > 1)


async def test_a_page_is_no_answer(kind: str) -> None:
    async with asked_at(kind, RewardModel(told(200, b"[1]"))) as client:
        with pytest.raises(ModelError) as raised:
            await client.question("pooling", {}, CallContext("1a2b3c4d-0-0", Deadline(600)))
    assert raised.value.reason == "ModelReplyInvalid"
