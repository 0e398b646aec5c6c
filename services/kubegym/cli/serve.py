"""``kubegym serve``: servers for others to talk to."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kubegym.cli.choices import AnswerMode, ServedEngine
from kubegym.cli.errors import guarded
from kubegym.core.errors import InvalidSpec

if TYPE_CHECKING:
    from kubegym.model.queue import FairQueue
    from kubegym.model.server import ControlPort
    from kubegym.model.simulated import Distribution, Faults
    from kubegym.model.weights import Places, Start

serve = typer.Typer(name="serve", help="Serve an environment's agent or resources, or a model.")

FAULTS = ("rate_limited", "internal_error", "unavailable", "hang", "html", "empty_choices", "disconnect", "abort")


@serve.callback()
def _serve() -> None:
    """Serve an environment's agent or resources, or a model."""


EnvironmentArgument = Annotated[str, typer.Argument(metavar="ENVIRONMENT", help="A folder, a name or a manifest file.")]
ListenOption = Annotated[str, typer.Option(metavar="HOST:PORT", help="Port 0 takes a free one.")]
KeyFileOption = Annotated[
    str | None, typer.Option(metavar="FILE", help="Default: KUBEGYM_API_KEY, else OPENAI_API_KEY.")
]


@serve.command("agent")
def agent(
    environment: EnvironmentArgument,
    listen: ListenOption = "127.0.0.1:8001",
    resources_url: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A replica of its resources server, repeatable. Default: in this process."),
    ] = None,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="The policy model's endpoint, with /v1.")] = None,
    model_server: Annotated[
        str | None, typer.Option(metavar="URL", help="The policy's model server instead: KubeGym's or NeMo Gym's.")
    ] = None,
    model_name: Annotated[str | None, typer.Option("--model", metavar="NAME", help="The name it serves.")] = None,
    engine: Annotated[ServedEngine | None, typer.Option(help="A model in this process instead.")] = None,
    api_key_file: KeyFileOption = None,
    max_steps: Annotated[int | None, typer.Option(metavar="N", min=1, help="Model calls of a rollout.")] = None,
) -> None:
    """Serve an agent: /run, /v1/responses, /aggregate_metrics."""

    def work() -> int:
        from kubegym.http.server import serve as serve_app
        from kubegym.local.resolve import RunFlags
        from kubegym.local.serving import agent_app

        host, port = address(listen)
        flags = RunFlags(
            base_url=base_url,
            model_server=model_server,
            model=model_name,
            engine=engine.value if engine else None,
            api_key_file=api_key_file,
            max_steps=max_steps,
            resources_urls=tuple(resource_url_checked(url) for url in resources_url or ()),
        )
        serve_app(agent_app(environment, flags), host, port, on_listening=announce(f"agent of {environment}"))
        return 0

    raise typer.Exit(guarded(work))


@serve.command("resources")
def resources(
    environment: EnvironmentArgument,
    listen: ListenOption = "127.0.0.1:8002",
    processes: Annotated[int, typer.Option(metavar="N", min=1, help="Processes that share the port.")] = 1,
    advertise: Annotated[
        str | None, typer.Option(metavar="HOST", help="Where other replicas reach this machine. Default: POD_IP.")
    ] = None,
    mcp: Annotated[bool, typer.Option("--mcp", help="Also serve the tools over MCP, at /mcp.")] = False,
) -> None:
    """Serve an environment's sessions: /seed_session, its tools, /verify, /reset, /step, /close, /aggregate_metrics."""

    def work() -> int:
        from kubegym.local.serving import resources_service
        from kubegym.resources.processes import run_resources_server

        host, port = address(listen)
        service = resources_service(environment, expose_tools_over_mcp=mcp)
        say = announce(f"resources of {environment}")
        run_resources_server(service, host, port, processes=processes, advertise=advertise, on_listening=say)
        return 0

    raise typer.Exit(guarded(work))


@serve.command("sandbox")
def sandbox(
    token_file: Annotated[str, typer.Option(metavar="FILE", help="The token that callers have to give.")],
    listen: ListenOption = "127.0.0.1:8080",
    places: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Programs at once. Default: processors.")
    ] = None,
    library: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Loaded before the first program; repeatable.")
    ] = None,
    folder: Annotated[
        str | None, typer.Option(metavar="PATH", help="Where programs work. Default: the temporary folder.")
    ] = None,
    without: Annotated[
        str, typer.Option(metavar="WALLS", help="Walls that may be missing: landlock, seccomp, listener.")
    ] = "",
) -> None:
    """Serve the sandbox of this pod to whoever has the token."""

    def work() -> int:
        from kubegym.http.server import serve as serve_app
        from kubegym.sandbox import LocalSandbox, SandboxSettings
        from kubegym.sandbox.server import SandboxService
        from kubegym.sandbox.shared import walls

        host, port = address(listen)
        libraries = None if library is None else tuple(library)
        settings = SandboxSettings(libraries=libraries, places=places, folder=folder, without=walls(without))
        service = SandboxService(LocalSandbox(settings), token_file)
        serve_app(service.app(), host, port, on_listening=announce("sandbox"))
        return 0

    raise typer.Exit(guarded(work))


