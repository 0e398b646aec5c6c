"""The shard head: the one object per shard that decides what is committed (DESIGN section 6, steps 2 to 6).

Pure. A head is changed only by compare-and-swap on its ETag; these functions say what the next head is. Every head
that is ever written is unique by ``sequence`` and ``nonce``, so a writer can tell its own write from another's even
where ETags are digests of the content.

States, and who may go from one to the next::

    (absent) ──claim──► Claimed ──commit──► Claimed ──commit, all settled──► Committed
                          ▲  │                                                  │
                          │  └──release (clean stop)──► Released ──claim──┐     │ claim by a later generation
                          └──claim (holder gone or lease over)◄───────────┴─────┘

``epoch`` grows by one at every claim. Together with the ETag it fences: whoever lost the head cannot write it again.
The lease only permits a claim. Rollouts below ``ceiling`` that are not settled were perhaps in flight; after a crash
(the head still Claimed) they are the suspects of the poison rule (step 5).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

import orjson

from kubegym.core.protocols import Attempt
from kubegym.rollout.errors import reading

SCHEMA = 1

State = Literal["Claimed", "Released", "Committed"]

Compression = Literal["zstd", "none"]
"""How a part's rows lie in the store. Its name says it, so that a resume may change it."""


_ENDINGS: Final[Mapping[Compression, str]] = {"zstd": ".zst", "none": ""}


def head_key(shard: int) -> str:
    """``shards/<i>/head.json``."""
    return f"shards/{shard}/head.json"


def part_key(shard: int, epoch: int, number: int, compression: Compression = "zstd") -> str:
    """``shards/<i>/<epoch>-<n>.jsonl.zst``, or ``.jsonl`` where it is not compressed."""
    return f"shards/{shard}/{epoch}-{number}.jsonl{_ENDINGS[compression]}"


@dataclass(frozen=True, slots=True)
class SamplesFile:
    """The Arrow file beside a part. ``rows`` counts samples, ``size`` bytes."""

    rows: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Part:
    """A durable, immutable part object. ``rows`` counts attempts, ``size`` bytes.

    ``samples`` is the file of its rollouts' token ids, where they are kept.
    """

    key: str
    rows: int
    size: int
    sha256: str
    generation: int
    samples: SamplesFile | None = None

    def to_dict(self) -> dict[str, Any]:
        """As heads and manifests have it."""
        raw = asdict(self)
        if self.samples is None:
            del raw["samples"]
        return raw

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Part:
        """The part that ``to_dict`` made. Raises TypeError for another object."""
        samples = raw.get("samples")
        return cls(**raw) if samples is None else cls(**{**raw, "samples": SamplesFile(**samples)})

    @property
    def compression(self) -> Compression:
        """How its rows lie in the store."""
        return "zstd" if self.key.endswith(_ENDINGS["zstd"]) else "none"


@dataclass(slots=True)
class Totals:
    """Running sums over attempts, for progress without reading parts.

    ``scored + unscored + failed`` are settled rollouts, ``stale`` those of them that are not delivered for their
    policy's age; ``attempts`` also counts attempts that were retried.
    """

    scored: int = 0
    unscored: int = 0
    failed: int = 0
    attempts: int = 0
    reward: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    stale: int = 0

    @property
    def settled(self) -> int:
        """Rollouts that have a result."""
        return self.scored + self.unscored + self.failed

    def count(self, attempt: Attempt, final: bool) -> None:
        """Add an attempt; ``final`` when it is the rollout's result."""
        self.attempts += 1
        for usage in attempt.usage.values():
            self.input_tokens += usage.get("input_tokens") or 0
            self.output_tokens += usage.get("output_tokens") or 0
        if not final:
            return
        self.stale += attempt.stale
        if attempt.outcome == "scored":
            self.scored += 1
            self.reward += attempt.reward or 0.0
        elif attempt.outcome == "unscored":
            self.unscored += 1
        else:
            self.failed += 1
            reason = attempt.failure.reason if attempt.failure else "Unknown"
            self.failures[reason] = self.failures.get(reason, 0) + 1

    def __add__(self, other: Totals) -> Totals:
        """The sums of both."""
        failures = dict(self.failures)
        for reason, count in other.failures.items():
            failures[reason] = failures.get(reason, 0) + count
        return Totals(
            self.scored + other.scored,
            self.unscored + other.unscored,
            self.failed + other.failed,
            self.attempts + other.attempts,
            self.reward + other.reward,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            failures,
            self.stale + other.stale,
        )

    def without(self, failures: dict[str, int]) -> Totals:
        """These sums with some failed rollouts taken back (they run again in a retry generation)."""
        left = {reason: count - failures.get(reason, 0) for reason, count in self.failures.items()}
        return replace(
            self,
            failed=self.failed - sum(failures.values()),
            failures={reason: count for reason, count in left.items() if count},
        )


