"""Calls become sequences: nothing is lost, nothing is kept twice, and every token is where the engine saw it."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym.core.tokens import TOKEN_FIELDS, CallTokens, TokenRecord, runs_of, taken, turn_of, versions_of

IDS = st.lists(st.integers(0, 5), max_size=6)  # so few that prompts are often alike by chance
CALLS = st.lists(st.tuples(st.booleans(), IDS, IDS, st.none() | st.integers(0, 3)), max_size=8)


def call(prompt: list[int], generated: list[int]) -> CallTokens:
    told = CallTokens.read(dict(zip(TOKEN_FIELDS, (prompt, generated, [-n / 10 for n in generated]), strict=True)))
    assert told is not None
    return told


def history(calls: list[tuple[bool, list[int], list[int], int | None]]) -> list[tuple[CallTokens, int | None]]:
    """Calls as a conversation makes them: most go on from the one before."""
    made: list[tuple[CallTokens, int | None]] = []
    for goes_on, prompt, generated, version in calls:
        before = [*made[-1][0].prompt, *made[-1][0].generated] if made and goes_on else []
        made.append((call(before + prompt, generated), version))
    return made


@given(CALLS)
def test_every_call_can_be_read_again(calls: list[Any]) -> None:
    record = TokenRecord()
    made = history(calls)
    for place, (tokens, version) in enumerate(made):
        record.add(tokens, place, version)
    assert [record.call(number) for number in range(len(made))] == [tokens for tokens, _ in made]
    assert pickle.loads(pickle.dumps(record)) == record  # as the isolated child hands it over


@given(CALLS)
def test_what_is_trained_is_what_was_generated(calls: list[Any]) -> None:
    record = TokenRecord()
    made = history(calls)
    for place, (tokens, version) in enumerate(made):
        record.add(tokens, place, version)
    for sample in record.samples:
        length = len(sample.token_ids)
        edges = [edge for span in sample.spans for edge in span]
        assert edges == sorted(edges)
        assert not edges or (edges[0] >= 0 and edges[-1] <= length)
        assert len(sample.log_probs) == sum(last - first for first, last in sample.spans)
        assert [first for _, first in sample.policy_runs] == sorted(first for _, first in sample.policy_runs)
    trained = sum(len(sample.log_probs) for sample in record.samples)
    assert trained == sum(len(tokens.generated) for tokens, _ in made)


def test_a_call_that_goes_on_makes_its_sample_longer() -> None:
    record = TokenRecord()
    record.add(call([1, 2], [3]), 0, 7)
    record.add(call([1, 2, 3, 4], [5, 6]), 2, 8)
    (sample,) = record.samples
    assert sample.token_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert sample.spans == [(2, 3), (4, 6)]
    assert sample.policy_runs == [(7, 2), (8, 4)]
    assert record.rewritten == 0


def test_a_history_that_was_rewritten_opens_another() -> None:
    record = TokenRecord()
    record.add(call([1, 2], [3]), 0)
    record.add(call([1, 9, 9, 4], [5]), 2)  # the template dropped the thoughts of the turn before
    record.add(call([1, 2, 3, 4], [6]), 4)  # a harness that went on with the first: of a branch, its own sample
    assert [sample.token_ids.tolist() for sample in record.samples] == [[1, 2, 3, 4, 6], [1, 9, 9, 4, 5]]
    assert [sample.parent for sample in record.samples] == [None, 0]
    assert record.rewritten == 1


def test_the_longest_that_is_continued_grows() -> None:
    record = TokenRecord()
    record.add(call([1], [2]), 0)
    record.add(call([9], [9]), 1)
    record.samples[1].token_ids = record.samples[0].token_ids[:1]
    record.add(call([1, 2, 3], [4]), 2)
    assert record.calls[-1][0] == 0


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"prompt_token_ids": [1], "generation_token_ids": [2]},
        {"prompt_token_ids": [1], "generation_token_ids": [2], "generation_log_probs": []},
        {"prompt_token_ids": ["a"], "generation_token_ids": [2], "generation_log_probs": [-1.0]},
        {"prompt_token_ids": [1 << 40], "generation_token_ids": [2], "generation_log_probs": [-1.0]},
        {"prompt_token_ids": [1], "generation_token_ids": [2], "generation_log_probs": [None]},
        {"prompt_token_ids": 1, "generation_token_ids": 2, "generation_log_probs": 3},
    ],
)
def test_what_is_no_tokens_is_none(told: dict[str, Any]) -> None:
    assert CallTokens.read(told) is None


def test_inline_fields_are_taken_out_and_placed_back() -> None:
    output: list[dict[str, Any]] = [
        {"type": "reasoning"},
        {"type": "message", **call([1], [2, 3]).fields()},
        {"type": "function_call_output"},
        {"type": "message", **call([1, 2, 3, 4], [5]).fields()},
    ]
    before = [dict(item) for item in output]
    runs = [{"version": 5, "from_token": 0}, {"version": 6, "from_token": 1}]
    record = taken(output, [{"policy_version": 5, "policy_runs": runs}, {"policy_version": 7}])
    assert record is not None
    assert not any(name in item for item in output for name in TOKEN_FIELDS)
    assert record.samples[0].policy_runs == [(5, 1), (6, 2), (7, 4)]
    record.place(output)
    assert output == before
    assert taken([{"type": "message"}]) is None


def test_a_reply_of_several_versions_says_which_made_which_token() -> None:
    record = TokenRecord()
    record.add(call([1, 2], [3, 4, 5]), 0, 7, [(7, 0), (8, 2)])
    record.add(call([1, 2, 3, 4, 5, 6], [7, 8]), 2, 8, [(8, 0), (9, 1)])
    assert record.samples[0].policy_runs == [(7, 2), (8, 4), (9, 7)]


@pytest.mark.parametrize(
    ("version", "runs", "turn"),
    [
        (None, (), {"policy_version": None, "reward": None}),
        (3, (), {"policy_version": 3, "reward": None}),
        (3, [(3, 0)], {"policy_version": 3, "reward": None}),
        (
            3,
            [(4, 0), (3, 9)],
            {
                "policy_version": 3,
                "policy_runs": [{"version": 4, "from_token": 0}, {"version": 3, "from_token": 9}],
                "reward": None,
            },
        ),
    ],
)
def test_a_turn_has_runs_only_where_it_spans_versions(
    version: int | None, runs: list[tuple[int, int]], turn: dict[str, Any]
) -> None:
    assert turn_of(version, runs) == turn
    assert runs_of(turn) == (list(runs) if len(runs) > 1 else [])
    assert versions_of([turn]) == ({version} if len(runs) < 2 else {3, 4}) - {None}


@pytest.mark.parametrize("told", [None, 3, {}, ["x"], [{"version": "1", "from_token": 0}], [{}]])
def test_runs_that_others_wrote_badly_are_none(told: Any) -> None:
    assert runs_of({"policy_version": 1, "policy_runs": told}) == []


def test_a_call_whose_tokens_are_not_told_is_counted() -> None:
    record = TokenRecord()
    record.add(call([1], [2]), 0)
    record.add(None, 1)
    record.add(call([1, 2, 3, 4, 5], [6]), 2)
    assert record.unknown == 1
    assert record.samples[0].spans == [(1, 2), (5, 6)]  # what that call said is context
