"""Who writes the plan: one worker, while the others wait for it (DESIGN section 6, step 1).

Writing ``plan.json`` is create-only, so that two planners could do no harm; but a planner checks every row first, and
that is worth doing once. So whoever plans holds ``plan.lease.json``, by the rules of a shard's head: compare-and-swap,
and a lease that only permits the claim. Worker 0 goes first; another goes when it is late, or its lease has lapsed.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import orjson

from kubegym.core.errors import StoreError
from kubegym.core.retry import Backoff
from kubegym.rollout import Draft, Holder, Opened, Plan, StoreAccess, open_plan
from kubegym.rollout.errors import reading
from kubegym.rollout.manifest import manifest_key
from kubegym.rollout.reader import newest_plan
from kubegym.storage.errors import Conflict
from kubegym.storage.protocol import ObjectStore

LEASE_KEY = "plan.lease.json"
PATIENCE = Backoff(base=0.1, maximum=2.0)
HEAD_START_SECONDS = 3.0
"""How long the other workers leave the plan to worker 0."""


@dataclass(frozen=True)
class _Lease:
    holder: Holder
    nonce: str
    expires: float

    def to_json(self) -> bytes:
        return orjson.dumps(
            {"id": self.holder.id, "worker": self.holder.worker, "nonce": self.nonce, "expires": self.expires}
        )

    @classmethod
    def from_json(cls, data: bytes) -> _Lease:
        with reading("planner's lease"):
            raw = orjson.loads(data)
            return cls(Holder(raw["id"], raw["worker"]), raw["nonce"], float(raw["expires"]))


async def open_shared(
    access: StoreAccess,
    draft: Draft,
    check: Callable[[], Awaitable[None]],
    *,
    first: bool = True,
    patience: Backoff = PATIENCE,
) -> Opened:
    """The plan to work on, written by this worker or another.

    Args:
        access: the store and who asks.
        draft: what is asked for.
        check: raises where the run cannot be; awaited before this worker writes a plan.
        first: whether it goes first.
        patience: pauses between two looks.

    Raises:
        PlanConflict: the store holds a run of something else.
        StoreError: the store stayed unreachable.
    """
    loop = asyncio.get_running_loop()
    turn = loop.time() + (0.0 if first else HEAD_START_SECONDS)
    looks = 0
    while True:
        if not await access.retrying(lambda: needs_plan(access.store, draft)):
            return await access.retrying(lambda: open_plan(access.store, draft, access.clock))
        async with _leased(access, loop.time() >= turn) as mine:
            if mine:
                if await needs_plan(access.store, draft):  # nobody was faster between the look and the lease
                    await check()
                return await access.retrying(lambda: open_plan(access.store, draft, access.clock))
        looks = min(looks + 1, 16)
        await asyncio.sleep(patience.delay(looks, access.rng))


async def needs_plan(store: ObjectStore, draft: Draft) -> bool:
    """Whether nobody has planned yet what is asked for. An unfinished generation comes before any growth."""
    stored = await newest_plan(store)
    if stored is None:
        return True
    return not covers(stored, draft) and await store.get(manifest_key(stored.generation)) is not None


def covers(plan: Plan, draft: Draft) -> bool:
    """Whether a plan has as much as is asked for."""
    return plan.planned >= sum(want.rows * want.rollouts for want in draft.wanted)


@asynccontextmanager
async def _leased(access: StoreAccess, may_begin: bool) -> AsyncIterator[bool]:
    """Whether the lease is ours while the block runs; it is renewed meanwhile, and given back."""
    etag = await _take(access, may_begin)
    if etag is None:
        yield False
        return
    renewing = asyncio.create_task(_renew(access, etag), name="plan lease")
    try:
        yield True
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        with contextlib.suppress(StoreError):  # it lapses by itself
            await access.store.delete(LEASE_KEY)


async def _take(access: StoreAccess, may_begin: bool) -> str | None:
    """The ETag of our lease; None where another has it, or it is not our turn."""
    stored = await access.retrying(lambda: access.store.get(LEASE_KEY))
    mine = _Lease(access.holder, secrets.token_hex(16), access.lease())
    try:
        if stored is None:
            return await access.store.create(LEASE_KEY, mine.to_json()) if may_begin else None
        theirs = _Lease.from_json(stored.data)
        if access.clock.time() < theirs.expires and not access.gone(theirs.holder):
            return None
        return await access.store.swap(LEASE_KEY, mine.to_json(), stored.etag)
    except Conflict:
        pass
    except StoreError as error:
        if not error.retryable:
            raise
    found = await access.retrying(lambda: access.store.get(LEASE_KEY))  # did it take effect all the same?
    return found.etag if found is not None and _Lease.from_json(found.data).nonce == mine.nonce else None


async def _renew(access: StoreAccess, etag: str) -> None:
    """Until cancelled, or the lease is another's: then both plan, of whom one writes."""
    mine = _Lease(access.holder, "", 0.0)
    while True:
        await asyncio.sleep(access.lease_seconds / 3)
        mine = replace(mine, nonce=secrets.token_hex(16), expires=access.lease())
        try:
            etag = await access.store.swap(LEASE_KEY, mine.to_json(), etag)
        except Conflict:
            return
        except StoreError as error:
            if not error.retryable:
                return
