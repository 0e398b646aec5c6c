"""Episodes over agents' ``/run``: what they are sent, and what becomes of each reply."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from kubegym.core.errors import InvalidSpec
from kubegym.core.protocols import Assignment, Attempt, EnvironmentInfo
from kubegym.core.rows import build_row
from kubegym.http import HttpClient, Url
from kubegym.rollout.remote import RemoteAgent, RemoteEpisodes
from testbed.foreign_servers import Answer, Seen, Told, answering, foreign_agent, responses_object

INFO = EnvironmentInfo("count", "1", "count", "1", "count_simple_agent", "m")
ROW = {"responses_create_params": {"input": "Count.", "metadata": {"a": "1"}}, "expected": 4, "note": "mine"}
OURS = {
    "outcome": "scored",
    "failure": None,
    "stop_reason": "completed",
    "seed": 5,
    "usage": {"policy": {"calls": 2, "input_tokens": 7, "output_tokens": 3, "cached_tokens": 0, "reasoning_tokens": 0}},
    "timing": {"total": 0.5},
    "turns": [{"policy_version": 3, "reward": None}],
}
Ask = Callable[..., Any]


def assignment(attempt: int = 0, row: dict[str, Any] | None = None) -> Assignment:
    suffix = f"-a{attempt}" if attempt else ""
    return Assignment("count", row or ROW, "task", 3, 1, f"c0ffee00-3-1{suffix}", attempt)


@pytest.fixture
async def episodes() -> AsyncIterator[Ask]:
    """``await episodes(answer, ..., **settings)`` gives episodes over agents that answer so."""
    async with AsyncExitStack() as stack:

        async def made(*answers: Answer, dead: int = 0, **settings: Any) -> RemoteEpisodes:
            urls = [f"http://127.0.0.1:{1 + number}" for number in range(dead)]  # nobody listens there
            urls += [await stack.enter_async_context(answering(answer)) for answer in answers]
            remote = RemoteEpisodes({"count": RemoteAgent(urls, INFO, **settings)})
            stack.push_async_callback(remote.close)
            return remote

        yield made


def told(attempt: Attempt) -> tuple[str, str, bool]:
    assert attempt.outcome == "failed"
    assert attempt.reward is None
    assert attempt.failure is not None
    return attempt.failure.stage, attempt.failure.reason, attempt.failure.retryable


async def test_a_foreign_agent(episodes: Ask) -> None:
    answer, seen = foreign_agent()
    attempt = await (await episodes(answer, ours=False)).run(assignment())
    assert (attempt.outcome, attempt.reward, attempt.stop_reason) == ("scored", 1.0, "completed")
    assert attempt.fields == {"extracted": "4", "note": None}
    assert attempt.usage["policy"] == {
        "calls": 1,
        "input_tokens": 3,
        "output_tokens": 2,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
    }
    (request,) = seen
    assert request.path == "/run"
    assert request.body == ROW | {
        "_ng_task_index": 3,
        "_ng_rollout_index": 1,
        "_ng_rollout_id": "c0ffee00-3-1",
        "agent_ref": {"type": "responses_api_agents", "name": "count_simple_agent"},
    }
    row = build_row(assignment(), attempt, INFO, "c0ffee00" * 4)
    assert (row["reward"], row["note"], row["expected"]) == (1.0, None, 4)


async def test_a_retry_is_numbered_as_the_contract_says(episodes: Ask) -> None:
    answer, seen = foreign_agent()
    await (await episodes(answer, ours=False)).run(assignment(2))
    assert (seen[0].body["_ng_rollout_id"], seen[0].body["_ng_attempt_index"]) == ("c0ffee00-3-1", 2)
    answer, seen = foreign_agent()
    await (await episodes(answer)).run(assignment(2))
    assert (seen[0].body["_ng_rollout_id"], seen[0].body["_ng_attempt_index"]) == ("c0ffee00-3-1-a2", 2)


async def test_an_agent_of_ours_is_told_the_run_s_settings(episodes: Ask) -> None:
    parts = {"a": 0.5, "b": 1}
    answer, seen = foreign_agent(
        lambda reply: Told(seen[0].body | reply | {"kubegym": OURS, "reward_components": parts, **parts})
    )
    overrides = {"temperature": 0.5, "metadata": {"b": "2"}}
    remote = await episodes(answer, seed=5, max_steps=4, deadline_seconds=60.0, overrides=overrides)
    attempt = await remote.run(assignment(row=ROW | {"kubegym": {"old": 1}}))
    sent = seen[0]
    assert sent.headers["x-kubegym-wire"] == "1"
    assert float(sent.headers["x-kubegym-deadline"]) == 60.0
    assert sent.body["kubegym"] == {"task_id": "task", "seed": 5, "max_steps": 4, "on_truncated": "Verify"}
    assert sent.body["responses_create_params"] == {
        "input": "Count.",
        "temperature": 0.5,
        "metadata": {"a": "1", "b": "2"},
    }
    assert (attempt.reward, attempt.components) == (1.0, {"a": 0.5, "b": 1.0})
    assert attempt.fields == {"extracted": "4", "note": None}
    assert (attempt.usage, attempt.timing, attempt.turns) == (OURS["usage"], OURS["timing"], OURS["turns"])
    assert (attempt.seed, attempt.stop_reason) == (5, "completed")


FAILURE = {"stage": "tool", "reason": "ToolCrashed", "message": "m" * 5000, "retryable": False}
HTML = {"Content-Type": "text/html"}
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Told("\"Hit an exception in m calling an inner server: <b'x'>\"", 500), ("agent", "AgentUnavailable", True)),
        (Told("<html>", 502, headers=HTML), ("agent", "AgentUnavailable", True)),
        (Told("<html>welcome", headers=HTML), ("agent", "AgentUnavailable", True)),
        (Told("slow down", 429), ("agent", "AgentUnavailable", True)),
        (Told(status=0), ("agent", "AgentUnavailable", True)),
        (Told({"detail": []}, 422), ("agent", "AgentRejectedRow", False)),
        (Told({"detail": "Not Found"}, 404), ("agent", "AgentRejectedRow", False)),
        (Told([]), ("agent", "InvalidAgentReply", False)),
        (Told('{"reward": NaN}', headers=JSON), ("agent", "InvalidAgentReply", False)),
        (Told({}), ("agent", "InvalidAgentReply", False)),
        (Told({"reward": "1", "response": {}}), ("agent", "InvalidAgentReply", False)),
        (Told({"reward": 1.0}), ("agent", "InvalidAgentReply", False)),
        (Told({"reward": 1.0, "response": {"output": 7}}), ("agent", "InvalidAgentReply", False)),
        (Told({"reward": 0.0, "_ng_failure_class": "judge_failed"}), ("judge", "JudgeFailed", True)),
        (
            Told({"reward": 0.0, "_ng_failure_class": "remote_agent_error", "_ng_failure_terminal": True}),
            ("agent", "RemoteAgentError", False),
        ),
        (Told({"reward": None, "kubegym": {"failure": FAILURE}}), ("tool", "ToolCrashed", False)),
        (
            Told({"detail": "x", "kubegym": {"failure": FAILURE}}, 503, headers={"x-kubegym-failure": "1"}),
            ("tool", "ToolCrashed", False),
        ),
        (Told({"reward": 1.0, "response": {}, "_ng_no_persist": True}), ("agent", "NoPersist", True)),
    ],
)
async def test_replies_without_a_reward(episodes: Ask, reply: Told, expected: tuple[str, str, bool]) -> None:
    answer, seen = foreign_agent(lambda _: reply)
    attempt = await (await episodes(answer)).run(assignment(1))
    assert told(attempt) == expected
    assert attempt.failure is not None
    assert attempt.failure.attempt == 1
    assert len(attempt.failure.message) <= 4000
    assert attempt.params == ROW["responses_create_params"]
    assert len(seen) == 1  # never twice within an attempt


@pytest.mark.parametrize(
    ("changed", "settings"),
    [
        ({"reward": None}, {}),
        ({"reward": 0.0, "_ng_failure_class": "unscored", "mask_sample": True}, {}),
        ({"reward": 0.0, "verification_skipped": True}, {}),
        ({"response": {"output": [], "incomplete_details": {"reason": "max_output_tokens"}}}, {"on_truncated": "Skip"}),
    ],
)
async def test_unscored(episodes: Ask, changed: dict[str, Any], settings: dict[str, Any]) -> None:
    answer, _ = foreign_agent(lambda reply: Told(reply | changed))
    attempt = await (await episodes(answer, ours=False, **settings)).run(assignment())
    assert (attempt.outcome, attempt.reward, attempt.failure) == ("unscored", None, None)
    assert "mask_sample" not in attempt.fields


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, "completed"),
        ({"incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ({"incomplete_details": {"reason": "other"}}, "max_output_tokens"),
        ({"output": [{"type": "function_call_output", "call_id": "1", "output": ""}]}, "max_steps"),
    ],
)
async def test_why_a_foreign_rollout_ended(episodes: Ask, changed: dict[str, Any], reason: str) -> None:
    answer, _ = foreign_agent(lambda reply: Told(reply | {"response": reply["response"] | changed}))
    assert (await (await episodes(answer, ours=False)).run(assignment())).stop_reason == reason


async def test_calls_of_a_foreign_rollout_are_counted_by_turns(episodes: Ask) -> None:
    call = {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "1"}
    output = [{"type": "reasoning"}, call, call, {"type": "function_call_output", "call_id": "1", "output": ""}]
    whole = responses_object("r", "x")
    whole["output"] = output + whole["output"]
    answer, _ = foreign_agent(lambda reply: Told(reply | {"response": whole}))
    attempt = await (await episodes(answer, ours=False)).run(assignment())
    assert attempt.usage["policy"]["calls"] == 2


async def test_dead_replicas_cost_nothing_and_the_rest_share(episodes: Ask) -> None:
    release, all_came, served = asyncio.Event(), asyncio.Event(), [0, 0]

    def slow(number: int) -> Answer:
        answer, _ = foreign_agent()

        async def wait(request: Seen) -> Told:
            served[number] += 1
            if sum(served) == 8:
                all_came.set()
            await release.wait()
            return await answer(request)

        return wait

    remote = await episodes(slow(0), slow(1), dead=1)
    running = [asyncio.ensure_future(remote.run(assignment())) for _ in range(8)]
    await asyncio.wait_for(all_came.wait(), 300)
    assert served == [4, 4]
    release.set()
    assert {attempt.outcome for attempt in await asyncio.gather(*running)} == {"scored"}


async def test_no_replica_at_all(episodes: Ask) -> None:
    attempt = await (await episodes(dead=2)).run(assignment())
    assert told(attempt) == ("agent", "AgentUnavailable", True)


async def test_a_foreign_agent_that_never_answers() -> None:
    async def never(request: Seen) -> Told:
        if request.path == "/run":
            await asyncio.Event().wait()
        return Told({})

    async with answering(never) as url, AsyncExitStack() as stack:
        http = HttpClient()
        stack.push_async_callback(http.close)
        remote = RemoteEpisodes({"count": RemoteAgent([url], INFO, ours=False, deadline_seconds=0.05)}, http=http)
        # From then on there is a connection: the time is the reply's alone.
        await http.request(b"GET", Url(url) / "health", b"", b"", 300.0)
        attempt = await remote.run(assignment())
    assert told(attempt) == ("agent", "DeadlineExceeded", False)


async def test_what_is_not_remote(episodes: Ask) -> None:
    answer, _ = foreign_agent()
    remote = await episodes(answer)
    assert remote.info("count") is INFO
    assert not remote.verifies_groups("count")
    with pytest.raises(InvalidSpec):
        await remote.verify_group("count", [])
