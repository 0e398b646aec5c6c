"""Liveness, readiness and metrics over HTTP, and what they are made of.

A probe that only proves that a server answers hides everything that matters. ``/healthz`` fails when the event loop
hangs (nothing answers), when a key is due for too long, when everything has not been listed for too long although this
process leads, and when nobody watches. Its body tells the figures, too: the age of the last event is no failure by
itself, since in a quiet cluster nothing happens; whether the watches live is what a resync finds out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from kubegym_operator.reconcile.queue import Queue
from kubegym_operator.reconcile.resync import Resync
from kubegym_operator.watch.stream import Stream


@dataclass
class Health:
    """The state of this process, for its probes.

    Attributes:
        queue, resync, stream: the parts that are asked.
        stuck_seconds: a key due for longer is a failure.
        leading: whether the lease is held.
        led: when this process began to lead, on the loop's clock; None while it is a standby.
        filled: whether everything has been listed once.
        last_event: when a watch last brought something, on the loop's clock.
        stopping: whether the process is about to end.
    """

    queue: Queue
    resync: Resync
    stream: Stream
    stuck_seconds: float
    leading: Callable[[], bool]
    led: float | None = None
    filled: bool = False
    last_event: float | None = None
    stopping: bool = field(default=False)

    def wrong(self) -> str | None:
        """Why the process had better be started again; None while all is well. A standby is well."""
        if self.led is None or self.stopping:
            return None
        age = self.queue.oldest_age()
        if age > self.stuck_seconds:
            return f"a key is due since {age:.0f} s"
        listed = self.resync.last if self.resync.last is not None else self.led
        since = self._age(listed)
        limit = 3 * self.resync.period + self.stuck_seconds
        if since > limit:
            return f"nothing has been listed for {since:.0f} s"
        if self.filled and not self.stream.alive:
            return "nobody watches"
        return None

    def unready(self) -> str | None:
        """Why it is not ready; None for a standby, and for a leader that knows the cluster."""
        if self.stopping:
            return "shutting down"
        if self.led is not None and not self.filled:
            return "reading the cluster"
        return self.wrong()

    def figures(self) -> dict[str, object]:
        """What the probes tell."""
        return {
            "leading": self.leading(),
            "lastEventAge": None if self.last_event is None else round(self._age(self.last_event), 1),
            "lastResyncAge": None if self.resync.last is None else round(self._age(self.resync.last), 1),
            "oldestKeyAge": round(self.queue.oldest_age(), 1),
            "queueDepth": self.queue.depth,
        }

    def _age(self, moment: float) -> float:
        return asyncio.get_running_loop().time() - moment


def application(health: Health, registry: CollectorRegistry) -> web.Application:
    """The endpoints."""

    async def healthz(request: web.Request) -> web.Response:
        return _answer(health, health.wrong())

    async def readyz(request: web.Request) -> web.Response:
        return _answer(health, health.unready())

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


def _answer(health: Health, problem: str | None) -> web.Response:
    return web.json_response({"status": problem or "ok", **health.figures()}, status=200 if problem is None else 503)
