"""The command ``kubegym``. Commands import what they need when they run: ``kubegym version`` costs next to nothing."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

import kubegym
from kubegym.cli import canary, cluster, gc, init, listing, pods, sandbox, serve, validate
from kubegym.cli import reverify as reverifying
from kubegym.cli import run as running
from kubegym.cli import samples as sampling
from kubegym.cli import show as showing
from kubegym.cli.errors import BAD_INPUT, print_json
from kubegym.cli.stdio import secure_standard_streams

app = typer.Typer(
    name="kubegym",
    help="Run reinforcement-learning environments for language models, and collect their rollouts.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(running.run)
app.command("show")(showing.show)
app.command("list")(listing.list_)
app.command("samples")(sampling.samples)
app.command("init")(init.init)
app.command("validate")(validate.validate)
app.command("retry")(running.retry)
app.command("reverify")(reverifying.reverify)
app.command("apply")(cluster.apply)
app.command("get")(cluster.get)
app.command("describe")(cluster.describe)
app.command("logs")(cluster.logs)
app.command("gc")(gc.gc)
app.command("canary")(canary.canary)
app.command("worker")(pods.worker)
app.command("finalise")(pods.finalise)
app.command("fetch")(pods.fetch)

app.add_typer(serve.serve)
app.add_typer(sandbox.sandbox)


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def version(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """Print the version."""
    if as_json:
        print_json({"version": kubegym.__version__, "python": sys.version.split()[0]})
    else:
        print(f"kubegym {kubegym.__version__}")


_UsageProblem: type[Exception] = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


def invoke(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code. Usage errors are said in one line, as all others."""
    try:
        code = app(args=None if arguments is None else list(arguments), prog_name="kubegym", standalone_mode=False)
    except _UsageProblem as problem:
        context = getattr(problem, "ctx", None)
        command = context.command_path if context is not None else "kubegym"
        print(f"error: {problem.format_message()}", file=sys.stderr)  # type: ignore[attr-defined]
        print(f"  `{command} --help` lists what there is", file=sys.stderr)
        return BAD_INPUT
    except (typer.Abort, KeyboardInterrupt):
        return 130
    return code if isinstance(code, int) else 0


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the ``kubegym`` script."""
    secure_standard_streams()
    code = invoke(arguments)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a thread of a native library (object store, engine) that still finishes a call while the interpreter
    # is taken down aborts the process, in one of ten quick failures of a store.
    os._exit(code)


if __name__ == "__main__":
    main()
