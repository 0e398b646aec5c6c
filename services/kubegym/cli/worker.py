"""The body of ``kubegym run`` and ``kubegym retry``: what the supervised process does."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubegym.cli import logs
from kubegym.cli.display import RunDisplay, display_for
from kubegym.cli.errors import guarded
from kubegym.cli.locate import locate
from kubegym.core import cycles
from kubegym.core.errors import InputError, RunFailed
from kubegym.local.supervise import STOPPING, Reports, Signals

if TYPE_CHECKING:
    from kubegym.local.localrun import LocalRun, RunResult
    from kubegym.local.runspec import RunSpec
    from kubegym.rollout import Progress, WorkerMetrics

PULSE_SECONDS = 0.25


@dataclass(frozen=True)
class Logging:
    """How logs are written."""

    level: str = "error"
    style: logs.LogFormat = "text"
    file: Path | None = None


@dataclass(frozen=True)
class RunRequest:
    """What the command line asked for; plain values, so that the parent process stays small.

    Attributes:
        targets: manifests, or one environment.
        flags: fields of ``local.resolve.RunFlags``.
        retry: a run and the reasons to retry (none: all), instead of targets.
        fresh: begin anew.
        quiet: no progress.
        as_json: the result as JSON.
        metrics_port: where Prometheus may read; None for nowhere.
        split: whether model, resources and agent are processes of their own.
    """

    targets: tuple[str, ...] = ()
    flags: dict[str, Any] = field(default_factory=dict)
    retry: tuple[str, tuple[str, ...]] | None = None
    fresh: bool = False
    quiet: bool = False
    as_json: bool = False
    metrics_port: int | None = None
    split: bool = False
    logging: Logging = field(default_factory=Logging)


def work(request: RunRequest, reports: Reports, signals: Signals) -> int:
    """Run it all in this process; the exit code. ``supervise`` calls it."""
    debug = request.logging.level == "debug"
    return guarded(lambda: _work(request, reports, signals), as_json=request.as_json, debug=debug)


def _work(request: RunRequest, reports: Reports, signals: Signals) -> int:
    logs.configure(request.logging.level, request.logging.style, request.logging.file)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_Session(request, reports, signals).run())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    return uvloop.new_event_loop


class _Observed:
    """A display that also keeps what the supervisor and the result need to know."""

    def __init__(self, shown: RunDisplay, reports: Reports) -> None:
        self.shown = shown
        self.progress: Progress | None = None
        self.seconds: float | None = None
        self._began = 0.0
        self._reports = reports

    def validating(self, rows: int) -> None:
        """Pass it on."""
        self.shown.validating(rows)

    def began(self, output: str, progress: Progress) -> None:
        """Pass it on; a restarted worker goes on with this output."""
        self.progress = progress
        self._began = self._began or time.monotonic()
        self._reports.opened(output)
        self.shown.began(output, progress)

    def merging(self) -> None:
        """Pass it on."""
        self.shown.merging()

    def pulse(self) -> None:
        """Pass it on, with how far the run is."""
        if self.progress is not None:
            self._reports.progress(self.progress.totals.settled)
        self.shown.pulse()

    def ended(self) -> None:
        """The run is over; stop the clock."""
        if self.progress is not None:
            self.seconds = time.monotonic() - self._began


class _Session:
    """One start of the worker."""

    def __init__(self, request: RunRequest, reports: Reports, signals: Signals) -> None:
        self._request = request
        self._reports = reports
        self._signals = signals
        self._display = _Observed(display_for(sys.stderr, quiet=request.quiet), reports)
        self._stopped: signal.Signals | None = None

    async def run(self) -> int:
        """Collect, and show how it ended; the exit code."""
        from kubegym.cli import result

        request = self._request
        task = asyncio.ensure_future(self._collect())
        self._listen(task)
        try:
            ended = await task
        except RunFailed as error:
            place = self._reports.output
            hint = f"\n  what is finished is saved; why:  kubegym show {place} --failed" if place else ""
            raise RunFailed(f"{error.message}{hint}", reason=error.reason) from error
        except asyncio.CancelledError:
            if self._stopped is None:
                raise
            print("interrupted before anything ran; nothing was changed", file=sys.stderr)
            return 128 + self._stopped
        if ended is None:
            return 0
        await result.show(
            ended,
            seconds=self._display.seconds,
            fresh=request.fresh,
            retried=request.retry is not None,
            as_json=request.as_json,
        )
        return ended.exit_code

    def _listen(self, task: asyncio.Future[RunResult | None]) -> None:
        """From here on the event loop takes signals. Before a run has begun there is nothing to save."""
        loop = asyncio.get_running_loop()
        self._run: LocalRun | None = None

        def stop(number: signal.Signals) -> None:
            if self._stopped is None:
                self._stopped = number
                self._display.shown.stopping()
            if self._run is not None:
                self._run.stop(number)
            if self._display.progress is None:
                task.cancel()

        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, stop, number)
        if self._signals.received is not None:
            stop(self._signals.received)

    async def _collect(self) -> RunResult | None:
        """Run to the end; None where there was nothing to do."""
        from kubegym.local.localrun import LocalRun
        from kubegym.rollout import WorkerMetrics

        request = self._request
        spec, retry = await self._prepared()
        if spec is None:
            return None
        metrics = WorkerMetrics()
        again = self._reports.output  # a worker before this one died while it collected there
        if again is not None:
            spec, retry = replace(spec, output=again), None
        fresh = request.fresh and again is None
        if fresh and spec.output is not None and not request.retry:
            raise InputError(
                f"--fresh is for runs below ./runs; this one writes to {spec.output}: give another --output"
            )
        cycles.settle()
        async with _served(metrics, request.metrics_port), self._shown(), split(spec, request.split) as spec:
            self._run = LocalRun(spec, display=self._display, metrics=metrics, retry=retry, fresh=fresh)
            ended = await self._run.run()
            self._display.ended()
            return ended

    async def _prepared(self) -> tuple[RunSpec | None, tuple[str, ...] | None]:
        from kubegym.local.resolve import RunFlags, resolve

        if self._request.retry is None:
            return resolve(self._request.targets, RunFlags(**self._request.flags)), None
        run, reasons = self._request.retry
        return await prepare_retry(locate(run), reasons, as_json=self._request.as_json)

    @contextlib.asynccontextmanager
    async def _shown(self) -> AsyncIterator[None]:
        async def beat() -> None:
            while True:
                self._display.pulse()
                await asyncio.sleep(PULSE_SECONDS)

        pulse = asyncio.create_task(beat(), name="display")
        try:
            yield
        finally:
            pulse.cancel()
            await asyncio.gather(pulse, return_exceptions=True)
            self._display.shown.close()


@contextlib.asynccontextmanager
async def split(spec: RunSpec, wanted: bool) -> AsyncIterator[RunSpec]:
    """The spec, with its servers started where that is wanted."""
    if not wanted:
        yield spec
        return
    from kubegym.local.split import split_servers

    async with split_servers(spec) as served:
        yield served


async def prepare_retry(
    output: str, reasons: tuple[str, ...], *, as_json: bool
) -> tuple[RunSpec | None, tuple[str, ...] | None]:
    """The spec of a stored run, and what of it to retry; no spec where nothing failed so.

    A retry that was interrupted goes on first.

    Raises:
        InputError: there is no run, or it did not begin at a command line.
    """
    from kubegym.local.runspec import RunSpec
    from kubegym.rollout import read_run
    from kubegym.storage import open_store

    store = open_store(output)
    try:
        run = await read_run(store)
    finally:
        await store.close()
    raw = run.plan.extra.get("run")
    if raw is None:
        raise InputError(f"{output} was not collected by `kubegym run`; what made it has to retry it")
    spec = replace(RunSpec.from_json(raw), output=output)
    manifest = run.manifest
    if not manifest.complete:
        if run.plan.retries is None:
            raise InputError(f"{output} is not finished; run it again to finish it, then retry what failed")
        print(f"going on with the retry that was interrupted, of {run.plan.expected} rollouts", file=sys.stderr)
        return spec, None
    failures = manifest.totals.failures
    chosen = {reason: count for reason, count in failures.items() if not reasons or reason in reasons}
    count = sum(chosen.values())
    if not count:
        known = ", ".join(f"{reason} {number}" for reason, number in sorted(failures.items()))
        wanted = f" with reason {' or '.join(reasons)}" if reasons else ""
        print(
            f"nothing to retry: no rollout of {output} failed{wanted}" + (f" ({known})" if known else ""),
            file=sys.stderr,
        )
        if as_json:
            from kubegym.cli.errors import print_json

            print_json({"output": output, "retried": 0, "failures": failures})
        return None, None
    print(f"retrying {count} rollouts: " + ", ".join(f"{r} {n}" for r, n in sorted(chosen.items())), file=sys.stderr)
    return spec, reasons


@contextlib.asynccontextmanager
async def _served(metrics: WorkerMetrics, port: int | None) -> AsyncIterator[None]:
    """Prometheus' text on 127.0.0.1 while the block runs."""
    if port is None:
        yield
        return
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=metrics.registry)
    except OSError as error:
        raise InputError(f"--metrics-port {port}: {error.strerror}") from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
