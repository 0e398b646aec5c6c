"""``onUpdate: Continue``: calls stay at the engine while its weights change, and every token is told whose it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import kubegym
from contract.servers.test_model_weights import TOKEN, Updated, serves
from kubegym import Environment, Rollout, Verdict
from kubegym.agent.model_server import ModelServerClient
from kubegym.core.clock import Deadline
from kubegym.core.protocols import CallContext
from kubegym.http import HttpClient, Response
from kubegym.model.rollout_calls import RolloutCalls
from kubegym.model.server import ControlPort, ModelServer
from kubegym.model.weights import Places, Start
from testbed.checkpoints import checkpoint
from testbed.models import QUESTION, Caller, events
from testbed.served import serving
from testbed.stepping_engine import MODEL, PROMPT, SteppingEngine, stepping

pytestmark = pytest.mark.contract

CHAT = "/v1/chat/completions"
LONG = {**QUESTION, "max_tokens": 10, "return_token_ids": True, "logprobs": True}
RESPOND = {"model": MODEL, "input": "Say.", "max_output_tokens": 10}
A, B = ord("a"), ord("b")


class Kept(Updated):
    """A model server before an engine that goes step by step."""

    stepping: SteppingEngine

    async def continued(self, folder: Path, version: int) -> dict[str, Any]:
        """Other weights for calls that stay; the state when that is over."""
        await self.announce(folder, version, onUpdate="Continue")
        return await self.until(lambda state: state["weights"]["phase"] is None and self.over(state, version))

    @staticmethod
    def over(state: dict[str, Any], version: int) -> bool:
        failure = state["weights"]["failure"]
        return state["policyVersion"] == version or (failure is not None and failure["version"] == version)


@asynccontextmanager
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    """With weights "a", version 1, by which calls stay from the first one on: "a" was announced as 1 again as 2."""
    first = checkpoint(tmp_path / "a")
    (tmp_path / "token").write_text(TOKEN)
    heard: list[str] = []
    http = HttpClient()
    async with stepping(first) as (engine, url):
        control = ControlPort("127.0.0.1", 0, tmp_path / "token", heard.append)
        server = ModelServer([url], model=MODEL, probe=False, control=control, weights=(Places(), Start(1, first)))
        async with serving(server) as served:
            model = Kept(http, served)
            model.control, model.stepping, model.folder, model.server = heard[0], engine, tmp_path, server
            try:
                await model.until(serves(1))
                state = await model.continued(checkpoint(tmp_path / "again" / "a"), 2)
                assert state["weights"]["failure"] is None
                yield model
            finally:
                await http.close()


def told(reply: Response) -> tuple[str, list[dict[str, int]] | None]:
    assert reply.status == 200, reply.body
    runs = reply.header(b"x-kubegym-policy-runs")
    version = reply.header(b"x-kubegym-policy-version")
    assert version is not None
    return version.decode(), json.loads(runs) if runs is not None else None


def ids_of(reply: Response) -> list[int]:
    ids: list[int] = json.loads(reply.body)["choices"][0]["token_ids"]
    return ids


RUNS = [{"version": 2, "from_token": 0}, {"version": 3, "from_token": 4}]


async def test_calls_go_on_with_other_weights_and_say_from_which_token_on(tmp_path: Path) -> None:
    async with kept(tmp_path) as model:
        calls = [asyncio.ensure_future(model.post(CHAT, LONG)) for _ in range(3)]
        await model.stepping.until(3)
        model.stepping.step(4)
        later = asyncio.ensure_future(model.post(CHAT, LONG))
        await model.stepping.until(4)
        state = await model.continued(checkpoint(tmp_path / "b"), 3)
        assert state["weights"]["failure"] is None
        model.stepping.step(10)
        for reply in await asyncio.gather(*calls):
            assert told(reply) == ("2", RUNS)
            assert ids_of(reply) == [A] * 4 + [B] * 6
        assert told(await later) == ("3", None), "its first token was made by them"
        body = json.loads((await later).body)
        assert body["choices"][0]["message"]["content"] == "b" * 10
        assert [one["top_logprobs"] for one in body["choices"][0]["logprobs"]["content"]] == [[]] * 10


async def test_three_versions_in_one_reply(tmp_path: Path) -> None:
    async with kept(tmp_path) as model:
        call = asyncio.ensure_future(model.post(CHAT, LONG))
        await model.stepping.until(1)
        for version, name, steps in ((3, "b", 1), (4, "c", 2)):
            model.stepping.step(steps)
            await model.continued(checkpoint(tmp_path / name), version)
        model.stepping.step(10)
        runs = [(2, 0), (3, 1), (4, 3)]
        assert told(await call) == ("2", [{"version": version, "from_token": first} for version, first in runs])
        assert ids_of(await call) == [A] + [B] * 2 + [ord("c")] * 7


async def test_every_dialect_is_kept_and_a_stream_is_made_whole_to_say_so(tmp_path: Path) -> None:
    messages = {"model": MODEL, "max_tokens": 10, "messages": [{"role": "user", "content": "Say."}]}
    async with kept(tmp_path) as model:
        asked = {
            "chat": model.post(CHAT, LONG),
            "streamed chat": model.post(CHAT, {**LONG, "stream": True}),
            "responses": model.post("/v1/responses", RESPOND),
            "streamed responses": model.post("/v1/responses", {**RESPOND, "stream": True}),
            "messages": model.post("/v1/messages", messages),
            "streamed messages": model.post("/v1/messages", {**messages, "stream": True}),
        }
        calls = {name: asyncio.ensure_future(one) for name, one in asked.items()}
        await model.stepping.until(6)
        model.stepping.step(4)
        await model.continued(checkpoint(tmp_path / "b"), 3)
        model.stepping.step(10)
        for name, call in calls.items():
            reply = await call
            assert told(reply) == ("2", RUNS), name
        streamed = events((await calls["streamed chat"]).body)
        assert "".join(one["choices"][0]["delta"].get("content") or "" for one in streamed if one["choices"]) == (
            "aaaabbbbbb"
        )


async def test_tool_calls_are_found_and_say_that_they_are(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "say", "parameters": {"type": "object", "properties": {}}}}
    async with kept(tmp_path) as model:
        call = asyncio.ensure_future(model.post(CHAT, {**LONG, "tools": [tool]}))
        await model.stepping.until(1)
        model.stepping.step(10)
        choice = json.loads((await call).body)["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == [A] * 10
        assert told(await call) == ("2", None)


async def test_what_did_not_prove_reaches_nobody(tmp_path: Path) -> None:
    """Weights that did not arrive: the engine's labels lie, also those of a reply that ends before that is known."""
    async with kept(tmp_path) as model:
        calls = [asyncio.ensure_future(model.post(CHAT, LONG)) for _ in range(2)]
        ending = asyncio.ensure_future(model.post(CHAT, {**LONG, "max_tokens": 5}))
        await model.stepping.until(3)
        model.stepping.step(4)
        model.stepping.stale = True
        labels: list[str] = []

        def step() -> None:
            labels.append(model.stepping.label)
            if labels[-1] == "kubegym:3":
                model.stepping.step()  # one of them ends

        model.stepping.on_question = step
        state = await model.continued(checkpoint(tmp_path / "b"), 3)
        assert (state["policyVersion"], state["weights"]["failure"]["reason"]) == (2, "WeightsCorrupt")
        for call in (*calls, ending):
            reply = await call
            assert reply.status == 502, reply.body
            assert b"ModelAborted" in reply.body
        assert "kubegym:3" in labels
        assert labels[-1] == "kubegym:2", "the last good ones are proven again"
        again = asyncio.ensure_future(model.post(CHAT, LONG))
        await model.stepping.until(1)
        model.stepping.step(10)
        assert told(await again) == ("2", None)


