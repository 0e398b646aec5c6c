"""A worker pod: its part in a run, from ``run.json`` to its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kubegym.core import cycles
from kubegym.core.clock import SystemClock
from kubegym.core.errors import KubeGymError, OutputInUse
from kubegym.core.retry import Backoff
from kubegym.http import HttpClient
from kubegym.http.beside import served_beside
from kubegym.http.server import App
from kubegym.local.episodes import LocalEpisodes, build_episodes, end_process
from kubegym.local.fit import check_when_there
from kubegym.local.localrun import REMOTE_FLUSH_SECONDS, open_output
from kubegym.local.runspec import RunSpec
from kubegym.local.tasks import RunTasks, open_tasks
from kubegym.pods.compose import run_draft, run_spec
from kubegym.pods.errors import DONE, TERMINATED, exit_code
from kubegym.pods.finaliser import seal
from kubegym.pods.frozen import FrozenRun, read_frozen
from kubegym.pods.gate import GatedEpisodes, gates_for
from kubegym.pods.pace import follow_pace, read_pace
from kubegym.pods.planning import covers, open_shared
from kubegym.pods.progress import Progress, RunProgress
from kubegym.pods.settings import PodSettings, WorkerIdentity
from kubegym.pods.words import say_why
from kubegym.rollout import BatchRun, ChildSpec, Opened, StoreAccess, WorkerMetrics, WorkerSettings
from kubegym.rollout.samples import require_arrow
from kubegym.storage import probe_conditional_writes

log = logging.getLogger("kubegym.pods")

IN_USE_SECONDS = 90.0
"""How long another holder's leases are waited for: longer than they last, so that whoever lives has renewed them."""

_PATIENCE = Backoff(base=0.5, maximum=5.0)


@dataclass(frozen=True)
class WorkerOptions:
    """What the command line says.

    Attributes:
        run: ``run.json``.
        pace: ``pace.json``; None: the run's own concurrency.
        host, port: of probes, metrics and progress.
    """

    run: Path
    pace: Path | None
    host: str
    port: int