def announce(what: str) -> Callable[[str], None]:
    """Says on standard output where a server listens; whoever started it may wait for that line."""

    def say(url: str) -> None:
        print(f"{what} at {url}", flush=True)

    return say


def resource_url_checked(url: str) -> str:
    """A base URL. Raises InvalidSpec."""
    if not url.startswith(("http://", "https://")):
        raise InvalidSpec(f"{url}: give a URL such as http://127.0.0.1:8002")
    return url


@serve.command("model")
def model(
    engine: Annotated[ServedEngine | None, typer.Option(help="What answers, in this process.")] = None,
    upstream: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A replica of an OpenAI-compatible server: its root, or /v1; repeatable."),
    ] = None,
    listen: ListenOption = "127.0.0.1:8000",
    name: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help="The name it serves, and asks an upstream for. Default: its own."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="PATH", help="Of the embedded engine: a GGUF file, or the folder of one.")
    ] = None,
    api_key_file: KeyFileOption = None,
    drain_seconds: Annotated[
        float,
        typer.Option(metavar="S", min=0, help="After SIGTERM still take calls, not ready, while any come, at most S."),
    ] = 0.0,
    control_listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The control port: drain, pause, weights, canary.")
    ] = None,
    control_token_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Holds the token that the control port asks for, or its digest.")
    ] = None,
    policy_version: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Of the weights that the engine starts with.")
    ] = None,
    first_weights: Annotated[str | None, typer.Option(metavar="DIR", help="Where these lie, for their canary.")] = None,
    announced: Annotated[
        str | None, typer.Option(metavar="FILE", help="Says which weights are served before it is ready.")
    ] = None,
    weights_folder: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where announced weights are fetched to, for the engine, too."),
    ] = None,
    weights_claim: Annotated[
        list[str] | None, typer.Option(metavar="NAME=DIR", help="A claim that is mounted, for pvc://; repeatable.")
    ] = None,
    weights_credentials: Annotated[
        str | None, typer.Option(metavar="DIR", help="Keys of a Secret, for weights that are fetched.")
    ] = None,
    silence_seconds: Annotated[
        float,
        typer.Option(metavar="S", min=1, help="Without a byte from a replica with calls open, before it is looked at."),
    ] = 30.0,
    latency: Annotated[
        str, typer.Option(metavar="SECONDS", help="To the first token: a number, or MEAN:SIGMA (log-normal).")
    ] = "0",
    tokens: Annotated[
        str | None, typer.Option(metavar="N", help="Length of an answer, likewise. Default: the answer's own.")
    ] = None,
    seconds_per_token: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="Time for each token.")] = 0.0,
    mode: Annotated[AnswerMode, typer.Option(help="How it answers.")] = AnswerMode.fixed,
    text: Annotated[str | None, typer.Option(help="The answer of --mode fixed.")] = None,
    turn: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Answers of --mode scripted, turn by turn; repeatable.")
    ] = None,
    vary: Annotated[bool, typer.Option("--vary", help="Equal requests may get different answers.")] = False,
    tool_probability: Annotated[
        float, typer.Option(metavar="P", min=0, max=1, help="Share of requests with tools that get a call first.")
    ] = 1.0,
    error: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND=SHARE", help=f"Faults, repeatable: {', '.join(FAULTS)}."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    max_concurrency: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="At work at once; others wait. Default: 1,024 a replica."),
    ] = None,
    max_queue: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Calls that wait; others get 429, of a simulated one 503.")
    ] = None,
    context_window: Annotated[int | None, typer.Option(metavar="TOKENS", min=1)] = None,
) -> None:
    """Serve a model: an upstream's, the embedded one, or a simulated one, which says so and has vLLM's metrics."""

    def work() -> int:
        host, port = address(listen)
        if (engine is None) == (not upstream):
            raise InvalidSpec("give --upstream URL, or --engine embedded or simulated")
        if engine is not ServedEngine.simulated:
            from kubegym.model.weights import Start

            options = {
                "queue": queue_of(len(upstream or [1]), max_concurrency, max_queue),
                "control": control_port(control_listen, control_token_file),
                "weights": exchanged(
                    Start(policy_version, path_of(first_weights or weights), path_of(announced)),
                    control_listen is not None,
                    weights_folder,
                    weights_claim or [],
                    weights_credentials,
                ),
                "silence_seconds": silence_seconds,
                "drain_seconds": drain_seconds,
            }
            serve_model(upstream or [], name, api_key_file, host, port, weights, **options)
            return 0
        from kubegym.model.simulated import Answers, SimulatedConfig, run_server

        words = {"text": text} if text is not None else {}
        config = SimulatedConfig(
            model=name or "simulated",
            seed=seed,
            latency=distribution("--latency", latency),
            tokens=None if tokens is None else distribution("--tokens", tokens),
            seconds_per_token=seconds_per_token,
            answers=Answers(mode=mode.value, turns=tuple(turn or ()), vary=vary, **words),  # type: ignore[arg-type]
            tool_probability=tool_probability,
            faults=faults(error or ()),
            max_concurrency=max_concurrency,
            max_queue=max_queue,
            context_window=context_window,
        )
        run_server(config, host, port, drain=drain_seconds)
        return 0

    raise typer.Exit(guarded(work))


