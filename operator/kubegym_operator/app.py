"""The operator put together: elected first, then watching and reconciling, until it is told to stop.

::

    lease's thread      renews; ends the process on loss
    watch's thread      kopf -> objects
    main loop           objects -> cache -> routes -> queue -> controller -> executor -> API server
                        resync: LIST of everything -> cache; probes and metrics over HTTP
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from types import MappingProxyType

import aiohttp
from aiohttp import web

from kubegym.core.clock import SystemClock
from kubegym_operator.build.context import RENDER_REVISION, BuildContext, DnsPeers, Images, PodPeer
from kubegym_operator.build.labels import content_digest
from kubegym_operator.kube import config
from kubegym_operator.kube.client import KubeClient
from kubegym_operator.kube.errors import KubeError
from kubegym_operator.kube.events import EventRecorder
from kubegym_operator.kube.lease import Lease, LeaseTimes
from kubegym_operator.kube.protocol import Kind, KubeApi, Object
from kubegym_operator.metrics import (
    ObjectsCollector,
    OperatorMetrics,
    ServingTimes,
    WorkQueueCollector,
    WorkQueueFigures,
)
from kubegym_operator.plan.demand import wanted_rollouts
from kubegym_operator.reconcile.arrivals import Arrivals
from kubegym_operator.reconcile.cache import Cache, Change
from kubegym_operator.reconcile.controller import Controller
from kubegym_operator.reconcile.executor import Executor
from kubegym_operator.reconcile.limiter import TokenBucket
from kubegym_operator.reconcile.observe import Observer
from kubegym_operator.reconcile.probe import HttpControl, HttpProber, HttpProgressReader
from kubegym_operator.reconcile.queue import Queue
from kubegym_operator.reconcile.references import INDICES
from kubegym_operator.reconcile.resync import Resync
from kubegym_operator.reconcile.watched import GYM_ENVIRONMENT, OWN
from kubegym_operator.settings import OperatorSettings, PeerSetting
from kubegym_operator.watch.probes import Health, application
from kubegym_operator.watch.routes import Routes
from kubegym_operator.watch.stream import Stream

log = logging.getLogger("kubegym.operator")

Lost = Callable[[str], None]


def end_process(why: str) -> None:
    """End this process at once, from whatever thread: another may lead by now, and nothing may be written any more."""
    log.critical("%s: the process ends", why)
    logging.shutdown()
    os._exit(1)


async def operate(settings: OperatorSettings, stop: asyncio.Event, lost: Lost = end_process) -> None:
    """Run an operator until ``stop`` is set.

    Args:
        settings: what it is told.
        stop: set it to end cleanly.
        lost: called in the lease's thread when the lease is lost.

    Raises:
        KubeError: there is no way to an API server.
    """
    async with AsyncExitStack() as stack:
        configuration = await config.load(settings.kubeconfig)
        metrics = OperatorMetrics()
        api = await stack.enter_async_context(
            KubeClient(
                configuration,
                agent=f"kubegym-operator ({_instance(settings)})",
                timeout=settings.request_seconds,
                observe=metrics.requested,
            )
        )
        session = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
        lease = _lease(settings, lost)
        parts = Parts(settings, api, session, lease, metrics)
        await stack.enter_async_context(_listening(settings, parts.health, metrics))
        lease.start()
        stack.push_async_callback(lease.stop)
        if await _first(lease.acquired(), stop):
            await parts.lead(stop)
        parts.health.stopping = True
    log.info("stopped")


class Parts:
    """Everything of one operator, made and connected, at rest.

    Args:
        settings: what it is told.
        api: the API server.
        session: to ask pods with.
        lease: the fence.
        metrics: its instruments.
    """

    def __init__(
        self,
        settings: OperatorSettings,
        api: KubeApi,
        session: aiohttp.ClientSession,
        lease: Lease,
        metrics: OperatorMetrics,
    ) -> None:
        namespaces = settings.watch_namespaces or None
        clock = SystemClock()
        self.metrics = metrics
        context = replace(build_context(settings), control_key=secrets.token_hex(32))
        self.cache = Cache(INDICES, revision=context.render_revision)
        executor = Executor(
            api,
            self.cache,
            lease,
            TokenBucket(settings.writes_per_second, settings.write_burst),
            EventRecorder(api, clock, _instance(settings)),
            HttpControl(session),
        )
        observer = Observer(self.cache, api, HttpProber(session), HttpProgressReader(session), clock)
        controller = Controller(self.cache, observer, executor, context)
        self.queue = Queue(
            controller.reconcile,
            workers=settings.workers,
            observe=lambda key, result, seconds: metrics.reconciled(key.kind, result, seconds),
        )
        self.resync = Resync(
            api,
            self.cache,
            self.queue.add,
            missed=self._missed,
            namespaces=namespaces,
            period=settings.resync_seconds,
            spread=min(60.0, settings.resync_seconds / 5),
        )
        self.stream = Stream(
            lambda: config.credentials(settings.kubeconfig),
            self._deliver,
            known=self.cache.knows,
            namespaces=namespaces,
            restarted=metrics.restarts.inc,
        )
        # An operator of the whole cluster watches definitions: there kopf itself notices.
        self.arrivals = Arrivals(api, lambda kinds: self.stream.restart()) if namespaces else None
        self.health = Health(
            self.queue, self.resync, self.stream, settings.stuck_seconds, leading=lambda: lease.leading
        )
        self._serving = ServingTimes(metrics.environment_ready.observe)
        self.cache.listen(Routes(self.cache, self.queue.add))
        self.cache.listen(self._measure)
        metrics.leader.set_function(lambda: float(lease.leading))
        metrics.resynced.set_function(lambda: self._resynced(clock))
        metrics.registry.register(WorkQueueCollector(self._figures))
        metrics.registry.register(ObjectsCollector(self._objects, lambda: wanted_rollouts(self._objects)))

    async def lead(self, stop: asyncio.Event) -> None:
        """Do the work until ``stop`` is set."""
        loop = asyncio.get_running_loop()
        self.health.led = loop.time()
        if not await self._fill(stop):
            return
        self.health.filled = True
        log.info("knows %d objects after %.1f s", len(self.cache), loop.time() - self.health.led)
        self.stream.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                beside = [self.resync.run()] if self.arrivals is None else [self.resync.run(), self.arrivals.run()]
                work = [tasks.create_task(each) for each in (self.queue.run(), *beside)]
                await stop.wait()
                self.health.stopping = True
                for task in work:
                    task.cancel()
        finally:
            await self.stream.stop()

    async def _fill(self, stop: asyncio.Event) -> bool:
        """Read the cluster, as often as it takes; False when told to stop before."""
        while not stop.is_set():
            try:
                await self.resync.fill()
                return True
            except KubeError as error:
                log.warning("the cluster cannot be read: %s: %s", error.reason, error)
                await _first(asyncio.sleep(5.0), stop)
        return False

    def _deliver(self, event: str | None, obj: Object) -> None:
        """Take what the watches bring."""
        self.health.last_event = asyncio.get_running_loop().time()
        self.metrics.events.labels(obj.get("kind", "")).inc()
        if event == "DELETED":
            self.cache.remove(obj)
        else:
            self.cache.put(obj)

    def _missed(self, kind: Kind, count: int) -> None:
        """A watch is dead without knowing it: begin anew."""
        self.metrics.missed.labels(kind.kind).inc(count)
        self.stream.restart()

    def _measure(self, change: Change) -> None:
        if change.key.kind == GYM_ENVIRONMENT:
            self._serving.note(change.obj, gone=change.gone)

    def _figures(self) -> WorkQueueFigures:
        queue = self.queue
        return WorkQueueFigures(queue.depth, queue.running, queue.adds, queue.retries, queue.oldest_age())

    def _objects(self, kind: str) -> list[Object]:
        return self.cache.list(next(one for one in OWN if one.kind == kind))

    def _resynced(self, clock: SystemClock) -> float:
        if self.resync.last is None:
            return 0.0
        return clock.time() - (asyncio.get_running_loop().time() - self.resync.last)


def build_context(settings: OperatorSettings) -> BuildContext:
    """What builders are told."""
    images = settings.images
    dns = settings.dns
    return BuildContext(
        images=Images(**images.model_dump()),
        image_pull_secrets=settings.image_pull_secrets,
        image_pull_policy=settings.image_pull_policy,
        dns=DnsPeers(tuple(map(_peer, dns.pods)), dns.cidrs, dns.ports),
        pod_cidrs=settings.pod_cidrs,
        service_cidrs=settings.service_cidrs,
        identity_egress=settings.identity_egress,
        operator=PodPeer(
            MappingProxyType({"app.kubernetes.io/name": "kubegym", "app.kubernetes.io/component": "operator"}),
            MappingProxyType({"kubernetes.io/metadata.name": settings.pod_namespace}),
        ),
        monitoring=tuple(map(_peer, settings.monitoring)),
        proxy_env=MappingProxyType(settings.proxy_env),
        ca_config_map=settings.ca_config_map,
        render_revision=_render_revision(settings),
    )


def _render_revision(settings: OperatorSettings) -> str:
    """The builders' revision, and a digest of what else decides over pods: new images restart none (rule 2)."""
    of_pods = {"images", "image_pull_secrets", "image_pull_policy", "proxy_env", "ca_config_map"}
    return f"{RENDER_REVISION}-{content_digest(settings.model_dump(mode='json', include=of_pods))[:8]}"