@dataclass(frozen=True, slots=True)
class Holder:
    """Who may hold shards: a RolloutJob (``uid``), or one process of one machine.

    A local holder is known by host, boot and process, so that its death can be seen (``kubegym.rollout.holder``).
    """

    id: str
    worker: str


@dataclass(frozen=True, slots=True)
class Head:
    """One version of a shard's head.

    Attributes:
        run_id, shard, generation: what it belongs to.
        size: planned rollouts of this generation; ``settled`` is the bitmap of their ordinals that have a result.
        ceiling: ordinals from here on were never admitted in this epoch.
        sequence: grows with every write; ``nonce`` is unique to a write.
        lease_expires: wall-clock seconds; 0 when nobody holds it.
    """

    run_id: str
    shard: int
    generation: int
    size: int
    state: State
    epoch: int
    sequence: int
    nonce: str
    holder: Holder
    lease_expires: float
    settled: int = 0
    ceiling: int = 0
    parts: tuple[Part, ...] = ()
    totals: Totals = field(default_factory=Totals)

    @property
    def complete(self) -> bool:
        """Whether every planned rollout of the generation is settled."""
        return self.settled == full(self.size)

    def remaining(self) -> Iterator[int]:
        """Planned ordinals without a result, ascending."""
        return (ordinal for ordinal in range(self.size) if not self.settled >> ordinal & 1)

    def to_json(self) -> bytes:
        """``head.json``."""
        bitmap = self.settled.to_bytes((self.size + 7) // 8, "little")
        totals = self.totals
        return orjson.dumps(
            {
                "schema": SCHEMA,
                "run_id": self.run_id,
                "shard": self.shard,
                "generation": self.generation,
                "state": self.state,
                "size": self.size,
                "epoch": self.epoch,
                "sequence": self.sequence,
                "nonce": self.nonce,
                "holder": {"id": self.holder.id, "worker": self.holder.worker},
                "lease_expires": self.lease_expires,
                "settled": b64encode(bitmap).decode(),
                "ceiling": self.ceiling,
                "parts": [part.to_dict() for part in self.parts],
                "totals": {
                    "scored": totals.scored,
                    "unscored": totals.unscored,
                    "failed": totals.failed,
                    "attempts": totals.attempts,
                    "reward": totals.reward,
                    "input_tokens": totals.input_tokens,
                    "output_tokens": totals.output_tokens,
                    "failures": totals.failures,
                    "stale": totals.stale,
                },
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> Head:
        """The head a ``head.json`` holds. Raises CorruptRecord."""
        with reading("shard head"):
            raw: dict[str, Any] = orjson.loads(data)
            raw.pop("schema")
            raw["holder"] = Holder(**raw["holder"])
            raw["settled"] = int.from_bytes(b64decode(raw["settled"]), "little")
            raw["parts"] = tuple(Part.from_dict(part) for part in raw["parts"])
            raw["totals"] = Totals(**raw["totals"])
            return cls(**raw)


def full(size: int) -> int:
    """The bitmap of ``size`` settled ordinals."""
    return (1 << size) - 1


Claim = Literal["take", "done", "held", "in_use"]


def judge_claim(head: Head | None, generation: int, holder: Holder, now: float, gone: bool) -> Claim:
    """Whether a shard may be claimed.

    Args:
        head: what the store holds.
        generation: the claimant's.
        holder: the claimant.
        now: wall-clock seconds.
        gone: whether the head's holder is known to be dead (process gone, job ended).

    Returns:
        ``take``; ``done`` (this generation is committed, as it must be before a later one begins); ``held`` (by a live
        worker of the same holder); ``in_use`` (by another live holder).
    """
    if head is None:
        return "take"
    if head.generation > generation or (head.generation == generation and head.state == "Committed"):
        return "done"
    if head.state != "Claimed" or gone or now >= head.lease_expires:
        return "take"
    return "held" if head.holder.id == holder.id else "in_use"


def claimed(
    head: Head | None,
    *,
    run_id: str,
    shard: int,
    generation: int,
    size: int,
    holder: Holder,
    nonce: str,
    lease_expires: float,
    ceiling: int,
    retried: dict[str, int] | None = None,
) -> Head:
    """The head after a claim: a new epoch. A later generation starts with an empty bitmap and keeps all parts.

    ``retried`` counts the failed rollouts (by reason) that the new generation runs again.
    """
    if head is None:
        return Head(run_id, shard, generation, size, "Claimed", 1, 1, nonce, holder, lease_expires, ceiling=ceiling)
    if head.generation > generation:
        raise ValueError(f"shard {shard} is in generation {head.generation} already, not {generation}")
    fresh = head.generation < generation
    return replace(
        head,
        generation=generation,
        size=size,
        state="Claimed",
        epoch=head.epoch + 1,
        sequence=head.sequence + 1,
        nonce=nonce,
        holder=holder,
        lease_expires=lease_expires,
        settled=0 if fresh else head.settled,
        ceiling=ceiling,
        totals=head.totals.without(retried or {}) if fresh else head.totals,
    )


def committed(
    head: Head,
    *,
    part: Part | None,
    settled: Iterable[int],
    totals: Totals,
    nonce: str,
    lease_expires: float,
    ceiling: int | None = None,
) -> Head:
    """The head after a flush: one more part, more ordinals settled. Becomes Committed when all are.

    Also renews the lease; with no part it is a renewal, or raises the ceiling.

    Raises:
        ValueError: an ordinal is settled already (a result is never replaced within a generation) or not planned.
    """
    bitmap = head.settled
    for ordinal in settled:
        if not 0 <= ordinal < head.size or bitmap >> ordinal & 1:
            raise ValueError(f"ordinal {ordinal} of shard {head.shard} is settled already, or not planned")
        bitmap |= 1 << ordinal
    done = bitmap == full(head.size)
    return replace(
        head,
        state="Committed" if done else "Claimed",
        sequence=head.sequence + 1,
        nonce=nonce,
        lease_expires=0.0 if done else lease_expires,
        settled=bitmap,
        ceiling=head.ceiling if ceiling is None else max(head.ceiling, ceiling),
        parts=(*head.parts, part) if part else head.parts,
        totals=head.totals + totals,
    )


def released(head: Head, nonce: str) -> Head:
    """The head after a clean stop: nothing is in flight, anyone may claim."""
    return replace(head, state="Released", sequence=head.sequence + 1, nonce=nonce, lease_expires=0.0, ceiling=0)


def suspects(head: Head) -> list[int]:
    """Ordinals that were perhaps in flight when a holder died without releasing; empty after a clean stop."""
    if head.state != "Claimed":
        return []
    return [ordinal for ordinal in head.remaining() if ordinal < head.ceiling]
