"""Leadership by a Lease (``coordination.k8s.io/v1``), so that two operators do no harm.

Time is measured on this machine only, as client-go does: a lease that another holds is free when it has not changed for
its own duration, whatever its time stamps say. All writes name the version they mean, so of two that try only one gets
it. The lease is renewed in a thread with an event loop and a connection of its own: a busy operator does not lose it,
and a loss is noticed although the operator hangs.

Three spans keep two leaders from writing at once: a renewal is due every 2 s; writing ends (``check``) 8 s after the
last one was *asked for*; the process ends after 10 s; others take over after 15 s.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from kubegym_operator.errors import Fenced
from kubegym_operator.kube.errors import AlreadyExists, Conflict, KubeError, NotFound
from kubegym_operator.kube.protocol import Kind, KubeApi, Object

log = logging.getLogger("kubegym.operator")

LEASE: Final = Kind("coordination.k8s.io/v1", "Lease")

_ATTEMPT_SECONDS: Final = 5.0
"""How long one attempt may take: on a connection that has died the next one is better."""

Connect = Callable[[], AbstractAsyncContextManager[KubeApi]]
"""Opens a connection in the running event loop."""


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """The spans, in seconds; each is longer than the one before."""

    retry: float = 2.0
    write: float = 8.0
    renew: float = 10.0
    duration: float = 15.0

    @property
    def attempt(self) -> float:
        """How long one attempt may take: at least two must fit, and who grants more time waits for a slow server."""
        return min(max(_ATTEMPT_SECONDS, self.renew / 4), self.renew / 2)


class Election:
    """One candidate's view of the lease. Pure of threads; ``Lease`` runs it in one.

    Args:
        api: the API server.
        namespace: where the lease lies.
        name: its name.
        identity: who we are; unique to this process.
        times: the spans.
        now: a clock that never goes back, in seconds.
    """

    def __init__(
        self,
        api: KubeApi,
        namespace: str,
        name: str,
        identity: str,
        times: LeaseTimes,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._times = times
        self._now = now
        self._seen: tuple[str, float] | None = None

    async def attempt(self) -> float | None:
        """Take or renew the lease: the moment from which it is ours, or None where another holds it.

        Raises:
            KubeError: it is not known whether we hold it.
        """
        asked = self._now()
        lease = await self._api.get(LEASE, self._namespace, self._name)
        try:
            if lease is None:
                await self._api.create(self._manifest())
            elif self._may_take(lease):
                version = {"resourceVersion": lease["metadata"]["resourceVersion"]}
                await self._api.patch(
                    LEASE, self._namespace, self._name, {"metadata": version, "spec": self._spec(lease["spec"])}
                )
            else:
                return None
        except (AlreadyExists, Conflict, NotFound):
            return None  # another was quicker, for now
        return asked

    async def release(self) -> None:
        """Let others take it at once; called only by its holder, after its last write."""
        lease = await self._api.get(LEASE, self._namespace, self._name)
        if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
            version = {"resourceVersion": lease["metadata"]["resourceVersion"]}
            spec = {"holderIdentity": "", "leaseDurationSeconds": 1}
            await self._api.patch(LEASE, self._namespace, self._name, {"metadata": version, "spec": spec})

    def _may_take(self, lease: Object) -> bool:
        spec = lease.get("spec") or {}
        holder, version = spec.get("holderIdentity"), lease["metadata"]["resourceVersion"]
        if not holder or holder == self._identity:
            return True
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, self._now())
        return self._now() - self._seen[1] > float(spec.get("leaseDurationSeconds") or self._times.duration)

    def _manifest(self) -> Object:
        metadata = {"name": self._name, "namespace": self._namespace}
        return {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": self._spec({})}

    def _spec(self, before: Object) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: Object = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": round(self._times.duration),
            "renewTime": now,
        }
        if before.get("holderIdentity") != self._identity:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(before.get("leaseTransitions") or 0) + bool(before)
        return spec


class Lease:
    """Holds the lease from a thread of its own.

    Args:
        connect: opens the thread's own connection.
        namespace: where the lease lies.
        name: its name.
        identity: who we are; unique to this process.
        lost: called in the thread when the lease is lost; ends the process.
        times: the spans.
    """

    def __init__(
        self,
        connect: Connect,
        namespace: str,
        name: str,
        identity: str,
        lost: Callable[[str], None],
        times: LeaseTimes = LeaseTimes(),
    ) -> None:
        self._connect = connect
        self._place = (namespace, name)
        self._identity = identity
        self._lost = lost
        self._times = times
        self._renewed: float | None = None
        self._held = asyncio.Event()  # of the loop that starts it
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        """Begin to ask for it. Called in the event loop that waits for it."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def acquired(self) -> None:
        """Wait until it is held."""
        await self._held.wait()

    @property
    def leading(self) -> bool:
        """Whether it is held, as far as is known."""
        return self._renewed is not None

    def check(self) -> None:
        """Raises Fenced unless the last renewal is fresh enough to write."""
        renewed = self._renewed
        if renewed is None or time.monotonic() - renewed > self._times.write:
            raise Fenced("the lease has not been renewed in time; nothing is written")

    async def stop(self) -> None:
        """Give it up. Nothing may be written any more."""
        self._stop.set()
        await asyncio.to_thread(self._thread.join, self._times.renew)

    def _run(self) -> None:
        try:
            asyncio.run(self._hold())
        except Exception as error:
            log.exception("the lease's thread failed")
            self._lost(f"the lease's thread failed: {error}")

    async def _hold(self) -> None:
        async with self._connect() as api:
            election = Election(api, *self._place, self._identity, self._times)
            while not self._stop.is_set():
                if not await self._renew(election):
                    return
                await asyncio.to_thread(self._stop.wait, self._times.retry)
            if self._renewed is not None:
                self._renewed = None
                try:
                    async with asyncio.timeout(self._times.attempt):
                        await election.release()
                except (KubeError, TimeoutError) as error:
                    log.warning("the lease could not be released: %s", error)

    async def _renew(self, election: Election) -> bool:
        """One attempt; False when the lease is lost."""
        before, asked, other = self._renewed, None, False
        limit = self._times.attempt
        if before is not None:
            limit = max(0.1, min(limit, before + self._times.renew - time.monotonic()))
        try:
            async with asyncio.timeout(limit):
                asked = await election.attempt()
                other = asked is None
        except TimeoutError:
            log.warning("the lease: no answer within %.1f s", limit)
        except KubeError as error:
            log.warning("the lease: %s: %s", error.reason, error)
        if asked is not None:
            self._renewed = asked
            if before is None:
                self._tell()
        elif before is not None and (other or time.monotonic() - before > self._times.renew):
            self._renewed = None
            self._lost("another operator holds the lease" if other else "the lease could not be renewed in time")
            return False
        return True

    def _tell(self) -> None:
        log.info("leading as %s", self._identity)
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._held.set)