async def test_a_reply_is_held_until_its_weights_are_proven_or_its_time_is_over(tmp_path: Path) -> None:
    async with kept(tmp_path) as model:
        short, long = (
            asyncio.ensure_future(model.post(CHAT, {**LONG, "max_tokens": 5}, f"x-kubegym-deadline: {seconds}\r\n"))
            for seconds in (5, 600)
        )
        await model.stepping.until(2)
        model.stepping.step(4)

        def step() -> None:
            if model.stepping.label == "kubegym:3":
                model.stepping.step()  # both end
                model.stepping.answers.clear()

        model.stepping.on_question = step
        await model.announce(checkpoint(tmp_path / "b"), 3, onUpdate="Continue")
        assert (await short).status == 504
        assert not long.done()
        model.stepping.on_question = lambda: None
        model.stepping.answers.set()
        assert told(await long) == ("2", RUNS)
        await model.until(serves(3))


async def test_a_reload_that_fails_gives_calls_up_before_a_token_more_is_made(tmp_path: Path) -> None:
    async with kept(tmp_path) as model:
        call = asyncio.ensure_future(model.post(CHAT, LONG))
        await model.stepping.until(1)
        broken = checkpoint(tmp_path / "b")
        (broken / "model.safetensors").rename(broken / "other.safetensors")
        state = await model.continued(broken, 3)
        assert (state["policyVersion"], state["ready"]) == (2, True)
        assert (await call).status == 502
        assert await model.proven()


