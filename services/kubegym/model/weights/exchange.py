"""One replica's weights: announced, brought here, exchanged, proven, and put back where they do not prove.

=====================  ========  ===========================================================================
phase                  serves    what is done
=====================  ========  ===========================================================================
(none)                 yes       now and then a look whether the engine still has what it was given
``fetching``           yes       the files come, and are looked at
``draining``           no        nobody is let in; who is at the engine ends, is given up, or stays (``onUpdate``)
``loading``            no        the engine takes them
``proving``            no        it is asked the canary's sequences; who stayed goes on, and is told nothing yet
``restoring``          no        they did not prove: the last good ones again, and their canary
=====================  ========  ===========================================================================

Every call is served by one version, which is the one of the moment it was let in: versions change only while no call is
at the engine, but for those that stay (``onUpdate: Continue``), of which the engine tells what it made by which weights
(``model.kept``). What did not prove serves nobody: calls that stayed are given up then. Where the last good weights do
not prove either, the replica stays out and asks to be started anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from kubegym.core.spec.model import Weights
from kubegym.model.holds import Holds
from kubegym.model.kept import KeptCalls
from kubegym.model.queue import FairQueue
from kubegym.model.weights.canary import CANARY_FILE, Canary
from kubegym.model.weights.checkpoint import Kind
from kubegym.model.weights.engines import WeightsEngine
from kubegym.model.weights.errors import WeightsError
from kubegym.model.weights.places import Places
from kubegym.model.weights.served import Served, Start, read_announced

UPDATING: Final = "weights"
_ASKED: Final = "canary"
LOOK_SECONDS: Final = 2.0
"""Between two looks at what the engine has; an engine that starts anew takes longer than that."""
FINISH_SECONDS: Final = 3600.0
"""The longest that calls at the engine may take to end; then they are given up."""
RETRY_SECONDS: Final = 10.0
"""Until a new replica tries again to get the weights it shall begin with."""
GIVE_UP_SECONDS: Final = 60.0
"""The longest that calls that are given up may take to end."""
_ALONE_SECONDS: Final = 60.0
_GIVE_UP_EVERY: Final = 0.2
_LOOK_AT_OTHERS: Final = 0.02

log = logging.getLogger("kubegym.model")


@dataclass(slots=True)
class _State:
    """What is told of an exchange."""

    phase: str | None = None
    target: int | None = None
    failure: dict[str, Any] | None = None
    restart: bool = False
    gap: float | None = None


class Exchange:
    """The weights of one replica.

    Args:
        engine: serves them.
        holds: where it says that it serves nobody.
        queue: lets nobody in meanwhile.
        places: where announced weights come from.
        start: see ``Start``.
        look_seconds: between two looks at the engine.
    """

    def __init__(
        self,
        engine: WeightsEngine,
        holds: Holds,
        queue: FairQueue,
        places: Places,
        start: Start,
        *,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._engine = engine
        self._holds = holds
        self._queue = queue
        self._places = places
        self._start = start
        self._look_seconds = look_seconds
        self._good = Served(version=start.version)
        self._base: str | None = ""  # label of the full weights that the engine has; None: of none that is known
        self._sound = True  # the engine has weights, and may be asked
        self._serves = True  # it has some that this replica may serve
        self._state = _State(target=start.version)
        self._next: Weights | None = None
        self._wake = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    @property
    def version(self) -> int | None:
        """Of what a call that is let in now is answered with."""
        return self._good.version

    def begin(self) -> None:
        """From now on the replica serves what was announced, as soon as the engine answers."""
        announced = read_announced(self._start.announced)
        canary = None if announced else self._own_canary()
        if announced or canary is not None:
            self._close("the weights have not been proven yet")
        self._good = replace(self._good, canary=canary)
        if announced:
            self._serves = False
            self._state = _State("fetching", announced[0].version)
        self._running = asyncio.create_task(self._run(announced), name="weights")

    async def close(self) -> None:
        """Leave the engine as it is."""
        self._settle()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    def order(self, weights: Weights) -> None:
        """Serve these weights: soon, in the background. Nothing happens where they are served, or on their way.

        Raises:
            WeightsError: "WeightsStale", or "WeightsUnsupported".
        """
        if weights.on_update == "Recreate":
            raise WeightsError("onUpdate Recreate is not done in place", reason="WeightsUnsupported")
        if weights.on_update == "Continue" and (weights.kind == "Adapter" or self._engine.kept is None):
            what = "an adapter is a call's to its end" if weights.kind == "Adapter" else "this engine keeps no calls"
            raise WeightsError(f"onUpdate Continue: {what}: Finish or Abort", reason="WeightsUnsupported")
        on_way = self._next.version if self._next is not None else self._state.target if self._state.phase else None
        if weights.version == on_way or (weights.version == self.version and self._serves):
            return
        if weights.version < max(self.version or 0, on_way or 0):
            newest = max(self.version or 0, on_way or 0)
            raise WeightsError(f"version {weights.version} is older than {newest}", reason="WeightsStale")
        self._next = weights
        self._wake.set()

    async def prove(self) -> float:
        """Ask the canary of what is served, now; the mean difference.

        Beside the calls at the engine; where it cannot do that it ends them first, and lets nobody in meanwhile.

        Raises:
            WeightsError: it is not as it should be, or cannot be asked.
        """
        canary = self._good.canary
        if canary is None:
            raise WeightsError("what is served has no canary", reason="CanaryMissing")
        async with self._undisturbed(await self._engine.alone()):
            if not self._sound or self._state.phase is not None:
                raise WeightsError("the weights are being exchanged", reason="EngineUnavailable", retryable=True)
            return canary.judge(await self._engine.ask(canary.sequences, self._good.adapter))

    @contextlib.asynccontextmanager
    async def _undisturbed(self, alone: bool) -> AsyncIterator[None]:
        """While the block runs nobody else is at the engine, if that matters. Raises WeightsError."""
        if not alone:
            yield
            return
        self._queue.pause(_ASKED)
        try:
            try:
                async with asyncio.timeout(_ALONE_SECONDS):
                    await self._queue.idle()
            except TimeoutError:
                why = f"calls at the engine have not ended in {_ALONE_SECONDS:.0f} s"
                raise WeightsError(why, reason="EngineUnavailable", retryable=True) from None
            yield
        finally:
            self._queue.resume(_ASKED)

    def told(self) -> dict[str, Any]:
        """What goes on, for ``/state`` and ``/readyz``."""
        state = self._state
        return {
            "policyVersion": self.version,
            "weights": {
                "target": self._next.version if self._next is not None else state.target,
                "phase": state.phase or ("fetching" if self._next is not None else None),
                "failure": state.failure,
                "restart": state.restart,
                "canary": state.gap,
            },
        }

    async def _run(self, announced: list[Weights]) -> None:
        while await self._engine.label() is None:  # noqa: ASYNC110 - an engine in another process tells nobody
            await asyncio.sleep(self._look_seconds)
        await self._guarded(self._first(announced))
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._look_seconds):
                    await self._wake.wait()
            self._wake.clear()
            weights, self._next = self._next, None
            await self._guarded(self._look() if weights is None else self._update(weights))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Whatever breaks, nobody is served by weights that are not known."""
        try:
            await work
        except Exception as error:
            log.exception("weights: an exchange broke off")
            self._stay_out(WeightsError(f"an exchange broke off: {error!r}", reason="InternalError"))

    async def _first(self, announced: list[Weights]) -> None:
        """Serve what was announced before this replica came; the last good where that does not prove."""
        if not announced:
            if self._good.version is None and (label := await self._engine.label()):
                # A process of ours before this one gave it to the engine.
                self._good = replace(self._good, version=int(label), label=label)
            if self._good.canary is not None and self._good.label == "":
                await self._prove_first()
            if self._serves:
                self._known(self._good)
                self._open()
            return
        while self._next is None:
            failed: list[WeightsError] = []
            for weights in announced:
                try:
                    await self._take(weights)
                except WeightsError as error:
                    failed.append(error)
                else:
                    if failed:
                        self._fail(announced[0], failed[0])
                    self._open()
                    return
            self._fail(announced[0], failed[0])
            if not failed[0].retryable:
                self._stay_out(failed[0])
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def _prove_first(self) -> None:
        """The engine's first weights have a canary of their own."""
        try:
            self._state.gap = await self.prove()
        except WeightsError as error:
            self._stay_out(error)

    def _own_canary(self) -> Canary | None:
        try:
            return None if self._start.folder is None else Canary.read(self._start.folder)
        except WeightsError as error:
            log.warning("weights: %s", error.message)
            return None

    async def _update(self, weights: Weights) -> None:
        """Exchange what is served; where the new does not prove, it is as it was before."""
        before, proven = self._good, True
        self._state = _State(target=weights.version)
        try:
            await self._take(weights)
        except WeightsError as error:
            self._fail(weights, error)
            if not self._serves:
                self._stay_out(error)
            proven = self._serves and (self._sound or await self._restore(error))  # sound: it was not touched
            self._settle()
        if proven:
            self._open()
        failure = self._state.failure
        if failure is None or not failure["retryable"]:  # what has come so far is of use then
            kept = (self._good.folder, self._good.adapter_folder)
            self._places.keep([folder for folder in kept if folder is not None])
        if before.adapter is not None and self._good.adapter != before.adapter:
            await self._drop(before.adapter)

    async def _take(self, weights: Weights) -> None:
        """Bring, exchange and prove. Raises WeightsError; ``phase`` then says how far it came."""
        state = self._state
        state.phase, state.target = "fetching", weights.version
        keep = weights.on_update == "Continue" and weights.kind == "Full"
        await self._engine.keep(keep)
        folder = await self._places.place(weights)
        self._engine.check(folder, weights.kind)
        canary = Canary.read(folder)
        if canary is None:
            why = f"{folder} has no {CANARY_FILE}, by which to prove it: `kubegym canary` makes one"
            raise WeightsError(why, reason="CanaryMissing")
        state.phase = "draining"
        self._close(f"the weights of version {weights.version} are being loaded")
        await self._drained(weights, kept=self._engine.kept if keep else None)
        before = await self._engine.ask(canary.sequences, self._good.adapter) if self._sound else None
        if before is not None and self._good.canary is None and self._good.label == "":
            self._good = replace(self._good, canary=canary.told(before))  # as the engine started: trusted
        state.phase, self._sound = "loading", False
        if keep and self._engine.kept is not None:
            self._engine.kept.begin()
        fresh = await self._install(weights.kind, folder, weights.version, canary, keep=keep)
        state.phase = "proving"
        try:
            state.gap = canary.judge(await self._engine.ask(canary.sequences, fresh.adapter), before)
        except WeightsError:
            if fresh.adapter is not None:
                await self._drop(fresh.adapter)
            raise
        self._good, self._sound, self._serves = fresh, True, True
        self._known(fresh)
        log.info("weights: version %d is served; the canary differs by %.2g", weights.version, state.gap)

    def _known(self, served: Served) -> None:
        """Tokens of these weights may be told: they are proven, or were there from the start."""
        if self._engine.kept is not None and served.version is not None:
            self._engine.kept.versions[served.label] = served.version
        self._settle()

    def _settle(self) -> None:
        """Replies that wait to hear whether the weights are proven go on."""
        if self._engine.kept is not None:
            self._engine.kept.settle()

    async def _install(
        self, kind: Kind, folder: Path | None, version: int | None, canary: Canary, *, keep: bool = False
    ) -> Served:
        """Let the engine take weights; ``version`` None: its first ones."""
        label = "" if version is None else str(version)
        if kind == "Full":
            self._base = None
            await self._engine.load(folder, label, keep=keep)
            self._base = label
            self._engine.use(None)
            return Served(version, folder, label, canary=canary)
        assert folder is not None
        if self._base != "":  # an adapter is for the first weights
            await self._engine.load(None, "")
            self._base = ""
        adapter = await self._engine.adapt(folder, label)
        self._engine.use(adapter)
        return Served(version, None, label, adapter, canary, folder)

    async def _restore(self, error: WeightsError) -> bool:
        """The last good weights again; whether they prove. Else the replica stays out, or waits for its engine."""
        self._state.phase = "restoring"
        good, canary = self._good, self._good.canary
        try:
            if canary is None:
                raise WeightsError("the last good weights have no canary", reason="CanaryMissing")
            if not self._sound:
                self._settle()  # those that stayed: whatever they were told is given up
                await self._given_up()
                kind: Kind = "Full" if good.adapter_folder is None else "Adapter"
                good = await self._install(kind, good.adapter_folder or good.folder, good.version, canary)
            self._state.gap = canary.judge(await self._engine.ask(canary.sequences, good.adapter))
        except WeightsError as again:
            log.error("weights: the last good ones do not prove either: %s: %s", again.reason, again.message)
            if again.reason == "EngineUnavailable":
                self._state.phase = None  # it may have ended upon that; when it is back it is looked at
            else:
                self._stay_out(error)
            return False
        self._good, self._sound, self._serves = good, True, True
        log.warning("weights: version %s is served again", good.version)
        return True

    async def _look(self) -> None:
        """Whether the engine still has what it was given; one that started anew has its first weights."""
        good = self._good
        if not self._serves or (good.label == "" and self._sound and UPDATING not in self._holds.reasons):
            return
        label = await self._engine.label()
        if label is None:
            self._close("the engine does not answer")
            return
        if label == good.label and self._sound:
            self._open()
            return
        if label != good.label:
            self._close("the engine has started anew")
            self._base, self._sound = "", False
        if await self._restore(WeightsError("the engine lost its weights", reason="EngineRestarted")):
            self._open()

    async def _drained(self, weights: Weights, kept: KeptCalls | None) -> None:
        """Wait until no call is at the engine but those that stay. Raises WeightsError where that never happens."""
        if weights.on_update != "Abort":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FINISH_SECONDS):
                    if kept is None:
                        await self._queue.idle()
                    while kept is not None and self._queue.working > kept.open:  # noqa: ASYNC110 - two counters
                        await asyncio.sleep(_LOOK_AT_OTHERS)
                    return
        await self._given_up()

    async def _given_up(self) -> None:
        """Give up whatever is at the engine. Raises WeightsError where that does not end."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + GIVE_UP_SECONDS
        while self._queue.working:
            if loop.time() > deadline:
                raise WeightsError("calls at the engine do not end", reason="EngineUnavailable", retryable=True)
            await self._engine.give_up()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GIVE_UP_EVERY):
                    await self._queue.idle()

    async def _drop(self, adapter: str) -> None:
        try:
            await self._engine.drop(adapter)
        except WeightsError as error:
            log.warning("weights: adapter %s stays: %s", adapter, error.message)

    def _fail(self, weights: Weights, error: WeightsError) -> None:
        log.error("weights: version %d is not served: %s: %s", weights.version, error.reason, error.message)
        self._state.failure = {
            "version": weights.version,
            "reason": error.reason,
            "message": error.message[:1000],
            "retryable": error.retryable,
        }

    def _stay_out(self, error: WeightsError) -> None:
        """Serve nobody, and ask to be started anew."""
        state = self._state
        state.restart, state.phase, self._serves = True, None, False
        self._settle()
        if state.failure is None:
            told = {"version": self.version, "reason": error.reason, "message": error.message[:1000]}
            state.failure = {**told, "retryable": False}
        self._close(f"{error.reason}: {error.message}"[:300])

    def _close(self, why: str) -> None:
        self._holds.put(UPDATING, why)
        self._queue.pause(UPDATING)

    def _open(self) -> None:
        self._state.phase = None
        self._holds.lift(UPDATING)
        self._queue.resume(UPDATING)
