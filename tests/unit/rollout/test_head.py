"""The algebra of shard heads: what may follow what, whatever workers do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kubegym.core.outcomes import Failure
from kubegym.core.protocols import Attempt
from kubegym.rollout.head import (
    Claim,
    Head,
    Holder,
    Part,
    State,
    Totals,
    claimed,
    committed,
    full,
    head_key,
    judge_claim,
    part_key,
    released,
    suspects,
)

pytestmark = pytest.mark.unit

OURS = Holder("job/a", "pod-0")
THEIRS = Holder("job/b", "pod-0")


def scored(reward: float = 1.0) -> Attempt:
    return Attempt("scored", reward=reward, usage={"policy": {"input_tokens": 3, "output_tokens": 2}})


def failed(reason: str) -> Attempt:
    return Attempt("failed", failure=Failure("tool", reason, "no", False, 0), usage={"policy": {"calls": 1}})


def head(state: State = "Claimed", generation: int = 1, lease: float = 100.0, size: int = 4) -> Head:
    return Head("r" * 32, 0, generation, size, state, 1, 1, "n", OURS, lease)


class Protocol(RuleBasedStateMachine):
    """Any sequence of claims, flushes, releases and generations of one shard."""

    @initialize(size=st.integers(1, 12))
    def plan(self, size: int) -> None:
        self.head: Head | None = None
        self.size = size
        self.generation = 1
        self.nonces = 0
        self.history: list[Head] = []
        self.expected = Totals()
        self.in_flight: set[int] = set()

    def _nonce(self) -> str:
        self.nonces += 1
        return str(self.nonces)

    def _write(self, new: Head) -> None:
        self.history.append(new)
        self.head = new

    def _claim(self, ceiling: int, retried: dict[str, int] | None = None) -> None:
        self._write(
            claimed(
                self.head,
                run_id="r" * 32,
                shard=0,
                generation=self.generation,
                size=self.size,
                holder=OURS,
                nonce=self._nonce(),
                lease_expires=5.0,
                ceiling=min(ceiling, self.size),
                retried=retried,
            )
        )

    @precondition(lambda self: self.head is None or not self.head.complete)
    @rule(ceiling=st.integers(1, 12))
    def claim(self, ceiling: int) -> None:
        """Also of a shard whose holder died."""
        self._claim(ceiling)

    @precondition(lambda self: self.head is not None and self.head.state == "Claimed")
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        assert self.head is not None
        chosen = data.draw(st.sets(st.sampled_from(list(self.head.remaining()))))
        totals = Totals()
        for ordinal in sorted(chosen):
            attempt = data.draw(st.sampled_from([scored(), failed("A"), failed("B"), Attempt("unscored")]))
            if data.draw(st.booleans()):
                totals.count(failed("Retried"), final=False)
            totals.count(attempt, final=True)
            assert ordinal < self.size
        part = Part(f"p{self.nonces}", len(chosen), 1, "", self.generation) if chosen else None
        self.expected = self.expected + totals
        self._write(
            committed(
                self.head, part=part, settled=sorted(chosen), totals=totals, nonce=self._nonce(), lease_expires=5.0
            )
        )

    @precondition(lambda self: self.head is not None and self.head.state == "Claimed")
    @rule()
    def release(self) -> None:
        assert self.head is not None
        self._write(released(self.head, self._nonce()))

    @precondition(lambda self: self.head is not None and self.head.state == "Committed")
    @rule(grow=st.booleans(), size=st.integers(1, 12))
    def next_generation(self, grow: bool, size: int) -> None:
        """More rollouts, or the failed ones again."""
        assert self.head is not None
        retried = {} if grow else dict(self.expected.failures)
        count = sum(retried.values())
        if not grow and not count:
            return
        self.generation += 1
        self.size = size if grow else count
        self.expected = self.expected.without(retried)
        self._claim(self.size, retried)

    @invariant()
    def only_grows(self) -> None:
        if len(getattr(self, "history", [])) < 2:
            return
        old, new = self.history[-2:]
        assert new.sequence == old.sequence + 1
        assert new.epoch - old.epoch in (0, 1)
        assert new.epoch >= old.epoch
        assert new.nonce != old.nonce
        assert new.parts[: len(old.parts)] == old.parts, "a part was forgotten"
        if new.generation == old.generation:
            assert new.settled & old.settled == old.settled, "a settled ordinal was unsettled"
            assert new.epoch > old.epoch or new.ceiling >= old.ceiling or new.state == "Released"
        else:
            assert (old.state, new.settled, new.generation) == ("Committed", 0, old.generation + 1)

    @invariant()
    def counts_what_was_committed(self) -> None:
        if getattr(self, "head", None) is None:
            return
        assert self.head is not None
        assert self.head.totals == self.expected
        assert self.head.complete == (self.head.state == "Committed")
        assert self.head.complete == (list(self.head.remaining()) == [])
        assert self.head.settled <= full(self.head.size)

    @invariant()
    def survives_json(self) -> None:
        if getattr(self, "head", None) is not None:
            assert self.head is not None
            assert Head.from_json(self.head.to_json()) == self.head

    @invariant()
    def suspects_only_what_may_have_been_in_flight(self) -> None:
        if getattr(self, "head", None) is None:
            return
        assert self.head is not None
        found = suspects(self.head)
        if self.head.state != "Claimed":
            assert found == []
        assert found == [n for n in self.head.remaining() if n < self.head.ceiling and self.head.state == "Claimed"]


TestProtocol = Protocol.TestCase


@given(size=st.integers(1, 40), settled=st.sets(st.integers(0, 39)), again=st.integers(-1, 45))
def test_an_ordinal_is_settled_at_most_once_and_only_if_planned(size: int, settled: set[int], again: int) -> None:
    first = committed(
        head(size=size),
        part=None,
        settled=[n for n in settled if n < size],
        totals=Totals(),
        nonce="2",
        lease_expires=1.0,
    )
    allowed = 0 <= again < size and again not in settled
    if allowed:
        second = committed(first, part=None, settled=[again], totals=Totals(), nonce="3", lease_expires=1.0)
        assert again not in list(second.remaining())
    else:
        with pytest.raises(ValueError, match="settled already, or not planned"):
            committed(first, part=None, settled=[again], totals=Totals(), nonce="3", lease_expires=1.0)


def test_one_flush_does_not_settle_an_ordinal_twice() -> None:
    with pytest.raises(ValueError, match="settled already"):
        committed(head(), part=None, settled=[1, 1], totals=Totals(), nonce="2", lease_expires=1.0)


def test_a_committed_head_has_no_lease_and_a_released_one_no_ceiling() -> None:
    done = committed(head(size=1), part=None, settled=[0], totals=Totals(), nonce="2", lease_expires=9.0)
    assert (done.state, done.lease_expires) == ("Committed", 0.0)
    let_go = released(replace(head(), ceiling=3), "2")
    assert (let_go.state, let_go.lease_expires, let_go.ceiling) == ("Released", 0.0, 0)


def test_a_ceiling_is_never_lowered_within_an_epoch() -> None:
    high = replace(head(), ceiling=3)
    assert committed(high, part=None, settled=[], totals=Totals(), nonce="2", lease_expires=1.0, ceiling=2).ceiling == 3


# state, generation (of the head; the claimant's is 2), holder, lease over, holder gone -> judgement
CELLS: list[tuple[State, int, Holder, bool, bool, Claim]] = [
    # an earlier generation, finished or not, is gone beyond, unless somebody works on it
    ("Committed", 1, OURS, True, False, "take"),
    ("Committed", 1, THEIRS, True, False, "take"),
    ("Released", 1, THEIRS, True, False, "take"),
    ("Claimed", 1, OURS, False, False, "held"),
    ("Claimed", 1, THEIRS, False, False, "in_use"),
    # our generation
    ("Committed", 2, OURS, True, False, "done"),
    ("Committed", 2, THEIRS, True, False, "done"),
    ("Released", 2, OURS, True, False, "take"),
    ("Released", 2, THEIRS, False, False, "take"),
    ("Claimed", 2, OURS, False, False, "held"),
    ("Claimed", 2, OURS, True, False, "take"),
    ("Claimed", 2, OURS, False, True, "take"),
    ("Claimed", 2, OURS, True, True, "take"),
    ("Claimed", 2, THEIRS, False, False, "in_use"),
    ("Claimed", 2, THEIRS, True, False, "take"),
    ("Claimed", 2, THEIRS, False, True, "take"),
    ("Claimed", 2, THEIRS, True, True, "take"),
    # a later one: ours must have been finished before it began
    ("Committed", 3, OURS, True, False, "done"),
    ("Released", 3, THEIRS, True, False, "done"),
    ("Claimed", 3, OURS, False, False, "done"),
    ("Claimed", 3, THEIRS, False, False, "done"),
    ("Claimed", 3, THEIRS, True, True, "done"),
]


@pytest.mark.parametrize(("state", "generation", "holder", "expired", "gone", "expected"), CELLS)
def test_who_may_claim(
    state: State, generation: int, holder: Holder, expired: bool, gone: bool, expected: Claim
) -> None:
    held = replace(head(state, generation, 10.0 if expired else 100.0), holder=holder)
    assert judge_claim(held, 2, OURS, 50.0, gone) == expected


def test_a_shard_without_a_head_may_be_claimed_and_a_lease_is_over_at_its_time() -> None:
    assert judge_claim(None, 1, OURS, 0.0, False) == "take"
    assert judge_claim(head(lease=10.0), 1, THEIRS, 10.0, False) == "take"
    assert judge_claim(head(lease=10.0), 1, THEIRS, 9.999, False) == "in_use"


def test_a_stale_generation_cannot_claim_over_a_later_one() -> None:
    with pytest.raises(ValueError, match="generation 3 already, not 2"):
        claimed(
            head("Released", 3),
            run_id="r",
            shard=0,
            generation=2,
            size=4,
            holder=OURS,
            nonce="2",
            lease_expires=1.0,
            ceiling=1,
        )


@given(st.lists(st.tuples(st.sampled_from(["scored", "unscored", "A", "B"]), st.booleans()), max_size=30), st.data())
def test_totals_of_parts_add_up_to_the_totals_of_the_whole(kinds: list[tuple[str, bool]], data: st.DataObject) -> None:
    attempts = [
        (scored(0.5) if kind == "scored" else Attempt("unscored") if kind == "unscored" else failed(kind), final)
        for kind, final in kinds
    ]
    cut = data.draw(st.integers(0, len(attempts)))
    whole, left, right = Totals(), Totals(), Totals()
    for n, (attempt, final) in enumerate(attempts):
        whole.count(attempt, final)
        (left if n < cut else right).count(attempt, final)
    assert left + right == right + left == whole
    assert whole.attempts == len(attempts)
    assert whole.settled == sum(final for _, final in kinds)
    assert sum(whole.failures.values()) == whole.failed
    assert whole.reward == 0.5 * whole.scored
    assert whole.output_tokens == 2 * sum(kind == "scored" for kind, _ in kinds)


def test_unknown_token_counts_are_no_tokens() -> None:
    totals = Totals()
    totals.count(Attempt("unscored", usage={"policy": {"input_tokens": None}}), final=True)  # type: ignore[dict-item]
    assert (totals.input_tokens, totals.output_tokens) == (0, 0)


def test_taking_failures_back_leaves_the_other_sums() -> None:
    totals = Totals(scored=2, failed=3, attempts=6, reward=1.5, failures={"A": 2, "B": 1})
    assert totals.without({"A": 2}) == Totals(scored=2, failed=1, attempts=6, reward=1.5, failures={"B": 1})
    assert totals.without({}) == totals


def test_keys() -> None:
    assert head_key(7) == "shards/7/head.json"
    assert part_key(7, 2, 0) == "shards/7/2-0.jsonl.zst"
    assert part_key(7, 2, 0, "none") == "shards/7/2-0.jsonl"
    assert [Part(part_key(7, 2, 0, one), 1, 1, "", 1).compression for one in ("zstd", "none")] == ["zstd", "none"]
