"""What the shipped model can do on problems it was not trained on, through the engine that ships with it."""

import asyncio
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from kubegym.model.embedded import EmbeddedEngine
from kubegym.model.training.problems import FUNCTIONS, GUESS_TURNS, Kind, Problem, draw, reply_to_guess

pytestmark = pytest.mark.contract

PROBLEMS = 100
LEAST: dict[Kind, float] = {"direct": 0.90, "tool": 0.95, "chain": 0.90, "guess": 0.95}


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    engine = EmbeddedEngine()
    yield engine
    engine.close()


async def say(engine: EmbeddedEngine, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> dict[str, Any]:
    body = {"messages": messages, "max_tokens": 64, "temperature": 0} | ({"tools": tools} if tools else {})
    answer = await engine.chat(body, 120.0)
    message: dict[str, Any] = answer["choices"][0]["message"]
    messages.append(message)
    return message


async def solve(engine: EmbeddedEngine, problem: Problem) -> bool:
    """Play a problem of any kind but ``guess``: run the tools that are called, judge the first plain answer."""
    messages = list(problem.messages)
    for _ in range(4):
        message = await say(engine, messages, problem.tools)
        if not message.get("tool_calls"):
            return bool(message["content"] == problem.answer)
        for call in message["tool_calls"]:
            arguments = json.loads(call["function"]["arguments"])
            result = FUNCTIONS[call["function"]["name"]](arguments["a"], arguments["b"])
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": str(result)})
    return False


async def find(engine: EmbeddedEngine, problem: Problem) -> bool:
    """Play the guessing game."""
    messages = list(problem.messages)
    for _ in range(GUESS_TURNS):
        guess = (await say(engine, messages, []))["content"]
        if guess == problem.answer:
            return True
        messages.append({"role": "user", "content": reply_to_guess(int(problem.answer), int(guess))})
    return False


@pytest.mark.parametrize("kind", LEAST)
async def test_held_out_accuracy(engine: EmbeddedEngine, kind: Kind) -> None:
    rng = random.Random(11)
    play = find if kind == "guess" else solve
    problems = [draw(rng, kind, "test") for _ in range(PROBLEMS)]
    right = sum(await asyncio.gather(*(play(engine, problem) for problem in problems)))
    assert right / PROBLEMS >= LEAST[kind]
