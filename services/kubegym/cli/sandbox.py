"""``kubegym sandbox``: run untrusted programs, and see what this machine can hold."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kubegym.cli.errors import FAILED, guarded, print_json

if TYPE_CHECKING:
    from kubegym.sandbox import Execution, Limits, SandboxSettings

sandbox = typer.Typer(name="sandbox", help="Run code that nobody trusts, and see what holds it.")

WithoutOption = Annotated[
    str, typer.Option(metavar="WALLS", help="Walls that may be missing: landlock, seccomp, listener.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


@sandbox.callback()
def _sandbox() -> None:
    """Run code that nobody trusts, and see what holds it."""


@sandbox.command("check")
def check(
    probe: Annotated[bool, typer.Option(help="Also run a program that tries the walls.")] = True,
    without: WithoutOption = "",
    as_json: JsonOption = False,
) -> None:
    """Say what this machine or pod can enforce. Exit code 2 when it cannot hold untrusted code."""

    def work() -> int:
        from kubegym.sandbox.check import examine, require
        from kubegym.sandbox.probe import probed
        from kubegym.sandbox.shared import walls

        enforced = examine()
        rows = [
            {"name": found.name, "holds": found.holds, "needed": found.needed, "text": found.text}
            for found in enforced.findings
        ]
        contained = []
        if not as_json:
            for found in enforced.findings:
                sign = "yes" if found.holds else ("NO" if found.needed else "no")
                print(f"{sign:4}{found.name:20}{found.text}")
        require(walls(without))
        if probe:
            contained = asyncio.run(probed(walls(without)))
            for tried, held, text in () if as_json else contained:
                print(f"{'yes' if held else 'NO':4}{tried:20}{text}")
        if as_json:
            tries = [{"name": tried, "holds": held, "needed": True, "text": text} for tried, held, text in contained]
            print_json({"findings": rows + tries})
        return 0 if all(held for _, held, _ in contained) else FAILED

    raise typer.Exit(guarded(work, as_json=as_json))


@sandbox.command("exec", context_settings={"allow_interspersed_args": False})
def execute(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A Python program, or another executable with --argv.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="ARGUMENT", help="Of --argv.")] = None,
    argv: Annotated[bool, typer.Option("--argv", help="FILE is a program by name or path, not Python code.")] = False,
    cpu_seconds: Annotated[float, typer.Option(metavar="S", help="CPU time of all its processes.")] = 10.0,
    wall_seconds: Annotated[float, typer.Option(metavar="S", help="Time from start to end.")] = 30.0,
    memory: Annotated[int, typer.Option(metavar="MIB", help="Memory of all its processes.")] = 512,
    processes: Annotated[int, typer.Option(metavar="N", help="Processes it may start.")] = 0,
    library: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Loaded before it starts; repeatable. Default: numpy.")
    ] = None,
    with_file: Annotated[
        list[Path] | None, typer.Option("--file", metavar="PATH", help="Put into its folder; repeatable.")
    ] = None,
    without: WithoutOption = "",
    as_json: JsonOption = False,
) -> None:
    """Run a program in the sandbox; print what it wrote, how it ended and what was refused. Input comes from stdin.

    The exit code is the program's; 128 and more: a signal or a limit ended it.
    """

    def work() -> int:
        from kubegym.sandbox import Limits, SandboxSettings
        from kubegym.sandbox.shared import walls

        limits = Limits(
            cpu_seconds=cpu_seconds, wall_seconds=wall_seconds, memory_bytes=memory << 20, processes=processes
        )
        settings = SandboxSettings(
            libraries=None if library is None else tuple(library), places=1, without=walls(without)
        )
        code = None if argv else file.read_text(encoding="utf-8")
        command = [str(file), *(arguments or ())] if argv else None
        files = {path.name: path.read_bytes() for path in with_file or ()}
        stdin = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
        done = asyncio.run(_run(settings, limits, code, command, files, stdin))
        if as_json:
            from kubegym.sandbox.wire import execution_to_json

            print_json(execution_to_json(done))
        else:
            _show(done)
        if done.exit_code is not None and done.stopped is None:
            return done.exit_code
        return 128 + (done.signal or 0)

    raise typer.Exit(guarded(work, as_json=as_json))


async def _run(
    settings: SandboxSettings,
    limits: Limits,
    code: str | None,
    argv: list[str] | None,
    files: dict[str, bytes],
    stdin: bytes,
) -> Execution:
    from kubegym.sandbox import LocalSandbox

    sandbox = LocalSandbox(settings)
    try:
        return await sandbox.run(code, argv=argv, files=files, stdin=stdin, limits=limits)
    finally:
        await sandbox.close()


def _show(done: Execution) -> None:
    """The program's words where it meant them to go, ours on stderr."""
    print(done.stdout, end="", flush=True)
    print(done.stderr, end="", file=sys.stderr)
    how = f"exit code {done.exit_code}" if done.signal is None else f"signal {done.signal}"
    if done.stopped is not None:
        how = f"stopped: {done.stopped} limit"
    cut = ", output cut" if done.cut else ""
    refused = f", refused: {', '.join(done.refused)}" if done.refused else ""
    took = f"{done.cpu_seconds * 1000:.1f} ms CPU, {done.wall_seconds * 1000:.1f} ms"
    print(f"sandbox: {how}, {took}{cut}{refused}", file=sys.stderr)
