"""Replicas that take calls and say nothing, although they may call themselves healthy.

No limit on one call tells: a reply that is not streamed comes when all of it is made, after many minutes perhaps. A
replica is looked at when it has calls open and none of them brought a byte for some time; whether it is at work then is
for those to say who know it. One that is not is silent: its calls are cut, so that they can go elsewhere, and nobody
is sent there before it has answered a trial.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from kubegym.http.replicas import Replica

SECONDS = 30.0
"""Without a byte from a replica with calls open, before it is looked at."""
TRIAL_SECONDS = 5.0
"""Between two trials of a silent replica."""

log = logging.getLogger("kubegym.http")

Look = Callable[[Replica], Awaitable[bool]]


@dataclass(slots=True)
class _Watched:
    heard: float
    calls: set[asyncio.Timeout] = field(default_factory=set)
    noted: bool = False
    busy: asyncio.Task[None] | None = None


class Watch:
    """Looks after the open calls of some replicas; of one event loop. Costs nothing while no call is open.

    Args:
        at_work: whether a replica made progress since ``note`` was last called; asked when it is silent.
        answers: whether a silent replica answers again; the trial.
        note: told half way, for what ``at_work`` compares with.
        seconds: see ``SECONDS``.
    """

    def __init__(self, at_work: Look, answers: Look, *, note: Look | None = None, seconds: float = SECONDS) -> None:
        self._at_work = at_work
        self._answers = answers
        self._note = note
        self._seconds = seconds
        self._watched: dict[Replica, _Watched] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._trials: dict[Replica, asyncio.Task[None]] = {}
        self.found = 0
        """Replicas found silent so far."""

    def begin(self, replica: Replica, scope: asyncio.Timeout) -> None:
        """A call begins; ``scope`` ends it with TimeoutError where the replica turns out to be silent."""
        loop = asyncio.get_running_loop()
        watched = self._watched.get(replica)
        if watched is None:
            watched = self._watched[replica] = _Watched(loop.time())
        elif not watched.calls:
            watched.heard, watched.noted = loop.time(), False
        watched.calls.add(scope)
        if self._timer is None:
            self._timer = loop.call_later(self._seconds / 6, self._tick)

    def end(self, replica: Replica, scope: asyncio.Timeout, heard: bool) -> None:
        """The call is over; ``heard``: it brought a byte."""
        watched = self._watched[replica]
        watched.calls.discard(scope)
        if heard:
            watched.heard, watched.noted = asyncio.get_running_loop().time(), False

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in [*self._trials.values(), *(w.busy for w in self._watched.values() if w.busy is not None)]:
            task.cancel()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for replica, watched in list(self._watched.items()):
            if not watched.calls:
                if replica.gone:
                    del self._watched[replica]
                continue
            silence = now - watched.heard
            if watched.busy is not None and not watched.busy.done():
                continue
            if silence >= self._seconds / 2 and not watched.noted and self._note is not None:
                watched.noted = True
                watched.heard = now - self._seconds / 2  # this process may have stood still: half the time is to come
                watched.busy = loop.create_task(self._take_note(self._note, replica), name="watch")
            elif silence >= self._seconds:
                watched.busy = loop.create_task(self._look(replica, watched), name="watch")
        open_calls = any(watched.calls for watched in self._watched.values())
        self._timer = loop.call_later(self._seconds / 6, self._tick) if open_calls else None

    async def _take_note(self, note: Look, replica: Replica) -> None:
        await note(replica)

    async def _look(self, replica: Replica, watched: _Watched) -> None:
        before = watched.heard
        if await self._at_work(replica):
            watched.heard, watched.noted = asyncio.get_running_loop().time(), False
            return
        if watched.heard != before:
            return  # It spoke while we looked.
        self.found += 1
        log.warning("%s has calls open and makes no progress: they go elsewhere", replica.url.shown)
        replica.rest(math.inf)
        now = asyncio.get_running_loop().time()
        for scope in watched.calls:
            scope.reschedule(now)
        if replica not in self._trials:
            task = asyncio.create_task(self._try_again(replica), name="trial")
            self._trials[replica] = task
            task.add_done_callback(lambda _: self._trials.pop(replica, None))

    async def _try_again(self, replica: Replica) -> None:
        while not replica.gone:
            await asyncio.sleep(TRIAL_SECONDS)
            if await self._answers(replica):
                log.info("%s answers again", replica.url.shown)
                replica.heal()
                return
