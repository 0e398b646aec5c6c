"""The whole truth, every few minutes: a LIST of everything, compared with what the watches have told.

It fills the cache at the start, in pages, so that a restarted operator knows everything within seconds. Later it finds
what a watch that died has kept from us, which costs a repair and not a wrong decision: what it brings into the cache
makes its keys due as an event does. Every key is looked at again as well, which costs no write where nothing changed.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from kubegym_operator.kube.errors import KindNotServed, KubeError
from kubegym_operator.kube.protocol import Kind, KubeApi, Object, ObjectKey, key_of
from kubegym_operator.reconcile.cache import Cache
from kubegym_operator.reconcile.keys import Key
from kubegym_operator.reconcile.watched import CHILDREN, MANAGED, OWN

log = logging.getLogger("kubegym.operator")

Due = Callable[[Key, float], None]

_RETRY_SECONDS = 15.0
_SETTLE_SECONDS = 10.0


@dataclass
class Resync:
    """Lists everything.

    Attributes:
        api: the API server.
        cache: what is compared and filled.
        due: makes a key due in some seconds.
        missed: told how many changes the watches had not brought, of a kind.
        namespaces: None means all.
        period: seconds between two.
        spread: seconds over which the keys of one are made due.
        settle: seconds that a watch has to bring what a list shows, before that counts as missed.
        rng: for the spread.
        last: when the last one ended, on the loop's clock; None before the first.
    """

    api: KubeApi
    cache: Cache
    due: Due
    missed: Callable[[Kind, int], None] = lambda kind, count: None
    namespaces: Sequence[str] | None = None
    period: float = 420.0
    spread: float = 60.0
    settle: float = _SETTLE_SECONDS
    rng: random.Random = field(default_factory=random.Random)
    last: float | None = None

    async def fill(self) -> None:
        """Bring everything into the cache; the first time, before anything is decided. Raises KubeError."""
        for kind in (*OWN, *CHILDREN):
            await self._read(kind, self.cache.put)
        self.last = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Once in each period, until cancelled. A failure is logged and tried again sooner."""
        while True:
            wait = self.period * (0.9 + 0.2 * self.rng.random())
            try:
                await asyncio.sleep(wait)
                await self.check()
            except KubeError as error:
                log.warning("resync: %s: %s", error.reason, error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def check(self) -> None:
        """Compare everything, repair, and make every key due. Raises KubeError."""
        for kind in (*OWN, *CHILDREN):
            await self._compare(kind)
        self.last = asyncio.get_running_loop().time()
        for kind in OWN:
            for key in self.cache.keys(kind):
                self.due(Key(kind.kind, key.namespace, key.name), self.rng.random() * self.spread)

    async def _compare(self, kind: Kind) -> None:
        """What a list shows and the watches have not told even a while later is missed, and put right.

        An object that is not in the list, but was known before it and has not changed since, is gone.
        """
        before = {key: self.cache.version(key) for key in self.cache.keys(kind)}
        listed: set[ObjectKey] = set()
        unknown: set[ObjectKey] = set()

        def look(obj: Object) -> None:
            key = key_of(obj)
            listed.add(key)
            if not self.cache.knows(obj):
                unknown.add(key)

        if not await self._read(kind, look):
            listed, unknown = set(), set()
        vanished = {key for key in before.keys() - listed if self.cache.version(key) == before[key]}
        if unknown or vanished:
            await asyncio.sleep(self.settle)
        missed = 0
        for key in sorted(unknown | vanished):
            missed += await self._repair(key, before.get(key))
        if missed:
            log.warning("resync: the watch of %s had missed %d changes", kind.kind, missed)
            self.missed(kind, missed)

    async def _repair(self, key: ObjectKey, before: tuple[str, int] | None) -> int:
        """Look at one object itself, and put right what is known of it; 1 where that was wrong."""
        if self.cache.version(key) != before:
            return 0  # the watch has told meanwhile
        try:
            found = await self.api.get(key.kind, key.namespace or None, key.name)
        except KindNotServed:
            found = None
        if found is not None and _meant(found):
            return int(self.cache.put(found))
        known = self.cache.get(*key)
        return int(known is not None and self.cache.remove(known))

    async def _read(self, kind: Kind, each: Callable[[Object], object]) -> bool:
        """Every listed object of a kind; False where the kind is not installed."""
        labels = None if kind in OWN else MANAGED
        spaces: Collection[str | None] = self.namespaces if self.namespaces is not None else (None,)
        try:
            for space in spaces:
                async for page in self.api.pages(kind, space, labels=labels):
                    for obj in page:
                        each(obj)
                    await asyncio.sleep(0)  # thousands of objects: others have a turn between the pages
        except KindNotServed:
            return False
        return True


def _meant(obj: Object) -> bool:
    name, _, value = MANAGED.partition("=")
    return key_of(obj).kind in OWN or (obj["metadata"].get("labels") or {}).get(name) == value