class PodWorker:
    """One life of a worker.

    Args:
        options: of the command line.
        settings: of the pod.
        settled: told how many rollouts have a result, now and then.
        on_stall: told when environment code blocks the process for good; has to end it.
        in_use_seconds: see ``IN_USE_SECONDS``.
    """

    def __init__(
        self,
        options: WorkerOptions,
        settings: PodSettings,
        *,
        settled: Callable[[int], None] = lambda _: None,
        on_stall: Callable[[str, str], None] | None = None,
        in_use_seconds: float = IN_USE_SECONDS,
    ) -> None:
        self._options = options
        self._settings = settings
        self._settled = settled
        self._on_stall = on_stall
        self._in_use_seconds = in_use_seconds
        self._metrics = WorkerMetrics()
        self._progress = Progress(settings.pod_name)
        self._unready: str | None = "the run is being opened"
        self._began = False
        self._stopped = False
        self._batch: BatchRun | None = None
        self._opening: asyncio.Task[int] | None = None

    def stop(self) -> None:
        """Admit nothing more, save what is finished, and end. Before the work has begun there is nothing to save."""
        self._stopped = True
        if self._batch is not None:
            self._batch.stop()
        elif self._opening is not None:
            self._opening.cancel()

    async def run(self) -> int:
        """Work until every rollout of the run is settled, or a stop; the exit code, whose last words are left."""
        self._opening = asyncio.ensure_future(self._run())
        if self._stopped:
            self._opening.cancel()
        try:
            code = await self._opening
        except asyncio.CancelledError:
            if not self._stopped:
                raise
            code = TERMINATED
        except KubeGymError as error:
            log.error("the worker ends: reason=%s: %s", error.reason, error.message)
            self._say(error.reason, error.message)
            return exit_code(error, began=self._began)
        if code == TERMINATED:
            self._say("Terminated", "stopped by a signal; what had finished is saved")
        else:
            self._say("Completed", "every rollout of the run has its result")
        return code

    def _say(self, reason: str, message: str) -> None:
        say_why(self._settings.termination_log, reason, message)

    async def _run(self) -> int:
        app = App(
            "KubeGym worker",
            {("GET", "/progress"): self._progress.handle},
            unready=lambda: self._unready,
            registry=self._metrics.registry,
        )
        async with served_beside(app, self._options.host, self._options.port) as url:
            print(f"worker at {url}", flush=True)
            run = read_frozen(self._options.run)
            spec = run_spec(run, self._settings)
            if spec.tokens == "Samples":
                require_arrow()
            async with _opened(spec, self._metrics, self._on_stall) as (episodes, tasks):
                return await self._work(run, spec, episodes, tasks)

    async def _work(self, run: FrozenRun, spec: RunSpec, episodes: LocalEpisodes, tasks: RunTasks) -> int:
        assert spec.output is not None, "a job has an output"
        store = open_output(spec, spec.output)
        identity = WorkerIdentity(run.uid, self._settings)
        access = StoreAccess(store, identity.holder, SystemClock(), gone=identity.gone, compression=spec.compression)
        draft = run_draft(run, spec, episodes, tasks)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(store.close)
            http = HttpClient()
            stack.push_async_callback(http.close)
            gates = gates_for(episodes, http)

            async def check() -> None:
                await probe_conditional_writes(store)
                needs = await tasks.validate(episodes)
                for name, part in episodes.parts.items():
                    if any(needs.of(name, part)):  # nothing may run before its model has been asked
                        self._unready = f"{name}: its model is not there yet, and is to be asked what it can do"
                        await gates[name].passed()
                await check_when_there(needs, episodes)

            gated: GatedEpisodes | None = None
            while True:
                opened = await open_shared(access, draft, check, first=not self._settings.index)
                self._began = True
                progress = RunProgress(store, opened.plan, access.clock)
                stack.push_async_callback(progress.close)
                self._progress.began(progress)
                if opened.manifest is not None:
                    return DONE
                if gated is None:
                    await episodes.start()
                    cycles.settle()
                    gated = GatedEpisodes(episodes, gates)
                code = await self._share(access, opened, gated, spec, tasks)
                if code != DONE or covers(opened.plan, draft):
                    return code
                await access.retrying(partial(seal, store, opened.plan, access.clock))  # and now what it grows by

    async def _share(
        self, access: StoreAccess, opened: Opened, episodes: GatedEpisodes, spec: RunSpec, tasks: RunTasks
    ) -> int:
        """Work beside the others; what another job held may be ours a lease later."""
        until = asyncio.get_running_loop().time() + self._in_use_seconds
        waits = 0
        while not self._stopped:
            batch = self._batch = self._batch_run(access, opened, episodes, spec, tasks)
            try:
                async with self._following(batch):
                    return DONE if await batch.share(_PATIENCE) else TERMINATED
            except OutputInUse as error:
                if asyncio.get_running_loop().time() >= until:
                    raise
                if not waits:
                    log.warning("%s Waiting for its leases to end.", error.message)
            waits = min(waits + 1, 16)
            await asyncio.sleep(_PATIENCE.delay(waits, access.rng))
        return TERMINATED

    def _batch_run(
        self, access: StoreAccess, opened: Opened, episodes: GatedEpisodes, spec: RunSpec, tasks: RunTasks
    ) -> BatchRun:
        return BatchRun(
            access,
            opened,
            episodes,
            tasks,
            WorkerSettings(
                concurrency=self._pace(spec),
                max_attempts=spec.max_attempts,
                flush_seconds=spec.flush_seconds or REMOTE_FLUSH_SECONDS,
                flush_bytes=spec.flush_bytes,
                max_failed_fraction=spec.max_failed_fraction,
                tokens=spec.tokens,
                max_policy_version_lag=spec.max_policy_version_lag,
            ),
            weights={entry.name: entry.weight for entry in spec.entries},
            child=ChildSpec("kubegym.local.episodes:from_json", spec.to_json()),
            metrics=self._metrics,
            start=self._settings.start,
        )

    def _pace(self, spec: RunSpec) -> int:
        asked = read_pace(self._options.pace) if self._options.pace else None
        return asked or spec.concurrency

    @asynccontextmanager
    async def _following(self, batch: BatchRun) -> AsyncIterator[None]:
        """Ready, at the pace that is asked for, while the block runs."""
        concurrency = batch.settings.concurrency

        def resize(wanted: int) -> None:
            batch.resize(wanted)
            self._progress.works(batch, wanted)

        self._progress.works(batch, concurrency)
        self._unready = None
        beside = [asyncio.create_task(self._report(batch), name="report")]
        if self._options.pace is not None:
            beside.append(asyncio.create_task(follow_pace(self._options.pace, concurrency, resize), name="pace"))
        try:
            yield
        finally:
            self._unready = "the work is over"
            self._settled(batch.progress.totals.settled)
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _report(self, batch: BatchRun) -> None:
        while True:
            self._settled(batch.progress.totals.settled)
            await asyncio.sleep(0.25)


@asynccontextmanager
async def _opened(
    spec: RunSpec, metrics: WorkerMetrics, on_stall: Callable[[str, str], None] | None
) -> AsyncIterator[tuple[LocalEpisodes, RunTasks]]:
    episodes = build_episodes(spec, on_call=lambda seconds, *_: metrics.model_call(seconds), on_stall=on_stall)
    metrics.routing = episodes.routing
    try:
        tasks = await open_tasks(spec, episodes)
        try:
            yield episodes, tasks
        finally:
            await tasks.close()
    finally:
        await episodes.close()


def last_stall(settings: PodSettings, label: str, stack: str) -> None:
    """End a process that environment code blocks for good; what was in flight is then run in isolation."""
    say_why(settings.termination_log, "WorkerStalled", f"{label} does not react")
    end_process(label, stack)


async def until_done(worker: PodWorker, received: signal.Signals | None) -> int:
    """Run a worker; SIGTERM and SIGINT stop it, also one that was received before."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    if received is not None:
        worker.stop()
    try:
        return await worker.run()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError, RuntimeError):
                loop.remove_signal_handler(number)
