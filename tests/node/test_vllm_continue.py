"""A real vLLM takes other weights while long replies are made, which go on: which weights made which token is told.

Whether that is true is known without asking the engine: each token's log-prob is computed again by a plain forward pass
of the checkpoint whose version the reply tells for it. There is no cluster.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kubegym.model
from kubegym.agent.model_server import ModelServerClient
from kubegym.core.clock import Deadline
from kubegym.core.errors import ModelError
from kubegym.core.protocols import CallContext, ModelReply
from kubegym.http import HttpClient, Url
from kubegym.model.weights import CANARY_FILE
from testbed.build import CannotBuild
from testbed.forward import log_probs
from testbed.pods import eventually
from testbed.updated_replicas import Orders, controlled
from testbed.vllm_server import vllm_server

WEIGHTS = Path(kubegym.model.__file__).parent / "tiny"
FIRST = Path(__file__).parents[1] / "models" / "ckpt-1"
CALLERS = 16
TOLERANCE = 0.01
"""Nats; the checkpoints differ by more than two for a token."""
JSON = b"content-type: application/json\r\n"
LONG = {"temperature": 1.0, "max_output_tokens": 400, "metadata": {"extra_body": '{"ignore_eos": true}'}}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A vLLM with the first checkpoint, and a folder that it sees.

    On CPUs it must read what calls have in one step when they go on: vLLM 0.32's CPU worker ends where a call with a
    seed is read in several ("CPU Generator does not use offset").
    """
    folder = tmp_path_factory.mktemp("weights")
    arguments = ("--enable-scale-out", "--max-num-batched-tokens", "65536")
    control = {"VLLM_SERVER_DEV_MODE": "1"}
    try:
        with vllm_server(FIRST, *arguments, variables=control, beside=[FIRST, WEIGHTS, folder]) as url:
            yield url, folder
    except CannotBuild as error:
        # Not a failure in CI: no package index has the wheel it needs.
        pytest.skip(f"{error}; tests/contract/servers/test_kept_calls.py has an engine's twin")


@dataclass
class Long:
    """Callers of long replies, one after the other, with seeds, until they are told to end."""

    url: str
    replies: list[ModelReply] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    over: bool = False

    async def __aenter__(self) -> Long:
        self._client = ModelServerClient([self.url])
        self._tasks = [asyncio.ensure_future(self._ask(number)) for number in range(CALLERS)]
        return self

    async def __aexit__(self, *error: object) -> None:
        self.over = True
        await asyncio.gather(*self._tasks)
        await self._client.close()

    async def _ask(self, number: int) -> None:
        turn = 0
        while not self.over:
            rollout = f"0123abcd-{number}-{turn}"
            turn += 1
            context = CallContext(rollout, Deadline(600.0), seed=number * 1000 + turn, token_ids=True)
            question = {"input": f"What is {number % 20}+{turn % 20}? Answer with a number.", **LONG}
            try:
                self.replies.append(await self._client.respond(question, context))
            except ModelError as problem:
                self.failed.append(f"{problem.reason}: {problem.message}")
            finally:
                self._client.leave(rollout)

    async def until(self, version: int, replies: int) -> None:
        """Wait until so many replies end with tokens of a version."""

        async def so() -> bool:
            return sum(last_version(reply) == version for reply in self.replies) >= replies

        await eventually(so)


def last_version(reply: ModelReply) -> int | None:
    return reply.policy_runs[-1][0] if reply.policy_runs else reply.policy_version