def serve_model(
    upstream: list[str],
    name: str | None,
    api_key_file: str | None,
    host: str,
    port: int,
    gguf: str | None = None,
    **options: Any,
) -> None:
    """Serve upstreams by URL, or the embedded engine where there is none; ``options`` as of ``run_model_server``."""
    from kubegym.local.models import api_key, build_client
    from kubegym.local.runspec import ModelRef
    from kubegym.model.server import run_model_server

    if upstream:
        key = api_key(ModelRef("endpoint", name or "", api_key_file=api_key_file))
        run_model_server(
            upstream,
            host,
            port,
            model=name,
            api_key=key,
            on_listening=announce("model server"),
            **options,
        )
        return
    path = gguf_file(gguf) if gguf else None
    client = build_client(
        ModelRef("embedded", name or (Path(path).stem if path else "tiny"), path=path), concurrency=64
    )
    run_model_server(
        [client],  # type: ignore[list-item]
        host,
        port,
        on_listening=announce("model server"),
        **options,
    )


def queue_of(replicas: int, at_work: int | None, waiting: int | None) -> FairQueue:
    """The queue before so many replicas."""
    from kubegym.model.queue import AT_WORK, WAITING, FairQueue

    return FairQueue(AT_WORK * replicas if at_work is None else at_work, WAITING if waiting is None else waiting)


def path_of(text: str | None) -> Path | None:
    """A path, where there is one."""
    return None if text is None else Path(text)


def exchanged(
    start: Start, controlled: bool, folder: str | None, claims: Sequence[str], credentials: str | None
) -> tuple[Places, Start] | None:
    """How weights are exchanged; None: not at all. Raises InvalidSpec."""
    from kubegym.model.weights import Places

    if not controlled and start.version is None and start.announced is None:
        return None
    mounted = {}
    for word in claims:
        name, equals, path = word.partition("=")
        if not equals or not name or not path:
            raise InvalidSpec(f"--weights-claim {word}: give NAME=DIR")
        mounted[name] = Path(path)
    return Places(path_of(folder), mounted, path_of(credentials)), start


def control_port(listen: str | None, token_file: str | None) -> ControlPort | None:
    """Where a model server is controlled. Raises InvalidSpec."""
    from kubegym.model.server import ControlPort

    if listen is None and token_file is None:
        return None
    if listen is None or token_file is None:
        raise InvalidSpec("a control port needs both --control-listen and --control-token-file")
    host, port = address(listen)
    return ControlPort(host, port, Path(token_file), announce("control"))


def gguf_file(path: str) -> str:
    """A GGUF file, or the only one of a folder. Raises InvalidSpec."""
    if not Path(path).is_dir():
        return path
    files = sorted(Path(path).rglob("*.gguf"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise InvalidSpec(f"--weights {path}: the folder should hold one .gguf file, not {names}")
    return str(files[0])


def address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``, ``[v6]:PORT`` or ``:PORT`` (every interface). Raises InvalidSpec."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InvalidSpec(f"--listen {text}: give HOST:PORT, such as 127.0.0.1:8000")
    return host.strip("[]") or "0.0.0.0", int(port)


_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)(?:[eE]-?\d+)?"
_DISTRIBUTION = re.compile(rf"^(?P<mean>{_NUMBER})(?::(?P<sigma>{_NUMBER}))?$")


def distribution(option: str, text: str) -> Distribution:
    """A constant, or a log-normal distribution of ``MEAN:SIGMA``. Raises InvalidSpec."""
    from kubegym.model.simulated import Distribution

    match = _DISTRIBUTION.match(text)
    if match is None:
        raise InvalidSpec(f"{option} {text}: give a number, or MEAN:SIGMA for a log-normal distribution")
    mean, sigma = match["mean"], match["sigma"]
    if sigma is None:
        return Distribution.constant(float(mean))
    return Distribution.lognormal(float(mean), float(sigma))


def faults(given: list[str] | tuple[str, ...]) -> Faults:
    """Faults of ``KIND=SHARE`` words. Raises InvalidSpec."""
    from kubegym.core.spec import did_you_mean
    from kubegym.model.simulated import Faults

    shares: dict[str, float] = {}
    for word in given:
        kind, equals, share = word.partition("=")
        if kind not in FAULTS:
            raise InvalidSpec(f"--error {word}: no fault is called {kind!r}" + did_you_mean(kind, FAULTS))
        try:
            shares[kind] = float(share if equals else "")
        except ValueError:
            raise InvalidSpec(f"--error {word}: give KIND=SHARE, such as {kind}=0.05") from None
    return Faults(**shares)
