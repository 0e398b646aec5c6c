"""``kubegym run`` and ``kubegym retry``."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from kubegym.cli.choices import Engine, KeptTokens, LogFormat, LogLevel
from kubegym.cli.errors import guarded
from kubegym.core.errors import InvalidSpec

_MODEL = "Model"
_WHAT = "What is collected"
_PACE = "Pace and output"
_LOGS = "Logs"

LogLevelOption = Annotated[
    LogLevel | None,
    typer.Option("--log-level", help="Default: error; info with --log-file.", rich_help_panel=_LOGS),
]
LogFormatOption = Annotated[LogFormat, typer.Option("--log-format", rich_help_panel=_LOGS)]
LogFileOption = Annotated[
    Path | None, typer.Option("--log-file", metavar="FILE", help="Default: stderr.", rich_help_panel=_LOGS)
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.", rich_help_panel=_LOGS)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
MetricsPortOption = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        metavar="PORT",
        min=1,
        max=65535,
        help="Serve Prometheus metrics on 127.0.0.1 while it runs.",
        rich_help_panel=_LOGS,
    ),
]


def run(
    targets: Annotated[
        list[str], typer.Argument(metavar="TARGET...", help="An environment's folder or name, or manifest files.")
    ],
    dataset: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Rows: a file or URI. Default: the sample job's.", rich_help_panel=_WHAT),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Take N tasks.", rich_help_panel=_WHAT)] = None,
    offset: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Leave the first N rows out.", rich_help_panel=_WHAT)
    ] = None,
    shuffle_seed: Annotated[
        int | None, typer.Option(metavar="SEED", help="Shuffle the rows.", rich_help_panel=_WHAT)
    ] = None,
    rollouts_per_task: Annotated[
        int | None, typer.Option(metavar="K", min=1, help="Rollouts of each task.", rich_help_panel=_WHAT)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", min=0, max=2, help="Over the rows' own.", rich_help_panel=_WHAT)
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(metavar="P", min=0, max=1, help="Likewise.", rich_help_panel=_WHAT)
    ] = None,
    max_output_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Of one model call.", rich_help_panel=_WHAT)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="SEED", help="Every call gets one derived from it.", rich_help_panel=_WHAT)
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Model calls of one rollout.", rich_help_panel=_WHAT)
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="OpenAI-compatible endpoint, with /v1.", rich_help_panel=_MODEL),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Model it serves, or a GGUF file.", rich_help_panel=_MODEL),
    ] = None,
    engine: Annotated[
        Engine | None, typer.Option(help="A model in this process instead of a URL.", rich_help_panel=_MODEL)
    ] = None,
    api_key_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Default: KUBEGYM_API_KEY, else OPENAI_API_KEY.", rich_help_panel=_MODEL),
    ] = None,
    agent_url: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL", help="An agent server that makes the rollouts; repeatable.", rich_help_panel=_MODEL
        ),
    ] = None,
    resources_url: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A resources server with the sessions; repeatable.", rich_help_panel=_MODEL),
    ] = None,
    split: Annotated[
        bool,
        typer.Option(
            "--split", help="Start model, resources and agent server, and run over them.", rich_help_panel=_MODEL
        ),
    ] = False,
    concurrency: Annotated[
        int | None, typer.Option(metavar="C", min=1, help="Rollouts in flight.", rich_help_panel=_PACE)
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder or URI. Default: runs/NAME/DIGEST.", rich_help_panel=_PACE),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew beside earlier runs of the same.", rich_help_panel=_PACE)
    ] = False,
    tokens: Annotated[
        KeptTokens | None,
        typer.Option(help="Token ids: in Arrow files beside the rows, or in the rows.", rich_help_panel=_PACE),
    ] = None,
    max_policy_version_lag: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Policy versions that may pass while a rollout runs; an older one is stale.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    materialized_inputs: Annotated[
        bool,
        typer.Option("--materialized-inputs", help="Also write what each rollout was asked.", rich_help_panel=_PACE),
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    metrics_port: MetricsPortOption = None,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = LogFormat.text,
    log_file: LogFileOption = None,
) -> None:
    """Collect rollouts of an environment, or of GymEnvironment and RolloutJob manifests.

    The same command again resumes: it does only what is missing.
    """
    flags: dict[str, Any] = {
        "dataset": dataset,
        "limit": limit,
        "offset": offset,
        "shuffle_seed": shuffle_seed,
        "rollouts_per_task": rollouts_per_task,
        "temperature": temperature,
        "top_p": top_p,
        "max_output_tokens": max_output_tokens,
        "seed": seed,
        "max_steps": max_steps,
        "base_url": base_url,
        "model": model,
        "engine": engine.value if engine else None,
        "api_key_file": api_key_file,
        "concurrency": concurrency,
        "output": output,
        "tokens": tokens.value.capitalize() if tokens else None,
        "max_policy_version_lag": max_policy_version_lag,
        "materialized_inputs": materialized_inputs,
        "agent_urls": tuple(agent_url or ()),
        "resources_urls": tuple(resources_url or ()),
    }

    def request() -> Any:
        from kubegym.cli.worker import RunRequest

        if base_url is not None:
            flags["base_url"] = checked_base_url(base_url)
        if fresh and output is not None:
            raise InvalidSpec("--fresh begins anew below ./runs; with --output give another folder instead")
        return RunRequest(
            targets=tuple(targets),
            flags=flags,
            fresh=fresh,
            quiet=quiet,
            as_json=as_json,
            metrics_port=metrics_port,
            split=split,
            logging=logging_of(log_level, log_format, log_file),
        )

    raise typer.Exit(_supervised(request, as_json=as_json, log_level=log_level))


def retry(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder, URI or name.")],
    reason: Annotated[
        list[str] | None, typer.Option("--reason", metavar="REASON", help="Only these reasons. Default: all.")
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    metrics_port: MetricsPortOption = None,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = LogFormat.text,
    log_file: LogFileOption = None,
) -> None:
    """Run the rollouts of a finished run again that failed. Their new attempt becomes their result."""

    def request() -> Any:
        from kubegym.cli.worker import RunRequest

        return RunRequest(
            retry=(run, tuple(reason or ())),
            quiet=quiet,
            as_json=as_json,
            metrics_port=metrics_port,
            logging=logging_of(log_level, log_format, log_file),
        )

    raise typer.Exit(_supervised(request, as_json=as_json, log_level=log_level))


def logging_of(level: LogLevel | None, style: LogFormat, file: Path | None) -> Any:
    """The logging that the options mean; a file is for reading later, and so has more in it."""
    from kubegym.cli.worker import Logging

    default = "error" if file is None else "info"
    return Logging(level.value if level else default, style.value, file)


def _supervised(request: Any, *, as_json: bool, log_level: LogLevel | None) -> int:
    def watch() -> int:
        from kubegym.cli.worker import work
        from kubegym.local.supervise import supervise

        return supervise(partial(work, request()), _tell)

    return guarded(watch, as_json=as_json, debug=log_level is LogLevel.debug)


def _tell(line: str) -> None:
    """What the supervisor says, on a terminal that a dead worker may have left without a cursor."""
    restore = "\r\x1b[?25h" if sys.stderr.isatty() else ""
    print(f"{restore}{line}", file=sys.stderr, flush=True)


_VERSIONED = re.compile(r"/v\d+\w*(/|$)")


def checked_base_url(url: str) -> str:
    """A base URL as ``--base-url`` takes it.

    Raises:
        InvalidSpec: not a URL of an OpenAI-compatible API; says what to give instead.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidSpec(f"--base-url {url}: give a URL such as http://localhost:8000/v1")
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.username is not None or parts.query or parts.fragment:
        raise InvalidSpec(
            f"--base-url {shown}: give no user, query or fragment; the key comes from KUBEGYM_API_KEY or --api-key-file"
        )
    for tail in ("/chat/completions", "/completions", "/responses", "/models"):
        if parts.path.rstrip("/").endswith(tail):
            raise InvalidSpec(f"--base-url {shown}: leave {tail} out; the URL ends with /v1")
    if not _VERSIONED.search(parts.path):
        raise InvalidSpec(f"--base-url {shown}: the URL has to end with /v1: {shown.rstrip('/')}/v1")
    return url