async def test_every_token_is_of_the_version_that_is_told(engine: tuple[str, Path]) -> None:
    """Twice other weights under load, then some that do not prove: 0 calls fail, 0 tokens are told wrongly."""
    url, folder = engine
    weights = {1: FIRST, 2: FIRST, 3: WEIGHTS, 4: FIRST}
    another = folder / "another"
    shutil.copytree(FIRST, another)
    (another / CANARY_FILE).write_bytes((WEIGHTS / CANARY_FILE).read_bytes())
    async with controlled([url], FIRST, token_ids=True) as ((served,), (control,)):
        orders = Orders()
        await orders.ready(control)
        state = await orders.exchange(control, FIRST, 2, onUpdate="Continue")
        assert (state["policyVersion"], state["weights"]["failure"]) == (2, None)
        async with Long(served) as load:
            for before in (2, 3):
                await load.until(before, CALLERS // 2)
                state = await orders.exchange(control, weights[before + 1], before + 1, onUpdate="Continue")
                assert (state["policyVersion"], state["weights"]["failure"]) == (before + 1, None)
            await load.until(4, CALLERS // 2)
            state = await orders.exchange(control, another, 5, onUpdate="Continue")
            assert (state["policyVersion"], state["weights"]["failure"]["reason"]) == (4, "WeightsCorrupt")
            await load.until(4, len(load.replies) + CALLERS)
        await orders.close()
    assert load.failed == []
    spanning = [reply for reply in load.replies if reply.policy_runs]
    assert {version for reply in spanning for version, _ in reply.policy_runs} == {2, 3, 4}
    assert len(spanning) > CALLERS
    others = [reply for reply in load.replies if not reply.policy_runs]
    gaps, crossed = judged([*spanning, *others[-CALLERS:]], weights)
    print(
        f"\n{len(load.replies)} replies, {len(spanning)} of several versions, 0 failed; log-probs differ by at most "
        f"{gaps.max():.2g} from the version told, {np.mean(gaps):.2g} on average, over {len(gaps)} tokens; next to the "
        f"switch by {np.mean(crossed):.2g} from the other version"
    )
    assert gaps.max() < TOLERANCE
    assert np.mean(crossed) > 1.0, "the checkpoints differ: a switch told one token off would be seen"


def judged(
    replies: list[ModelReply], weights: dict[int, Path]
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], list[float]]:
    """Of every token, how far its log-prob is from that of the version told; of those at a switch, from the other."""
    gaps, crossed = [np.zeros(0)], []
    for reply in replies:
        assert reply.tokens is not None
        assert reply.policy_version is not None
        ids = (*reply.tokens.prompt, *reply.tokens.generated)
        runs = list(reply.policy_runs) or [(reply.policy_version, 0)]
        assert reply.policy_version == min(version for version, _ in runs)
        ends = [first for _, first in runs[1:]] + [len(reply.tokens.generated)]
        right = {
            path: np.array(log_probs(path, ids))[len(reply.tokens.prompt) - 1 :]
            for path in {weights[version] for version, _ in runs}
        }
        said = np.array(reply.tokens.log_probs)
        for (version, first), end in zip(runs, ends, strict=True):
            gaps.append(np.abs(said[first:end] - right[weights[version]][first:end]))
        for (before, _), (after, first) in pairwise(runs):
            crossed.append(abs(float(said[first - 1] - right[weights[after]][first - 1])))
            crossed.append(abs(float(said[first] - right[weights[before]][first])))
    return np.concatenate(gaps), crossed


async def test_three_steps_say_what_one_says(engine: tuple[str, Path]) -> None:
    url, _ = engine
    async with controlled([url], FIRST) as ((served,), (control,)):
        orders = Orders()
        await orders.ready(control)
        assert (await orders.exchange(control, WEIGHTS, 2, onUpdate="Continue"))["weights"]["failure"] is None
        http = HttpClient()
        for name, body in chats().items():
            kept, direct = [
                json.loads((await http.request(b"POST", Url(at), JSON, json.dumps(body).encode(), 300.0)).body)
                for at in (f"{served}/v1/chat/completions", f"{url}/chat/completions")
            ]
            assert comparable(kept) == comparable(direct), name
        await http.close()
        await orders.close()


def chats() -> dict[str, dict[str, Any]]:
    """Greedy chat calls of every kind that is kept."""
    asked = {"messages": [{"role": "user", "content": "What is 7+8? Answer with a number."}], "max_tokens": 60}
    same = {"model": "policy", "temperature": 0, **asked}
    tools = {**same, "messages": [{"role": "user", "content": "Use the tools. What is 7+8?"}], "tools": [ADD]}
    return {
        "plain": same,
        "ids": {**same, "return_token_ids": True, "logprobs": True},
        "top": {**same, "logprobs": True, "top_logprobs": 2},
        "cut": {**same, "max_tokens": 1},
        "on": {**same, "ignore_eos": True, "max_tokens": 12},
        "tools": tools,
        "no tools": {**tools, "tool_choice": "none"},
        "required": {**tools, "tool_choice": "required", "return_token_ids": True},
        "named": {**tools, "tool_choice": {"type": "function", "function": {"name": "add"}}},
        "prompt": {**same, "return_token_ids": True, "kv_transfer_params": {"prompt_token_ids": [1, 270, 201, 33, 2]}},
        "schema": {**same, "response_format": {"type": "json_object"}},
    }


def comparable(chat: dict[str, Any]) -> dict[str, Any]:
    """What says the same each time: without ids, times, and what is null."""
    (choice,) = chat["choices"]
    message = {name: value for name, value in choice["message"].items() if value not in (None, [])}
    for call in message.get("tool_calls") or ():
        del call["id"]
    told = {name: choice[name] for name in ("finish_reason", "stop_reason", "token_ids")}
    return {
        **told,
        "message": message,
        "logprobs": [
            (one["token"], pytest.approx(one["logprob"], abs=1e-3), len(one["top_logprobs"]))
            for one in (choice["logprobs"] or {}).get("content") or ()
        ],
        "prompt": chat["prompt_token_ids"],
        "usage": {name: value for name, value in chat["usage"].items() if value is not None},
    }
