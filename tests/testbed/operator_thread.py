"""The operator over a real API server, in a thread: tests answer in the place of pods, and own its clock."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kubegym.core.clock import SystemClock
from kubegym_operator.build.context import BuildContext
from kubegym_operator.kube import config
from kubegym_operator.kube.client import KubeClient
from kubegym_operator.kube.events import EventRecorder
from kubegym_operator.kube.protocol import Object
from kubegym_operator.reconcile.cache import Cache
from kubegym_operator.reconcile.controller import Controller
from kubegym_operator.reconcile.executor import Executor
from kubegym_operator.reconcile.limiter import TokenBucket
from kubegym_operator.reconcile.observe import Observer
from kubegym_operator.reconcile.queue import Queue
from kubegym_operator.reconcile.references import INDICES
from kubegym_operator.reconcile.resync import Resync
from kubegym_operator.watch.routes import Routes
from kubegym_operator.watch.stream import Stream
from testbed.k8s.process import START_SECONDS
from testbed.operator_world import Answers, OpenFence


@dataclass
class ShiftedClock:
    """The machine's clock, ahead by ``shift`` seconds."""

    shift: float = 0.0

    def time(self) -> float:
        """Now."""
        return time.time() + self.shift


class OperatorThread:
    """An operator of one namespace without lease, probes and HTTP; the rest is real.

    Args:
        kubeconfig: who it is.
        namespace: where it works.
        context: what it renders with.

    Attributes:
        answers: stands in for servers and workers.
        clock: its clock.
    """

    def __init__(self, kubeconfig: Path, namespace: str, context: BuildContext | None = None) -> None:
        self.answers = Answers()
        self.clock = ShiftedClock()
        self._kubeconfig = kubeconfig
        self._namespace = namespace
        self._context = context or BuildContext()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._everything: Callable[[], None] = lambda: None
        self._idle: Callable[[], bool] = lambda: False

    def start(self) -> OperatorThread:
        """Start it, and wait until it knows the cluster."""
        self._ready.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="operator", daemon=True)
        self._thread.start()
        assert self._ready.wait(START_SECONDS), "the operator does not start"
        return self

    def stop(self) -> None:
        """End it, if it runs."""
        if self._loop is not None and self._stop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(START_SECONDS)
            assert not self._thread.is_alive(), "the operator does not end"
            with warnings.catch_warnings():  # kopf leaves its connections to the garbage collector
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()
        self._loop = self._stop = self._thread = None

    def look(self, shift: float = 0.0) -> None:
        """Look at everything, ``shift`` seconds later than before."""
        self.clock.shift += shift
        assert self._loop is not None
        begun = threading.Event()

        def look() -> None:
            self._everything()
            begun.set()

        self._loop.call_soon_threadsafe(look)
        assert begun.wait(START_SECONDS), "the operator hangs"

    def idle(self) -> bool:
        """Whether everything was looked at and nothing is due, nor about to be when its spacing is over."""
        assert self._loop is not None

        async def ask() -> bool:
            return self._idle()

        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result(START_SECONDS)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        configuration = await config.load(self._kubeconfig)
        async with KubeClient(configuration, timeout=START_SECONDS) as api:
            cache = Cache(INDICES, revision=self._context.render_revision)
            events = EventRecorder(api, SystemClock(), "behaviour")
            executor = Executor(api, cache, OpenFence(), TokenBucket(1000, 1000), events, self.answers)
            observer = Observer(cache, api, self.answers, self.answers, self.clock)
            queue = Queue(Controller(cache, observer, executor, self._context).reconcile)
            cache.listen(Routes(cache, queue.add))
            resync = Resync(api, cache, queue.add, namespaces=[self._namespace], spread=0.0, settle=0.1)

            def deliver(event: str | None, obj: Object) -> None:
                if event == "DELETED":
                    cache.remove(obj)
                else:
                    cache.put(obj)

            stream = Stream(lambda: config.credentials(self._kubeconfig), deliver, namespaces=[self._namespace])
            await resync.fill()
            looks: set[asyncio.Task[None]] = set()

            def look() -> None:
                task = asyncio.create_task(resync.check())
                looks.add(task)
                task.add_done_callback(looks.discard)

            self._everything = look
            self._idle = lambda: not (looks or queue.depth or queue.running or queue.soon(queue.spacing))
            stream.start()
            self._ready.set()
            work = asyncio.create_task(queue.run())
            await self._stop.wait()
            for task in (work, *looks):
                task.cancel()
            await asyncio.gather(work, *looks, return_exceptions=True)
            await stream.stop(START_SECONDS)
