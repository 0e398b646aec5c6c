"""Token data beside the parts: written with them, told by the rows, read of results alone."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from kubegym.core.outcomes import Failure
from kubegym.core.protocols import Assignment, Attempt
from kubegym.core.tokens import TOKEN_FIELDS, CallTokens, Sample, TokenRecord
from kubegym.rollout import WorkerSettings, read_run
from kubegym.rollout.reader import CorruptPart
from kubegym.rollout.samples import Sampled, decode, encode, join, refer, samples_key
from kubegym.storage import MemoryStore
from kubegym.storage.faults import Fault, FaultyStore, Rule, Script
from testbed.episodes import ScriptedEpisodes, draft, scored, with_tokens
from testbed.runs import QUICK, collect


@with_tokens
def attempt(assignment: Assignment) -> Attempt:
    """The first attempt of every third task fails after its calls."""
    if assignment.task_index % 3 == 0 and assignment.attempt == 0:
        made = Attempt("failed", failure=Failure("model", "ModelUnavailable", "gone", True, 0))
    else:
        made = scored(assignment)
    made.response = {"output": [{"type": "message"}, {"type": "message"}]}
    return made


def settings(tokens: Any) -> WorkerSettings:
    from dataclasses import replace

    return replace(QUICK, tokens=tokens, max_failed_fraction=1.0)


async def run(store: Any, tokens: Any = "Samples") -> None:
    await collect(store, draft(9, 2, shard=4), ScriptedEpisodes(attempt), settings=settings(tokens))


async def test_of_every_result_the_samples_are_there_and_no_others() -> None:
    store = MemoryStore()
    await run(store)
    table = join([one async for one in (await read_run(store)).samples()])
    rows = table.to_pylist()
    assert sorted((row["task_index"], row["rollout_index"]) for row in rows) == [
        (task, rollout) for task in range(9) for rollout in range(2)
    ]
    for row in rows:
        assert row["attempt"] == (1 if row["task_index"] % 3 == 0 else 0)
        assert row["token_ids"] == [row["task_index"], row["rollout_index"], row["attempt"], 7, 8, 9, 10]
        assert row["loss_mask"] == [False, False, False, True, True, False, True]
        assert row["log_probs"] == [0, 0, 0, -0.5, -0.5, 0, -0.5]
        assert row["policy_runs"] == [{"version": 3, "from_token": 3}]
        assert (row["outcome"], row["agent"]) == ("scored", "env0_simple_agent")


async def test_a_row_says_where_its_samples_are() -> None:
    store = MemoryStore()
    await run(store)
    stored = await read_run(store)
    count = 0
    async for line in stored.attempts():
        ours = orjson.loads(line)["kubegym"]
        found = await store.get(ours["samples_ref"]["part"])
        assert found is not None
        first, rows = ours["samples_ref"]["rows"]
        samples = decode(found.data).slice(first, rows).to_pylist()
        assert [sample["rollout_id"] for sample in samples] == [ours["rollout_id"]]
        count += 1
    assert count == 18 + 6  # those made again included


async def test_inline_they_are_in_the_rows() -> None:
    store = MemoryStore()
    await run(store, "Inline")
    stored = await read_run(store)
    async for lines in stored.tasks():
        for line in lines:
            output = orjson.loads(line)["response"]["output"]
            assert output[0]["generation_token_ids"] == [7, 8]
            assert output[1]["prompt_token_ids"][3:] == [7, 8, 9]
    assert [one async for one in stored.samples()] == []


async def test_unless_they_are_wanted_none_are_kept() -> None:
    store = MemoryStore()
    await run(store, "None")
    assert not [key async for key in store.list("") if "samples" in key]
    assert [one async for one in (await read_run(store)).samples()] == []


async def test_a_file_that_is_not_what_it_was_is_noticed() -> None:
    store = MemoryStore()
    await run(store)
    key = next(iter([key async for key in store.list("") if key.endswith(".arrow")]))
    await store.put(key, b"other")
    with pytest.raises(CorruptPart):
        [one async for one in (await read_run(store)).samples()]
    await store.delete(key)
    with pytest.raises(CorruptPart):
        [one async for one in (await read_run(store)).samples()]


@pytest.mark.parametrize("nth", range(5, 16, 2))
async def test_trouble_with_the_store_loses_none(nth: int) -> None:
    inner = MemoryStore()
    script = Script(Rule(Fault.LOSE_REQUEST, nth=nth, times=2), Rule(Fault.LOSE_REPLY, nth=nth + 1, times=2))
    await run(FaultyStore(inner, script))
    table = join([one async for one in (await read_run(inner)).samples()])
    assert table.num_rows == 18


def test_a_text_of_the_row_is_not_taken_for_the_place() -> None:
    line = orjson.dumps({"text": '"samples_ref":null', "kubegym": {"samples_ref": None, "stale": False}})
    told = orjson.loads(refer(line, "shards/0/1-0.samples.arrow", 2, 1))
    assert told == {
        "text": '"samples_ref":null',
        "kubegym": {"samples_ref": {"part": "shards/0/1-0.samples.arrow", "rows": [2, 1]}, "stale": False},
    }
    assert samples_key("shards/0/1-0.jsonl.zst") == samples_key("shards/0/1-0.jsonl") == "shards/0/1-0.samples.arrow"


def test_forty_turns_of_32k_tokens_take_less_than_400_kb() -> None:
    """The inline form repeats every prompt: 4.2 MB (issue 6, "Measured")."""
    import random

    rng = random.Random(0)
    tokens, prompt = TokenRecord(), [rng.randrange(150_000) for _ in range(400)]
    for turn in range(40):
        generated = [rng.randrange(150_000) for _ in range(600)]
        log_probs = [-rng.expovariate(1) for _ in generated]
        tokens.add(CallTokens.read(dict(zip(TOKEN_FIELDS, (prompt, generated, log_probs), strict=True))), turn)
        prompt = prompt + generated + [rng.randrange(150_000) for _ in range(200)]
    assert len(tokens.samples) == 1
    assert len(tokens.samples[0].token_ids) > 32_000
    assignment = Assignment("e", {}, "t", 0, 0, "r-0-0")
    data = encode([Sampled(assignment, scored(assignment), "agent", tokens.samples)])
    assert len(data) < 400_000


def test_an_empty_sample_is_one() -> None:
    assignment = Assignment("e", {}, "t", 0, 0, "r-0-0")
    (row,) = decode(encode([Sampled(assignment, Attempt("unscored"), "agent", [Sample()])])).to_pylist()
    assert (row["token_ids"], row["reward"]) == ([], None)
