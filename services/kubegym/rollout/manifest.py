"""The manifest: what a run consists of, written once when all is settled (DESIGN section 6, step 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from kubegym.core.ids import digest
from kubegym.rollout.errors import IncompleteRun, reading
from kubegym.rollout.head import Head, Part, Totals
from kubegym.rollout.plan import Plan
from kubegym.storage.errors import Conflict
from kubegym.storage.protocol import ObjectStore

SCHEMA = 1
INCOMPLETE_KEY = "manifest.incomplete.json"


def manifest_key(generation: int) -> str:
    """``manifest.json``, later ``manifest-<n>.json``."""
    return "manifest.json" if generation == 1 else f"manifest-{generation}.json"


@dataclass(frozen=True)
class Manifest:
    """The parts of a run, by shard and in order, and what they sum up to.

    An incomplete one lists what is committed so far. Readers follow it and never list the store.
    """

    run_id: str
    name: str
    generation: int
    plan_digest: str
    complete: bool
    written: float
    planned: int
    totals: Totals
    shards: Mapping[int, tuple[Part, ...]] = field(repr=False)

    @property
    def parts(self) -> int:
        """How many part objects it names."""
        return sum(len(parts) for parts in self.shards.values())

    def to_json(self) -> bytes:
        """``manifest.json``."""
        totals = self.totals
        shards = [
            {"shard": index, "parts": [part.to_dict() for part in parts]}
            for index, parts in sorted(self.shards.items())
        ]
        body: dict[str, Any] = {
            "schema": SCHEMA,
            "run_id": self.run_id,
            "name": self.name,
            "generation": self.generation,
            "plan_digest": self.plan_digest,
            "complete": self.complete,
            "written": self.written,
            "rollouts": {
                "planned": self.planned,
                "scored": totals.scored,
                "unscored": totals.unscored,
                "failed": totals.failed,
                "failures": totals.failures,
                "stale": totals.stale,
                "attempts": totals.attempts,
            },
            "reward_sum": totals.reward,
            "tokens": {"input": totals.input_tokens, "output": totals.output_tokens},
            "parts_digest": digest(orjson.dumps(shards)),
            "shards": shards,
        }
        return orjson.dumps(body, option=orjson.OPT_INDENT_2)

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """The manifest a ``manifest.json`` holds. Raises CorruptRecord."""
        with reading("manifest"):
            raw = orjson.loads(data)
            rollouts = raw["rollouts"]
            totals = Totals(
                rollouts["scored"],
                rollouts["unscored"],
                rollouts["failed"],
                rollouts["attempts"],
                raw["reward_sum"],
                raw["tokens"]["input"],
                raw["tokens"]["output"],
                rollouts["failures"],
                rollouts.get("stale", 0),
            )
            shards = {entry["shard"]: tuple(Part.from_dict(part) for part in entry["parts"]) for entry in raw["shards"]}
            return cls(
                raw["run_id"],
                raw["name"],
                raw["generation"],
                raw["plan_digest"],
                raw["complete"],
                raw["written"],
                rollouts["planned"],
                totals,
                shards,
            )


def build_manifest(plan: Plan, heads: Mapping[int, Head], now: float, *, open_ended: bool = False) -> Manifest:
    """The manifest of what the heads have committed. Complete when every planned rollout is settled.

    Args:
        plan: the newest generation's plan.
        heads: the heads that exist, by shard.
        now: wall-clock seconds.
        open_ended: the plan is a stream's, whose shards stand in no table: what the heads hold is what was planned.
    """
    heads = {index: head for index, head in heads.items() if head.run_id == plan.run_id}  # others' are not results here
    totals = Totals()
    for head in heads.values():
        totals = totals + head.totals
    if open_ended:
        planned = sum(head.size for head in heads.values())
        complete = all(head.state == "Committed" for head in heads.values())
    else:
        planned = plan.planned
        complete = all(_settled(heads.get(shard.index), plan.generation) for shard in plan.work())
        complete = complete and totals.settled == planned
    shards = {index: head.parts for index, head in heads.items() if head.parts}
    return Manifest(plan.run_id, plan.name, plan.generation, plan.digest, complete, now, planned, totals, shards)


def _settled(head: Head | None, generation: int) -> bool:
    return head is not None and head.generation >= generation and head.state == "Committed"


async def finalise(store: ObjectStore, manifest: Manifest) -> Manifest:
    """Write the manifest, create-only; the one in the store when another finaliser was first.

    Raises:
        IncompleteRun: planned rollouts are missing; nothing was written.
    """
    if not manifest.complete:
        missing = manifest.planned - manifest.totals.settled
        raise IncompleteRun(f"{missing} of {manifest.planned} rollouts have no result yet")
    key = manifest_key(manifest.generation)
    try:
        await store.create(key, manifest.to_json())
    except Conflict:
        stored = await store.get(key)
        if stored is None:
            raise
        manifest = Manifest.from_json(stored.data)
    await store.delete(INCOMPLETE_KEY)
    return manifest


async def write_incomplete(store: ObjectStore, manifest: Manifest) -> None:
    """Leave ``manifest.incomplete.json``, replacing an earlier one, for readers of a run that goes on later."""
    await store.put(INCOMPLETE_KEY, manifest.to_json())
