"""Tables and the texts below them. Pure: from summaries to text; printing is the caller's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

    from kubegym.data.merge import EnvironmentSummary
    from kubegym.rollout import Manifest

WIDE = 200  # columns where nobody says how many there are: a pipe or a file


def console(stream: TextIO) -> Console:
    """A console that wraps on terminals only."""
    from rich.console import Console

    return Console(file=stream, width=None if stream.isatty() else WIDE, soft_wrap=not stream.isatty())


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table; ``-`` where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A percentage for a table (contract 2.4 gives percent, not shares)."""
    return "-" if value is None else f"{value:.1f} %"


def pass_at_k(summary: EnvironmentSummary) -> str:
    """pass@k with its k, and its coverage where some tasks have fewer scored rollouts."""
    if summary.pass_at_k is None:
        return "-"
    covered = "" if summary.coverage >= 1 else f", {summary.coverage:.0%} of tasks"
    return f"{percent(summary.pass_at_k)} (k={summary.k}{covered})"


def failed_cell(failed: Mapping[str, int]) -> str:
    """The number of failed rollouts, and below it how many by each reason."""
    ordered = sorted(failed.items(), key=lambda item: (-item[1], item[0]))
    return "\n".join([f"{sum(failed.values()):,}", *(f"{reason} {count:,}" for reason, count in ordered)])


def seconds_cell(summary: EnvironmentSummary) -> str:
    """Mean duration of a rollout."""
    return f"{summary.seconds / summary.rollouts:.2f}" if summary.rollouts else "-"


def result_rows(summaries: Iterable[EnvironmentSummary]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the result table. The column ``unscored`` is there when something is."""
    summaries = list(summaries)
    unscored = any(summary.unscored for summary in summaries)
    headings = ["environment", "tasks", "rollouts", "scored", *(["unscored"] if unscored else []), "failed"]
    headings += ["mean reward", "pass@1", "pass@k", "tokens in/out", "s/rollout"]
    rows = []
    for summary in summaries:
        row = [summary.environment, f"{summary.tasks:,}", f"{summary.rollouts:,}", f"{summary.scored:,}"]
        row += [f"{summary.unscored:,}"] if unscored else []
        row += [failed_cell(summary.failed), number(summary.mean_reward), percent(summary.pass_at_1)]
        row += [pass_at_k(summary), f"{summary.input_tokens:,} / {summary.output_tokens:,}", seconds_cell(summary)]
        rows.append(row)
    return headings, rows


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], stream: TextIO, left: int = 1) -> None:
    """Print a table; the first ``left`` columns and those named ``failed`` or like texts are left-aligned."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, heading in enumerate(headings):
        textual = index < left or heading in _TEXTUAL
        table.add_column(heading, justify="left" if textual else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console(stream).print(table)


_TEXTUAL = frozenset({"failed", "description", "state", "stop reason", "outcome", "failure", "answer", "place"})


def result_json(
    *,
    output: str,
    manifest: Manifest,
    summaries: Sequence[EnvironmentSummary] | None,
    files: Sequence[str],
    **more: Any,
) -> dict[str, Any]:
    """A run's result for programs."""
    from dataclasses import asdict

    totals = manifest.totals
    return {
        "run_id": manifest.run_id,
        "name": manifest.name,
        "generation": manifest.generation,
        "output": output,
        "complete": manifest.complete,
        "rollouts": {
            "planned": manifest.planned,
            "scored": totals.scored,
            "unscored": totals.unscored,
            "failed": totals.failed,
            "failures": dict(sorted(totals.failures.items())),
            "stale": totals.stale,
        },
        "mean_reward": totals.reward / totals.scored if totals.scored else None,
        "tokens": {"input": totals.input_tokens, "output": totals.output_tokens},
        "environments": None if summaries is None else [asdict(summary) for summary in summaries],
        "files": list(files),
        **more,
    }
