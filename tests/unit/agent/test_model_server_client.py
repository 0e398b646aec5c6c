"""A policy behind a model server: what it is asked, whose cookies go where, what is tried again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from kubegym.agent.model_server import ModelServerClient
from kubegym.core.clock import Deadline
from kubegym.core.errors import ModelError
from kubegym.core.protocols import CallContext
from kubegym.core.retry import Backoff
from kubegym.core.tokens import last_told
from testbed.foreign_servers import Answer, Seen, Told, answering, responses_object

QUICK = Backoff(attempts=3, base=0.001, maximum=0.002)
REQUEST = {"input": "4?", "temperature": None, "metadata": {"a": "1", "extra_body": '{"top_k":2}'}}
FINE = responses_object("r", "four")
Ask = Callable[..., Any]


class Scripted:
    """Answers in order, then well; each reply names the caller's next cookie."""

    def __init__(self, *plan: Told) -> None:
        self.plan = list(plan)
        self.seen: list[Seen] = []

    async def __call__(self, seen: Seen) -> Told:
        self.seen.append(seen)
        told = self.plan.pop(0) if self.plan else Told(FINE)
        told.cookies = [f"model={len(self.seen)}; Path=/"]
        return told


@pytest.fixture
async def client() -> AsyncIterator[Ask]:
    """``await client(answer, ...)`` gives a client of servers that answer so."""
    async with AsyncExitStack() as stack:

        async def made(*answers: Answer, dead: int = 0, suffix: str = "/v1") -> ModelServerClient:
            urls = [f"http://127.0.0.1:{1 + number}" for number in range(dead)]  # nobody listens there
            urls += [await stack.enter_async_context(answering(answer)) + suffix for answer in answers]
            model = ModelServerClient(urls, "m", faults=QUICK, overload=QUICK)
            stack.push_async_callback(model.close)
            return model

        yield made


def context(identity: str = "r-1-0", seconds: float = 60, seed: int | None = None) -> CallContext:
    return CallContext(identity, Deadline(seconds), seed)


@pytest.mark.parametrize("suffix", ["", "/", "/v1"])
async def test_what_is_asked(client: Ask, suffix: str) -> None:
    server = Scripted(Told(FINE, headers={"x-kubegym-policy-version": "7"}))
    reply = await (await client(server, suffix=suffix)).respond(REQUEST, context(seed=5))
    assert (reply.response, reply.policy_version, reply.stop) == (FINE, 7, None)
    (seen,) = server.seen
    assert seen.path == "/ng-rollout/r-1-0/v1/responses"
    assert 0 < float(seen.headers["x-kubegym-deadline"]) <= 60
    extra = seen.body["metadata"].pop("extra_body")
    assert json.loads(extra) == {"top_k": 2, "seed": 5}
    assert seen.body == {"input": "4?", "model": "m", "metadata": {"a": "1"}}


async def test_the_next_request_tells_the_tokens_of_the_call_before_it(client: Ask) -> None:
    told = {"prompt_token_ids": [1, 2], "generation_token_ids": [3], "generation_log_probs": [-0.5]}
    fine = responses_object("r", "four")
    fine["output"][-1] |= told
    server = Scripted(Told(fine))
    model = await client(server)
    first = await model.respond(REQUEST, context())
    assert first.tokens is not None
    assert first.tokens.fields() == told
    said = first.response["output"]
    assert not any(name in item for item in said for name in told), "what was taken is not told twice"
    history = [{"role": "user", "content": "4?"}, *said, {"role": "user", "content": "sure?"}]
    await model.respond({"input": history}, replace(context(), previous=first.tokens))
    asked = server.seen[1].body["input"]
    assert asked == [history[0], {**said[0], **told}, history[2]]
    assert last_told(asked) == first.tokens


async def test_a_rollout_has_cookies_of_its_own(client: Ask) -> None:
    server = Scripted()
    model = await client(server)
    for identity in ("a", "b", "a", "b"):
        await model.respond(REQUEST, context(identity))
    assert [seen.cookies for seen in server.seen] == [{}, {}, {"model": "1"}, {"model": "2"}]


async def test_a_full_context_is_told_by_a_header(client: Ask) -> None:
    server = Scripted(Told(FINE, headers={"x-kubegym-stop": "context_window"}))
    assert (await (await client(server)).respond(REQUEST, context())).stop == "context_window"


@pytest.mark.parametrize(
    "trouble", [Told(status=0), Told("<html>", 502), Told("busy", 429), Told("", 503), Told("<html>ok"), Told("x", 500)]
)
async def test_what_passes_is_tried_again(client: Ask, trouble: Told) -> None:
    server = Scripted(trouble)
    reply = await (await client(server)).respond(REQUEST, context())
    assert reply.response == FINE
    assert len(server.seen) == 2
    assert (reply.waited > 0) == (trouble.status in (429, 503))


def carried(reason: str, retryable: bool, status: int) -> Told:
    failure = {"stage": "model", "reason": reason, "message": "said so", "retryable": retryable}
    return Told({"detail": "said so", "kubegym": {"failure": failure}}, status, headers={"x-kubegym-failure": "1"})


