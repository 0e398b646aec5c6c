"""What is due, and when.

- *Single flight*: a key is worked on by one task at a time. What comes meanwhile makes it due once more afterwards.
- *Coalescing*: any number of events for a waiting key are one. Two runs of a key lie ``spacing`` apart, so that a burst
  of its children's events costs one run and not one each.
- *Backoff*: a key that failed waits 0.5 s, then up to 5 min, with jitter; never shorter than the server asked for. An
  event cuts that short, not below the first delay: what it tells may be what was missing.
- *Fairness*: namespaces take turns, so that one with a thousand keys delays another by one key.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from kubegym.core.errors import KubeGymError
from kubegym.core.retry import Backoff
from kubegym_operator.reconcile.keys import Key, Result

log = logging.getLogger("kubegym.operator")

Reconcile = Callable[[Key], Awaitable[Result]]
Observe = Callable[[Key, str, float], None]

BACKOFF = Backoff(base=0.5, maximum=300.0)


@dataclass(slots=True)
class _Item:
    """A key's state. ``since`` is when it became due, ``until`` when its backoff ends; on the loop's clock."""

    since: float | None = None
    running: bool = False
    again: bool = False
    failures: int = 0
    until: float = 0.0
    earliest: float = 0.0
    timer: asyncio.TimerHandle | None = None


@dataclass
class Queue:
    """Runs ``reconcile`` for every key that is due.

    Attributes:
        reconcile: what is done with a key.
        workers: how many keys are worked on at a time.
        spacing: seconds between the end of a key's run and the start of its next.
        limit: seconds that a run may take; then it is cancelled and has failed.
        backoff: how long a key waits after a failure.
        rng: where the jitter comes from.
        observe: told the key, how a run ended (``ok`` or the error's reason), and how many seconds it took.
        adds: how often a key was asked for.
        retries: how often a key is tried again after a failure.
    """

    reconcile: Reconcile
    workers: int = 8
    spacing: float = 0.5
    limit: float = 120.0
    backoff: Backoff = BACKOFF
    rng: random.Random = field(default_factory=random.Random)
    observe: Observe = lambda key, result, seconds: None
    adds: int = 0
    retries: int = 0
    _items: dict[Key, _Item] = field(default_factory=dict)
    _ready: OrderedDict[str, OrderedDict[Key, None]] = field(default_factory=OrderedDict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _open: bool = False

    def add(self, key: Key, after: float = 0.0) -> None:
        """Make a key due, now or in some seconds; the earliest of several counts."""
        self.adds += 1
        item = self._items.setdefault(key, _Item())
        if item.running and after <= 0:
            item.again = True
            return
        now = self._now()
        at = max(now + after, item.earliest)
        if at < item.until:
            at = max(at, min(item.until, now + self.backoff.base))
        self._schedule(key, item, at)

    @property
    def depth(self) -> int:
        """How many keys are due and wait for a worker."""
        return sum(len(keys) for keys in self._ready.values())

    @property
    def running(self) -> int:
        """How many keys are being worked on."""
        return len(self._tasks)

    def soon(self, seconds: float) -> int:
        """How many keys will be due within so many seconds."""
        timers = [item.timer.when() for item in self._items.values() if item.timer is not None]
        return sum(at <= self._now() + seconds for at in timers)

    def oldest_age(self) -> float:
        """Seconds since the key that is due for longest, in work or not, became so."""
        since = [item.since for item in self._items.values() if item.since is not None]
        return self._now() - min(since) if since else 0.0

    async def run(self, grace: float = 5.0) -> None:
        """Work until cancelled; then let what is in work end, for at most ``grace`` seconds."""
        self._open = True
        self._pump()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._open = False
            for item in self._items.values():
                if item.timer is not None:
                    item.timer.cancel()
            late = (await asyncio.wait(self._tasks, timeout=grace))[1] if self._tasks else set()
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _schedule(self, key: Key, item: _Item, at: float) -> None:
        if item.since is not None and not item.running:
            return  # due already
        if item.timer is not None:
            if item.timer.when() <= at:
                return
            item.timer.cancel()
            item.timer = None
        if at <= self._now():
            self._due(key, item)
        else:
            item.timer = asyncio.get_running_loop().call_at(at, self._due, key, item)

    def _due(self, key: Key, item: _Item) -> None:
        item.timer = None
        if item.running:
            item.again = True
            return
        item.since = self._now()
        self._ready.setdefault(key.namespace, OrderedDict())[key] = None
        self._pump()

    def _pump(self) -> None:
        """Give due keys to free workers, the namespaces in turns."""
        while self._open and self._ready and len(self._tasks) < self.workers:
            namespace, keys = self._ready.popitem(last=False)
            key, _ = keys.popitem(last=False)
            if keys:
                self._ready[namespace] = keys
            item = self._items[key]
            item.running = True
            task = asyncio.create_task(self._work(key, item), name=str(key))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._pump()

    async def _work(self, key: Key, item: _Item) -> None:
        began = self._now()
        delay: float | None = None
        try:
            async with asyncio.timeout(self.limit):
                result = await self.reconcile(key)
        except Exception as error:
            item.failures += 1
            self.retries += 1
            delay = self.backoff.delay(min(item.failures, 30), self.rng, getattr(error, "retry_after", None))
            reason = self._report(key, error, delay)
            item.until = self._now() + delay
        else:
            reason, delay = "ok", result.requeue_after
            item.failures, item.until = 0, 0.0
        finally:
            item.running, item.since = False, None
            item.earliest = self._now() + self.spacing
        self.observe(key, reason, self._now() - began)
        again, item.again = item.again, False
        if delay is not None:
            if item.timer is not None:  # this run knows better than an earlier one
                item.timer.cancel()
                item.timer = None
            self._schedule(key, item, max(self._now() + delay, item.earliest))
        if again:
            self.add(key)
        elif delay is None:
            asyncio.get_running_loop().call_at(item.earliest, self._forget, key, item)

    def _forget(self, key: Key, item: _Item) -> None:
        if item.timer is None and item.since is None and self._items.get(key) is item:
            del self._items[key]

    def _report(self, key: Key, error: Exception, delay: float) -> str:
        """Log a failure; its reason. What is nobody's fault but ours comes with its trace."""
        if isinstance(error, KubeGymError):
            log.warning("%s: %s: %s; again in %.1f s", key, error.reason, error, delay)
            return error.reason
        if isinstance(error, TimeoutError):
            log.warning("%s: not done after %.0f s; again in %.1f s", key, self.limit, delay)
            return "Timeout"
        log.exception("%s: failed; again in %.1f s", key, delay)
        return "InternalError"
