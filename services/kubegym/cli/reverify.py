"""``kubegym reverify``: stored rollouts, scored again."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kubegym.cli.errors import guarded, print_json
from kubegym.cli.tables import number, print_table
from kubegym.core.errors import InvalidSpec

if TYPE_CHECKING:
    from kubegym.cli.display import RunDisplay
    from kubegym.data.changes import Changes
    from kubegym.local.reverify import Reverification, Reverified, Reverifier
    from kubegym.local.runspec import Entry, ModelRef

_PULSE_SECONDS = 0.2


def reverify(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder, URI or name of a finished run.")],
    environment: Annotated[
        str | None,
        typer.Option(metavar="TARGET", help="Folder, name or manifest of the verifier. Default: the run's own."),
    ] = None,
    role: Annotated[str, typer.Option(help="Which model --base-url and --model are.")] = "judge",
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Another judge: an OpenAI-compatible endpoint, with /v1.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The model that it serves.")] = None,
    api_key_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Default: KUBEGYM_API_KEY, else OPENAI_API_KEY.")
    ] = None,
    concurrency: Annotated[int, typer.Option(metavar="C", min=1, help="Rollouts verified at a time.")] = 64,
    output: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder or URI of the new run. Default: below runs/.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also environments that do not promise it (stateless_verify).")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Score the rollouts of a finished run again, and say what has changed.

    The run stays as it is: the new scores are a run of their own. The same command again resumes.
    """

    def work() -> int:
        from kubegym.cli.display import display_for
        from kubegym.cli.locate import locate
        from kubegym.local.reverify import Reverification, Reverifier

        found = locate(run)
        wanted = Reverification(
            found,
            entries=_entries(environment, found) if environment else None,
            models=_models(role, base_url, model, api_key_file),
            output=output,
            concurrency=concurrency,
            force=force,
        )
        display = display_for(sys.stderr, quiet=quiet)
        return asyncio.run(_run(Reverifier(wanted, display=display), wanted, display, as_json=as_json))

    raise typer.Exit(guarded(work, as_json=as_json))


def _models(role: str, base_url: str | None, model: str | None, api_key_file: str | None) -> dict[str, ModelRef]:
    from kubegym.cli.run import checked_base_url
    from kubegym.local.runspec import ModelRef

    if base_url is None and model is None:
        return {}
    if base_url is None or model is None:
        raise InvalidSpec("another judge needs both --base-url and --model")
    if role == "policy":
        raise InvalidSpec("--role policy: stored rollouts ask no policy")
    return {role: ModelRef("endpoint", model, base_url=checked_base_url(base_url), api_key_file=api_key_file)}


def _entries(target: str, run: str) -> Mapping[str, Entry]:
    """The entries of a target by the names that the run's entries have: the one for the one, else by name."""
    from kubegym.local import load
    from kubegym.local.resolve import RunFlags, resolve

    entries = resolve([target], RunFlags(engine="simulated")).entries
    names = [entry["name"] for entry in load(run).plan.environments]
    if len(entries) == len(names) == 1:
        return {names[0]: entries[0]}
    return {entry.name: entry for entry in entries}


async def _run(reverifier: Reverifier, wanted: Reverification, display: RunDisplay, *, as_json: bool) -> int:
    received: list[int] = []

    def stop(signum: int) -> None:
        received.append(signum)
        display.stopping()
        reverifier.stop()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop, signum)
    async with _pulsing(display):
        done = await reverifier.run()
    if not done.manifest.complete:
        settled, planned = done.manifest.totals.settled, done.manifest.planned
        print(
            f"interrupted; {settled:,} of {planned:,} saved in {done.output}; the same command resumes", file=sys.stderr
        )
        return 128 + received[0] if received else 1
    if as_json:
        print_json(result_json(wanted.run, done))
    else:
        show(done)
    return 0


@contextlib.asynccontextmanager
async def _pulsing(display: RunDisplay) -> AsyncIterator[None]:
    async def beat() -> None:
        while True:
            display.pulse()
            await asyncio.sleep(_PULSE_SECONDS)

    pulse = asyncio.create_task(beat(), name="display")
    try:
        yield
    finally:
        pulse.cancel()
        await asyncio.gather(pulse, return_exceptions=True)
        display.close()


def result_json(run: str, done: Reverified) -> dict[str, Any]:
    """The result for programs."""
    environments = {name: changes.to_dict() for name, changes in done.changes.items()}
    return {"run": run, "output": done.output, "complete": done.manifest.complete, "environments": environments}


def show(done: Reverified) -> None:
    """Print what has changed: a line for each environment, then the first changed rollouts."""
    from kubegym.data.changes import mean

    headings = ["environment", "rollouts", "same", "higher", "lower", "gained", "lost", "mean before", "mean after"]
    rows = []
    for name, changes in done.changes.items():
        counts = (changes.rollouts, changes.same, changes.higher, changes.lower, changes.gained, changes.lost)
        means = (mean(changes.before), mean(changes.after))
        rows.append([name, *(f"{count:,}" for count in counts), *map(number, means)])
    print()
    print_table(headings, rows, sys.stdout)
    for name, changes in done.changes.items():
        versions = ", ".join(
            before if before == after else f"{before} -> {after}" for before, after in changes.verifiers
        )
        print(f"\nverifier of {name}: {versions}")
        for line in changed_lines(changes):
            print(line)
    print(f"\nthe new run: {done.output}", flush=True)


def changed_lines(changes: Changes) -> list[str]:
    """The first changed rollouts, and how many more there are."""
    lines = [
        f"  {one.rollout_id}: {_result(one.before, one.outcomes[0])} -> {_result(one.after, one.outcomes[1])}"
        + (f" ({one.why})" if one.why else "")
        for one in changes.examples
    ]
    if changes.changed > len(changes.examples):
        lines.append(f"  and {changes.changed - len(changes.examples):,} more")
    if changes.kept:
        lines.append(f"  {changes.kept:,} rollouts have no conversation to verify and stay as they were")
    return lines


def _result(reward: float | None, outcome: str) -> str:
    return outcome if reward is None else f"{reward:g}"
