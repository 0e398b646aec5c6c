"""Token data as padded arrays."""

from __future__ import annotations

import logging
import math

import pytest

from kubegym import batches
from kubegym.core.errors import InvalidSpec
from kubegym.core.protocols import Assignment, Attempt
from kubegym.core.tokens import TOKEN_FIELDS, CallTokens, TokenRecord
from kubegym.rollout.samples import Sampled, decode, encode


def table(*lengths: int, unscored: tuple[int, ...] = (), stale: tuple[int, ...] = ()) -> object:
    """One sample a length: a prompt of one token and a generation of the rest."""
    made = []
    for number, length in enumerate(lengths):
        tokens = TokenRecord()
        generated = list(range(1, length))
        told = dict(zip(TOKEN_FIELDS, ([9], generated, [-1.0] * len(generated)), strict=True))
        tokens.add(CallTokens.read(told), 0, version=number)
        attempt = Attempt("unscored") if number in unscored else Attempt("scored", reward=float(number))
        attempt.left_behind = number in stale
        made.append(Sampled(Assignment("e", {}, "t", number, 0, f"r-{number}-0"), attempt, "a", tokens.samples))
    return decode(encode(made))


def test_they_are_padded_to_the_longest() -> None:
    first, second = batches(table(3, 5, 2), 2, pad_id=7)  # type: ignore[arg-type]
    assert first["input_ids"].tolist() == [[9, 1, 2, 7, 7], [9, 1, 2, 3, 4]]
    assert first["attention_mask"].tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert first["loss_mask"].tolist() == [[False, True, True, False, False], [False, True, True, True, True]]
    assert first["log_probs"].tolist() == [[0, -1, -1, 0, 0], [0, -1, -1, -1, -1]]
    assert first["policy_versions"].tolist() == [[-1, 0, 0, -1, -1], [-1, 1, 1, 1, 1]]
    assert first["rewards"].tolist() == [0.0, 1.0]
    assert second["rollout_ids"] == ["r-2-0"]


def test_only_what_is_scored_unless_asked() -> None:
    samples = table(3, 3, unscored=(0,))
    (batch,) = batches(samples, 8)  # type: ignore[arg-type]
    assert batch["rollout_ids"] == ["r-1-0"]
    (batch,) = batches(samples, 8, scored_only=False)  # type: ignore[arg-type]
    assert math.isnan(batch["rewards"][0])


def test_what_is_stale_never() -> None:
    (batch,) = batches(table(3, 3, 3, stale=(1,)), 8, scored_only=False)  # type: ignore[arg-type]
    assert batch["rollout_ids"] == ["r-0-0", "r-2-0"]
    older = table(3, 3).drop_columns(["stale"])  # type: ignore[attr-defined]  # files of before have none
    (batch,) = batches(older, 8)
    assert batch["rollout_ids"] == ["r-0-0", "r-1-0"]


def test_what_is_too_long_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        (batch,) = batches(table(3, 50), 8, max_length=10)  # type: ignore[arg-type]
    assert batch["input_ids"].shape == (1, 3)
    assert "1 of 2 samples are longer than 10 tokens" in caplog.text


def test_an_order_that_the_seed_determines() -> None:
    samples = table(*range(2, 22))

    def order(seed: int | None) -> list[str]:
        return [one for batch in batches(samples, 3, shuffle_seed=seed) for one in batch["rollout_ids"]]  # type: ignore[arg-type]

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == sorted(order(None))


def test_a_size_that_cannot_be() -> None:
    with pytest.raises(InvalidSpec):
        next(batches(table(2), 0))  # type: ignore[arg-type]
