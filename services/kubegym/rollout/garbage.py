"""What a run left in its output that no reader ever sees: parts of workers that lost their shard before the swap.

A part is written first and then added to its head; a worker that was fenced or killed between the two leaves it
behind. Such a part can never be added any more once another holder has taken the shard, as the epoch and the ETag
fence. Those of the epoch that is going on are left alone: their swap may be on its way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from kubegym.rollout.head import Head
from kubegym.rollout.reader import NoSuchRun, newest_plan, read_heads
from kubegym.storage.protocol import ObjectStore

_PART = re.compile(r"^shards/(?P<shard>\d+)/(?P<epoch>\d+)-\d+\.(?:jsonl(?:\.zst)?|samples\.arrow)$")


def unreachable(keys: Iterable[str], heads: Mapping[int, Head], run_id: str) -> list[str]:
    """The keys of parts that no head has and none can ever get, sorted.

    Args:
        keys: what the store holds.
        heads: of the shards, read after ``keys`` were listed.
        run_id: the run's; shards of another run are left alone.
    """
    found = []
    for key in keys:
        match = _PART.match(key)
        head = heads.get(int(match["shard"])) if match else None
        if match is None or head is None or head.run_id != run_id:
            continue
        if _stem(key) in {_stem(part.key) for part in head.parts}:
            continue
        last_over = head.epoch if head.state == "Committed" else head.epoch - 1
        if int(match["epoch"]) <= last_over:
            found.append(key)
    return sorted(found)


async def garbage(store: ObjectStore) -> list[str]:
    """The keys that may be deleted from a run's output. Lists the store, which may take long.

    Raises:
        NoSuchRun: there is no ``plan.json``.
    """
    plan = await newest_plan(store)
    if plan is None:
        raise NoSuchRun(f"{store.url} holds no run (there is no plan.json)")
    keys = [key async for key in store.list("shards")]
    shards = sorted({int(match["shard"]) for key in keys if (match := _PART.match(key))})
    return unreachable(keys, await read_heads(store, shards), plan.run_id)


def _stem(key: str) -> str:
    """A part's key without its ending: a part and the samples beside it go together."""
    folder, _, name = key.rpartition("/")
    return f"{folder}/{name.partition('.')[0]}"
