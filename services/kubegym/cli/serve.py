"""``kubegym serve``: servers for others to talk to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from kubegym.cli.choices import AnswerMode, ServedEngine
from kubegym.cli.errors import guarded
from kubegym.core.errors import InvalidSpec

if TYPE_CHECKING:
    from kubegym.model.simulated import Distribution, Faults

serve = typer.Typer(name="serve", help="Serve a model.")

FAULTS = ("rate_limited", "internal_error", "unavailable", "hang", "html", "empty_choices", "disconnect", "abort")


@serve.callback()
def _serve() -> None:
    """Serve a model."""


@serve.command("model")
def model(
    engine: Annotated[ServedEngine, typer.Option(help="What answers.")],
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Port 0 takes a free one.")] = "127.0.0.1:8000",
    name: Annotated[str, typer.Option("--model", metavar="NAME", help="The name it serves.")] = "simulated",
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
    max_concurrency: Annotated[int | None, typer.Option(metavar="N", min=1, help="Others wait.")] = None,
    max_queue: Annotated[int | None, typer.Option(metavar="N", min=0, help="Others get 503.")] = None,
    context_window: Annotated[int | None, typer.Option(metavar="TOKENS", min=1)] = None,
) -> None:
    """Serve a simulated OpenAI-compatible model, with vLLM's metrics. It says that it is simulated."""

    def work() -> int:
        from kubegym.model.simulated import Answers, SimulatedConfig, run_server

        host, port = address(listen)
        words = {"text": text} if text is not None else {}
        config = SimulatedConfig(
            model=name,
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
        run_server(config, host, port)
        return 0

    raise typer.Exit(guarded(work))


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
