"""Each prompt continues the ids before it, though the engine's tokenizer would make other tokens of the text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kubegym.agent import AgentSettings, run_attempt
from kubegym.agent.model_server import ModelServerClient
from kubegym.core.messages import Done, Message, Turn
from kubegym.core.protocols import Assignment, ModelClient
from kubegym.core.tokens import TOKEN_FIELDS, TokenRecord
from kubegym.core.trajectory import Rollout, Verdict
from kubegym.model.client import ChatClient
from kubegym.model.server import ModelServer
from kubegym.resources import Environment, EnvironmentRuntime
from testbed.drifting_engine import END, MERGED, DriftingEngine
from testbed.http_script import scripted_server
from testbed.served import serving

pytestmark = pytest.mark.contract

TURNS = 4
SAID = [ord("a"), ord("b"), END]


class Asking(Environment):
    """Says "ab" back, which its tokenizer reads as one token, until it is done."""

    async def respond(self, turn: Turn) -> Message | Done:
        return Done() if turn.index == TURNS - 1 else Message("user", "ab")

    def verify(self, rollout: Rollout) -> Verdict:
        return Verdict(1.0)


@asynccontextmanager
async def policy(engine: DriftingEngine, through: str) -> AsyncIterator[ModelClient]:
    async with scripted_server(engine) as upstream:
        if through == "endpoint":
            client: ModelClient = ChatClient(f"{upstream.url}/v1", "policy")
            try:
                yield client
            finally:
                await client.close()
            return
        async with serving(ModelServer([f"{upstream.url}/v1"], model="policy", probe=False)) as url:
            client = ModelServerClient([url], "policy")
            try:
                yield client
            finally:
                await client.close()


async def rollout(client: ModelClient) -> TokenRecord:
    row: dict[str, Any] = {"responses_create_params": {"input": "begin"}}
    runtime = EnvironmentRuntime(Asking, {})
    await runtime.start()
    assignment = Assignment("asking", row, "task", 0, 0, "00000000-0-0")
    attempt = await run_attempt(assignment, runtime.session(assignment, {}), client, AgentSettings(token_ids=True))
    await runtime.close()
    assert (attempt.outcome, len(attempt.turns)) == ("scored", TURNS)
    assert attempt.tokens is not None
    assert attempt.tokens.unknown == 0
    assert attempt.response is not None
    assert not any(name in item for item in attempt.response["output"] for name in TOKEN_FIELDS)
    return attempt.tokens


THROUGH = pytest.mark.parametrize("through", ["endpoint", "model server"])


@THROUGH
@pytest.mark.parametrize("spaces", ["", "\n"])
async def test_a_reply_that_would_become_other_tokens_is_continued(through: str, spaces: str) -> None:
    engine = DriftingEngine(spaces=spaces)
    async with policy(engine, through) as client:
        record = await rollout(client)
    assert (len(record.samples), record.rewritten) == (1, 0)
    assert len(engine.prompts) == TURNS
    for before, after in zip(engine.prompts, engine.prompts[1:], strict=False):
        assert after[: len(before) + len(SAID)] == before + SAID
        # What the environment said is read as ever, by the engine's own tokenizer.
        assert after[len(before) + len(SAID) :] == [*b"\nu:", MERGED, END, *b"\na:"]
    assert record.samples[0].token_ids.tolist() == engine.prompts[-1] + SAID
    assert [record.call(number).prompt.tolist() for number in range(TURNS)] == engine.prompts
    if isinstance(client, ChatClient):
        assert client.splicer is not None
        assert client.splicer.histories == {"spliced": TURNS - 1}


@THROUGH
@pytest.mark.parametrize(
    "weakness",
    [{"takes_ids": False}, {"tokenizes": False}, {"forgets": True}],
    ids=["engine takes no ids", "engine renders nothing", "template rewrites"],
)
async def test_else_a_new_sample_opens_and_is_counted(through: str, weakness: dict[str, bool]) -> None:
    engine = DriftingEngine(**weakness)
    async with policy(engine, through) as client:
        record = await rollout(client)
    assert (len(record.samples), record.rewritten) == (TURNS, TURNS - 1)
    assert [sample.parent for sample in record.samples] == [None, 0, 1, 2]
    assert [sample.token_ids.tolist() for sample in record.samples] == [prompt + SAID for prompt in engine.prompts]


async def test_an_engine_that_takes_no_ids_is_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    engine = DriftingEngine(takes_ids=False)
    async with policy(engine, "endpoint") as client:
        await rollout(client)
        await rollout(client)
        assert isinstance(client, ChatClient)
        assert client.splicer is not None
        assert client.splicer.histories == {"spliced": 1}
    engine = DriftingEngine(tokenizes=False)
    async with policy(engine, "endpoint") as client:
        await rollout(client)
        await rollout(client)
    assert engine.refused == 1
    assert sum("takes no ids" in message for message in caplog.messages) == 1
