"""Reward models of a real vLLM: their numbers are those that a forward pass of our own gives.

The engine runs in a container of its own; there is no cluster. Asked are its endpoint, and a model server before it.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from kubegym.agent.model_server import ModelServerClient
from kubegym.core.messages import Done, Message, Turn
from kubegym.core.trajectory import Rollout, Verdict
from kubegym.http import HttpClient, Url
from kubegym.local.episodes import of_class
from kubegym.local.localrun import LocalRun
from kubegym.local.results import read_results
from kubegym.local.runspec import DatasetRef, Entry, ModelRef, RunSpec
from kubegym.local.tasks import GIVEN
from kubegym.model.client import ChatClient
from kubegym.model.server import ModelServer
from kubegym.resources import Environment
from kubegym.resources.roles import ModelRoles
from kubegym.testing import ScriptedModel
from kubegym.verify.reward_model import conversation, score, step_scores
from testbed.build import CannotBuild
from testbed.checkpoints import reward_model
from testbed.forward import rewards
from testbed.served import serving
from testbed.vllm_server import vllm_server

TALK = [{"role": "user", "content": "What is 7+18?"}, {"role": "assistant", "content": "It is 25."}]
THROUGH = ["endpoint", "model server"]
NEAR = 1e-3


class Engine:
    """A vLLM, and the weights that it serves."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder

    @asynccontextmanager
    async def asked(self, through: str) -> AsyncIterator[ChatClient | ModelServerClient]:
        async with AsyncExitStack() as stack:
            engine = ChatClient(self.url, "policy")
            client: ChatClient | ModelServerClient = engine
            if through == "model server":
                url = await stack.enter_async_context(serving(ModelServer([engine], model="policy")))
                client = ModelServerClient([url], "policy", role="reward")
            stack.push_async_callback(client.close)
            yield client

    async def tokens(self, messages: list[dict[str, str]]) -> list[int]:
        """How the engine spells a conversation."""
        http = HttpClient()
        try:
            body = {"model": "policy", "messages": messages, "add_generation_prompt": False}
            headers = b"content-type: application/json\r\n"
            url = Url(self.url).parent / "tokenize"
            reply = await http.request(b"POST", url, headers, json.dumps(body).encode(), 300.0)
        finally:
            await http.close()
        ids: list[int] = json.loads(reply.body)["tokens"]
        return ids

    async def numbers(self, messages: list[dict[str, str]]) -> list[list[float]]:
        """What its weights give after each token."""
        ids = await self.tokens(messages)
        return [[float(number) for number in row] for row in rewards(self.folder, ids)]


def served(folder: Path, labels: int, *arguments: str) -> Iterator[Engine]:
    reward_model(folder, labels)
    try:
        with vllm_server(folder, "--runner", "pooling", *arguments) as url:
            yield Engine(url, folder)
    except CannotBuild as problem:
        # Not a failure in CI: no package index has the wheel it needs.
        pytest.skip(f"{problem}; there is no other engine here that serves reward models")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Gives a conversation one number."""
    yield from served(tmp_path_factory.mktemp("whole") / "model", 1)


@pytest.fixture(scope="module")
def stepwise(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Gives every token two numbers."""
    pooling = ("--pooler-config", '{"task": "token_classify"}')
    yield from served(tmp_path_factory.mktemp("stepwise") / "model", 2, *pooling)


@pytest.mark.parametrize("through", THROUGH)
async def test_a_conversation_has_the_number_of_its_last_token(whole: Engine, through: str) -> None:
    (raw,) = (await whole.numbers(TALK))[-1]
    assert not 0 <= raw <= 1, "a number that an activation would change"
    usage: dict[str, dict[str, int]] = {}
    async with whole.asked(through) as client:
        role = ModelRoles({"reward": client}, "1a2b3c4d-0-0", usage).reward
        assert await score(role, TALK) == pytest.approx(raw, abs=NEAR)
        assert await score(role, TALK, activation=True) == pytest.approx(1 / (1 + math.exp(-raw)), abs=NEAR)
    tokens = len(await whole.tokens(TALK))
    assert (usage["reward"]["calls"], usage["reward"]["input_tokens"]) == (2, 2 * tokens)


@pytest.mark.parametrize("through", THROUGH)
async def test_every_step_has_its_probability(stepwise: Engine, through: str) -> None:
    numbers = await stepwise.numbers(TALK)
    chances = [1 / (1 + math.exp(wrong - right)) for wrong, right in numbers]
    assert len({round(chance, 2) for chance in chances}) > 3
    async with stepwise.asked(through) as client:
        role = ModelRoles({"reward": client}, "1a2b3c4d-0-0", {}).reward
        assert await step_scores(role, TALK) == pytest.approx(chances, abs=NEAR)
        assert await score(role, TALK, head=1) == pytest.approx(numbers[-1][1], abs=NEAR)


class Liked(Environment):
    """Two turns, whose reward is what the reward model gives them."""

    def respond(self, turn: Turn) -> Message | Done:
        return Done() if turn.index else Message.user("And 8+18?")

    async def verify(self, rollout: Rollout) -> Verdict:
        return Verdict(await score(self.models.reward, conversation(rollout)))


@pytest.mark.parametrize("through", THROUGH)
async def test_a_run_is_scored_by_it(whole: Engine, through: str, tmp_path: Path) -> None:
    said = {"short": "It is 25.", "long": "It is 25. " * 400}

    def say(request: dict[str, object]) -> str:
        return said["long" if "at length" in json.dumps(request["input"]) else "short"]

    rows = [{"responses_create_params": {"input": text}} for text in ("What is 7+18?", "What is 7+18, at length?")]
    entry = Entry(
        name="liked",
        environment=f"{__name__}:Liked",
        models={"policy": ModelRef("endpoint", "policy"), "reward": ModelRef("endpoint", "reward")},
        dataset=DatasetRef(GIVEN),
    )
    async with whole.asked(through) as client:
        work = LocalRun(
            RunSpec("liked", (entry,), output=str(tmp_path / "run"), max_failed_fraction=1.0),
            classes={"liked": of_class(Liked)},
            clients={"policy": ScriptedModel(say), "reward": client},
            rows={"liked": rows},
        )
        await work.run()
    scored, failed = sorted((await read_results(tmp_path / "run")).rows, key=lambda row: row["kubegym"]["task_index"])
    answer = {"role": "assistant", "content": said["short"]}
    talk = [TALK[0], answer, {"role": "user", "content": "And 8+18?"}, answer]
    assert scored["reward"] == pytest.approx((await whole.numbers(talk))[-1][0], abs=NEAR)
    assert (failed["reward"], failed["kubegym"]["outcome"]) == (None, "failed")
    assert failed["kubegym"]["failure"]["stage"] == "judge"
    assert "maximum context length" in failed["kubegym"]["failure"]["message"]
