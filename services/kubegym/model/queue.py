"""The queue before an engine: so many calls at work, so many waiting, and a fair share for every run.

An engine's own queue knows no runs: whoever sends most is served most, and beyond its length it breaks. Here the next
free place goes to the run with the fewest calls at work, and where the queue is full the run that fills it gives way.
"""

from __future__ import annotations

import asyncio

from kubegym.model.errors import ModelOverloaded

AT_WORK = 1024
"""Calls that an engine gets at once; vLLM itself batches a few hundred."""
WAITING = 15_360
"""Calls that wait; a waiting one holds its request's body in memory."""
WAIT_SECONDS = 30.0
"""The longest that a call waits here; then its caller does, who can ask another replica."""
_MOST_SECONDS = 30.0
_SMOOTHING = 0.05


class FairQueue:
    """Admits calls; of one event loop. ``enter`` and ``leave`` belong together.

    Args:
        at_work: the most calls at the engine at once.
        waiting: the most calls that wait.
        wait_seconds: the longest that one waits.

    Attributes:
        working: calls at the engine.
        waiting: calls that wait.
        refused: calls that found the queue full, or waited too long.
    """

    def __init__(self, at_work: int = AT_WORK, waiting: int = WAITING, *, wait_seconds: float = WAIT_SECONDS) -> None:
        if at_work < 1 or waiting < 0:
            raise ValueError("a queue lets at least one call in")
        self.working = 0
        self.waiting = 0
        self._pauses: set[str] = set()
        self.refused = 0
        self._at_work = at_work
        self._most_waiting = waiting
        self._wait_seconds = wait_seconds
        self._shares: dict[str, int] = {}  # calls at work, by run
        self._lines: dict[str, dict[asyncio.Future[None], None]] = {}  # by run, in the order in which they came
        self._seconds = 1.0  # how long a call takes, smoothed
        self._idle: asyncio.Event | None = None

    async def enter(self, run: str) -> float:
        """Wait for a place; the seconds that took.

        Args:
            run: who asks.

        Raises:
            ModelOverloaded: no place in the queue, or none at the engine in time; says when to come back.
        """
        if self.working < self._at_work and not self.waiting and not self.paused:
            self._let_in(run)
            return 0.0
        if self.waiting >= self._most_waiting:
            self._make_room(run)
        loop = asyncio.get_running_loop()
        place: asyncio.Future[None] = loop.create_future()
        self._lines.setdefault(run, {})[place] = None
        self.waiting += 1
        began = loop.time()
        self._fill()
        try:
            async with asyncio.timeout(self._wait_seconds):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.leave(run)  # let in at the very moment
            else:
                self._step_out(run, place)
            if isinstance(error, TimeoutError):
                self.refused += 1
                raise self._full(f"the call waited {self._wait_seconds:g} s for the engine") from None
            raise
        return loop.time() - began

    def leave(self, run: str, seconds: float | None = None) -> None:
        """A call is over.

        Args:
            run: whose it was.
            seconds: how long it took, for the advice when to come back.
        """
        self.working -= 1
        left = self._shares[run] - 1
        if left:
            self._shares[run] = left
        else:
            del self._shares[run]
        if seconds is not None:
            self._seconds += _SMOOTHING * (seconds - self._seconds)
        self._fill()
        if not self.working and self._idle is not None:
            self._idle.set()

    @property
    def paused(self) -> bool:
        """Whether nobody is let in."""
        return bool(self._pauses)

    def pause(self, why: str = "paused") -> None:
        """Let nobody in until ``resume`` for the same reason; who is at work finishes."""
        self._pauses.add(why)

    def resume(self, why: str = "paused") -> None:
        """Let calls in again, unless there is another reason not to."""
        self._pauses.discard(why)
        self._fill()

    async def idle(self) -> None:
        """Wait until no call is at work."""
        while self.working:
            self._idle = asyncio.Event()
            await self._idle.wait()
        self._idle = None

    def _let_in(self, run: str) -> None:
        self.working += 1
        self._shares[run] = self._shares.get(run, 0) + 1

    def _fill(self) -> None:
        """Give free places to those who wait: next is the run with the fewest at work, in turn among equals."""
        while self.waiting and self.working < self._at_work and not self.paused:
            run = min(self._lines, key=lambda name: self._shares.get(name, 0))
            line = self._lines.pop(run)
            place = next(iter(line))
            del line[place]
            if line:
                self._lines[run] = line  # behind the others
            self.waiting -= 1
            if not place.done():
                self._let_in(run)
                place.set_result(None)

    def _make_room(self, run: str) -> None:
        """Let the newest call of the run with the most waiting go, if this run has less than its share. Raises."""
        self.refused += 1
        share = self._most_waiting // (len(self._lines) + (run not in self._lines)) if self._lines else 0
        longest = max(self._lines, key=lambda name: len(self._lines[name]), default=run)
        if len(self._lines.get(run, ())) >= share or len(self._lines.get(longest, ())) <= share:
            raise self._full(f"{self.waiting} calls wait for the engine already")
        place, _ = self._lines[longest].popitem()
        if not self._lines[longest]:
            del self._lines[longest]
        self.waiting -= 1
        if not place.done():
            place.set_exception(self._full("the engine's queue is full, and other runs have waited for less"))

    def _step_out(self, run: str, place: asyncio.Future[None]) -> None:
        line = self._lines.get(run)
        if line is None or place not in line:
            return
        del line[place]
        self.waiting -= 1
        if not line:
            del self._lines[run]

    def _full(self, text: str) -> ModelOverloaded:
        ahead = self._seconds * (self.waiting + 1) / self._at_work
        return ModelOverloaded(text, status=429, retry_after=min(_MOST_SECONDS, max(1.0, ahead)))
