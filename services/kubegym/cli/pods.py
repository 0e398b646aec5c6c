"""``kubegym worker``, ``kubegym finalise`` and ``kubegym fetch``: what the operator's Jobs run."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kubegym.cli.choices import LogFormat, LogLevel
from kubegym.cli.errors import guarded

if TYPE_CHECKING:
    from kubegym.local.supervise import Reports, Signals

RunFile = Annotated[Path, typer.Option("--run", metavar="FILE", help="The frozen run: run.json.")]
LogLevelOption = Annotated[LogLevel, typer.Option("--log-level", help="Of the log on stderr.")]
LogFormatOption = Annotated[LogFormat, typer.Option("--log-format", help="How a line of it looks.")]


def worker(
    run: RunFile,
    pace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="pace.json, read again while it works. Default: the run's.")
    ] = None,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Probes, metrics and progress.")] = ":9090",
    log_level: LogLevelOption = LogLevel.info,
    log_format: LogFormatOption = LogFormat.json,
) -> None:
    """Collect rollouts of a RolloutJob beside its other workers. Runs in the pods of its Job."""

    def work() -> int:
        from kubegym.cli.serve import address
        from kubegym.local.supervise import supervise

        host, port = address(listen)
        return supervise(partial(_work, run, pace, host, port, (log_level.value, log_format.value)), _tell)

    raise typer.Exit(guarded(work))


def _work(
    run: Path, pace: Path | None, host: str, port: int, logging: tuple[str, str], reports: Reports, signals: Signals
) -> int:
    """One life of the worker; ``supervise`` calls it."""

    def life() -> int:
        import asyncio

        import uvloop

        from kubegym.cli import logs
        from kubegym.pods.settings import PodSettings
        from kubegym.pods.worker import PodWorker, WorkerOptions, last_stall, until_done

        level, style = logging
        logs.configure(level, "json" if style == "json" else "text")
        settings = PodSettings()
        options = WorkerOptions(run, pace, host, port)
        made = PodWorker(options, settings, settled=reports.progress, on_stall=partial(last_stall, settings))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(until_done(made, signals.received))

    return guarded(life)


def _tell(line: str) -> None:
    """What the supervisor says of a life that ended badly; the next one's words come after."""
    from kubegym.pods.settings import PodSettings
    from kubegym.pods.words import say_why

    print(line, file=sys.stderr, flush=True)
    say_why(PodSettings().termination_log, "WorkerCrashed", line)


def finalise(
    run: RunFile,
    log_level: LogLevelOption = LogLevel.info,
    log_format: LogFormatOption = LogFormat.json,
) -> None:
    """Write the manifest of a RolloutJob whose workers are done. Runs in its finaliser's pod; may be run again."""

    def work() -> int:
        import asyncio

        from kubegym.cli import logs
        from kubegym.pods.finaliser import run_finaliser
        from kubegym.pods.settings import PodSettings
        from kubegym.pods.signals import until_signal

        logs.configure(log_level.value, "json" if log_format is LogFormat.json else "text")
        return asyncio.run(until_signal(run_finaliser(run, PodSettings())))

    raise typer.Exit(guarded(work))


def fetch(
    uri: Annotated[str, typer.Argument(metavar="URI", help="hf://ORGANISATION/NAME, s3:// or gs://.")],
    into: Annotated[Path, typer.Option("--into", metavar="FOLDER", help="Where the weights shall be.")],
    revision: Annotated[str | None, typer.Option(metavar="REVISION", help="Of hf://: a commit.")] = None,
    credentials: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A mounted Secret. Default: the environment's.")
    ] = None,
    log_level: LogLevelOption = LogLevel.info,
    log_format: LogFormatOption = LogFormat.json,
) -> None:
    """Fetch and verify a model's weights, unless they are there. Runs in a ModelServer's fetch Job."""

    def work() -> int:
        import asyncio

        from kubegym.cli import logs
        from kubegym.pods.settings import PodSettings
        from kubegym.pods.signals import until_signal
        from kubegym.pods.weights import run_fetch

        logs.configure(log_level.value, "json" if log_format is LogFormat.json else "text")
        return asyncio.run(until_signal(run_fetch(uri, into, revision, credentials, PodSettings())))

    raise typer.Exit(guarded(work))