@pytest.mark.parametrize(
    ("trouble", "reason", "retryable", "calls"),
    [
        (Told({"detail": "bad"}, 422), "ModelRejectedRequest", False, 1),
        (Told(status=0), "ModelUnavailable", True, 3),
        (Told("busy", 429), "ModelOverloaded", True, 3),
        (carried("ModelUnauthorized", False, 401), "ModelUnauthorized", False, 1),
        (carried("ModelOverloaded", True, 503), "ModelOverloaded", True, 3),
    ],
)
async def test_what_stays_is_an_error(client: Ask, trouble: Told, reason: str, retryable: bool, calls: int) -> None:
    server = Scripted(*[trouble] * 4)
    with pytest.raises(ModelError, match=r"http://127.0.0.1:\d+") as caught:
        await (await client(server)).respond(REQUEST, context())
    assert (caught.value.reason, caught.value.retryable) == (reason, retryable)
    assert len(server.seen) == calls


async def test_a_rollout_stays_with_its_replica(client: Ask) -> None:
    servers = [Scripted() for _ in range(3)]
    model = await client(*servers)
    for number in range(12):
        for _ in range(2):
            await model.respond(REQUEST, context(f"r-{number}"))
    asked = [{seen.path for seen in server.seen} for server in servers]
    assert sum(len(paths) for paths in asked) == 12  # no rollout at two of them
    assert all(asked)


async def test_a_dead_replica_is_left(client: Ask) -> None:
    server = Scripted()
    model = await client(server, dead=1)
    for number in range(8):
        await model.respond(REQUEST, context(f"r-{number}"))
    assert len(server.seen) == 8


async def test_what_a_call_says_of_itself(client: Ask) -> None:
    server = Scripted()
    model = await client(server)
    for identity in ("0123abcd-1-0", "0123abcd-2-0", "7-3"):
        await model.respond(REQUEST, context(identity))
    runs = [seen.headers["x-kubegym-run"] for seen in server.seen]
    assert runs == ["0123abcd", "0123abcd", ""], "others' ids name no run"
    opened = [seen.headers["x-kubegym-open"].partition("/") for seen in server.seen]
    assert [int(count) for _, _, count in opened] == [1, 2, 3]
    assert len({name for name, _, _ in opened}) == 1
    model.leave("0123abcd-1-0")
    await model.respond(REQUEST, context("7-3"))
    assert server.seen[-1].headers["x-kubegym-open"].endswith("/2")


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_replica_that_cannot_sends_the_call_elsewhere(client: Ask, status: int) -> None:
    """A vLLM that shuts down says 500 to new calls while it calls itself healthy."""
    servers = [Scripted(*[Told("going", status)] * 20), Scripted()]
    model = await client(*servers)
    for number in range(8):
        await model.respond(REQUEST, context(f"r-{number}"))
        await model.respond(REQUEST, context(f"r-{number}"))
    assert len(servers[1].seen) == 16
    if status != 503:  # which is no failure: it only rests
        assert len(servers[0].seen) == 3


async def test_a_full_queue_is_waited_for_where_the_cache_is(client: Ask) -> None:
    servers = [Scripted(Told("full", 429)), Scripted(Told("full", 429))]
    model = await client(*servers)
    await model.respond(REQUEST, context())
    assert sorted(len(server.seen) for server in servers) == [0, 2]


async def test_rollouts_leave_a_replica_that_drains(client: Ask) -> None:
    draining = [Told(FINE, headers={"x-kubegym-draining": "1"}) for _ in range(20)]
    servers = [Scripted(*draining), Scripted()]
    model = await client(*servers)
    for _ in range(3):
        for number in range(4):
            await model.respond(REQUEST, context(f"r-{number}"))
    assert len(servers[0].seen) == 1, "its first reply said so"
    assert model.decisions["moved"] == 1


async def test_time_in_the_servers_queue_is_excused(client: Ask) -> None:
    server = Scripted(Told(FINE, headers={"x-kubegym-queued": "100.000"}))
    asked = context(seconds=6000)
    await (await client(server)).respond(REQUEST, asked)
    assert asked.deadline.remaining() > 6000


async def test_every_call_is_told(client: Ask) -> None:
    told: list[tuple[str, int, int]] = []
    async with answering(Scripted(Told("bad", 422))) as url:
        model = ModelServerClient([url], on_call=lambda _, __, outcome, *tokens: told.append((outcome, *tokens)))
        with pytest.raises(ModelError):
            await model.respond(REQUEST, context())
        await model.respond(REQUEST, context())
        await model.close()
    usage = FINE["usage"]
    assert told == [("ModelRejectedRequest", 0, 0), ("ok", usage["input_tokens"], usage["output_tokens"])]


async def test_no_time_left(client: Ask) -> None:
    server = Scripted()
    model = await client(server)
    with pytest.raises(ModelError, match="no time was left") as caught:
        await model.respond(REQUEST, context(seconds=0))
    assert caught.value.reason == "ModelTimeout"
    assert server.seen == []


@pytest.mark.parametrize("metadata", [{"extra_body": "{"}, {"extra_body": "[1]"}])
async def test_a_seed_that_has_no_place(client: Ask, metadata: dict[str, str]) -> None:
    with pytest.raises(ModelError, match="no JSON form") as caught:
        await (await client(Scripted())).respond({"input": "x", "metadata": metadata}, context(seed=1))
    assert not caught.value.retryable