@pytest.mark.parametrize("field", [{"n": 2}, {"stop": ["."]}, {"vendor_field": 1}, None])
async def test_a_call_that_cannot_say_ends_before_weights_change(tmp_path: Path, field: dict[str, Any] | None) -> None:
    async with kept(tmp_path) as model:
        path, body = (CHAT, {**LONG, **field}) if field else ("/v1/chat/completions", {**LONG, "echo": True})
        call, stays = (asyncio.ensure_future(model.post(path, one)) for one in (body, LONG))
        await model.stepping.until(2)
        model.stepping.step(4)
        await model.announce(checkpoint(tmp_path / "b"), 3, onUpdate="Continue")
        await model.until(lambda state: state["weights"]["phase"] == "draining")
        model.stepping.step(5)
        assert model.stepping.running == 2, "nobody is given up"
        model.stepping.step()
        assert told(await call) == ("2", None)
        assert json.loads((await call).body)["choices"][0]["message"]["content"] == "a" * 10
        assert told(await stays) == ("2", None)
        await model.until(serves(3))


async def test_an_engine_without_the_routes_says_what_it_needs(tmp_path: Path) -> None:
    async with kept(tmp_path) as model:
        model.stepping.scale_out = False
        state = await model.continued(checkpoint(tmp_path / "b"), 3)
        failure = state["weights"]["failure"]
        assert (failure["reason"], state["policyVersion"], state["ready"]) == ("WeightsUnsupported", 2, True)
        assert "--enable-scale-out" in failure["message"]
        adapter = {"uri": f"file://{tmp_path / 'b'}", "version": 4, "kind": "Adapter", "onUpdate": "Continue"}
        assert (await model.order("/weights", adapter)).status == 409


async def test_an_agent_hears_of_it(tmp_path: Path) -> None:
    async with kept(tmp_path) as model:
        client = ModelServerClient([model.url])
        call = asyncio.ensure_future(client.respond(RESPOND, CallContext("0123abcd-0-0", Deadline(600.0))))
        await model.stepping.until(1)
        model.stepping.step(4)
        await model.continued(checkpoint(tmp_path / "b"), 3)
        model.stepping.step(6)
        reply = await call
        assert (reply.policy_version, list(reply.policy_runs)) == (2, [(2, 0), (3, 4)])
        await client.close()


class Say(Environment):
    """One turn, whatever it is."""

    def verify(self, rollout: Rollout) -> Verdict:
        return Verdict(1.0)


async def test_rows_and_token_files_say_which_tokens_are_whose(tmp_path: Path) -> None:
    async with kept(tmp_path) as model:
        options: dict[str, Any] = {"model": MODEL, "base_url": f"{model.url}/v1", "max_output_tokens": 10}
        tasks = [{"responses_create_params": {"input": f"Say {number}."}} for number in range(3)]
        options |= {"dataset": tasks, "concurrency": 3, "tokens": "Samples", "output": tmp_path / "run"}
        run = asyncio.ensure_future(asyncio.to_thread(kubegym.run, Say, **options))
        await model.stepping.until(3)
        model.stepping.step(4)
        await model.continued(checkpoint(tmp_path / "b"), 3)
        model.stepping.step(6)
        results = await run
        assert results.manifest.totals.scored == 3
        for row in results.rows:
            (turn,) = row["kubegym"]["turns"]
            assert turn == {"policy_version": 2, "policy_runs": RUNS, "reward": None}
            assert row["kubegym"]["policy"]["versions"] == [2, 3]
        samples = results.samples.to_pylist()
        assert len(samples) == 3
        for sample in samples:
            assert sample["token_ids"] == [*PROMPT, *[A] * 4, *[B] * 6]
            runs = [(run["version"], run["from_token"] - len(PROMPT)) for run in sample["policy_runs"]]
            assert runs == [(2, 0), (3, 4)]


async def test_a_program_at_its_own_url_is_captured_with_its_runs(tmp_path: Path) -> None:
    async with kept(tmp_path) as model, RolloutCalls([f"{model.url}/v1"], MODEL, token_ids=True) as calls:
        base = calls.open(CallContext("0123abcd-0-0", Deadline(600.0), token_ids=True))
        asked = [
            asyncio.ensure_future(Caller(model.http, base).post(CHAT, {**LONG, "stream": True})),
            asyncio.ensure_future(Caller(model.http, base).post("/v1/responses", RESPOND)),
        ]
        await model.stepping.until(2)
        model.stepping.step(4)
        await model.continued(checkpoint(tmp_path / "b"), 3)
        model.stepping.step(10)
        for reply in await asyncio.gather(*asked):
            assert reply.status == 200
        seen = calls.shut("0123abcd-0-0").calls
        for one in seen:
            assert list(one.reply.policy_runs) == [(2, 0), (3, 4)]
            assert one.reply.policy_version == 2
            assert one.reply.tokens is not None
            assert list(one.reply.tokens.generated) == [A] * 4 + [B] * 6
        assert len(seen) == 2