def _peer(setting: PeerSetting) -> PodPeer:
    spaces = setting.namespace_labels
    return PodPeer(MappingProxyType(setting.pod_labels), None if spaces is None else MappingProxyType(spaces))


def _instance(settings: OperatorSettings) -> str:
    """What this process is called: its pod, or the machine."""
    return settings.pod_name or socket.gethostname()


def _lease(settings: OperatorSettings, lost: Lost) -> Lease:
    renew = settings.lease_renew_seconds
    times = LeaseTimes(settings.lease_retry_seconds, 0.8 * renew, renew, settings.lease_duration_seconds)

    @asynccontextmanager
    async def connect() -> AsyncIterator[KubeApi]:
        async with KubeClient(await config.load(settings.kubeconfig), timeout=times.attempt) as api:
            yield api

    return Lease(
        connect,
        settings.lease_namespace or settings.pod_namespace,
        settings.lease_name,
        f"{_instance(settings)}_{uuid.uuid4().hex[:8]}",
        lost,
        times,
    )


@asynccontextmanager
async def _listening(settings: OperatorSettings, health: Health, metrics: OperatorMetrics) -> AsyncIterator[None]:
    runner = web.AppRunner(application(health, metrics.registry), access_log=None)
    await runner.setup()
    try:
        host, port = settings.address
        await web.TCPSite(runner, host, port).start()
        log.info("probes and metrics on %s", ", ".join(str(address) for address in runner.addresses))
        yield
    finally:
        await runner.cleanup()


async def _first(awaitable: object, stop: asyncio.Event) -> bool:
    """Wait for something or for ``stop``; whether it was not ``stop``."""
    waiting = asyncio.ensure_future(awaitable)  # type: ignore[call-overload]
    stopped = asyncio.create_task(stop.wait())
    done, pending = await asyncio.wait({waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return stopped not in done
