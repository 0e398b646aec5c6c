"""What is printed when a run ended: the table, where the files are, what failed and what to do about it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kubegym.cli.errors import print_json
from kubegym.cli.tables import print_table, result_json, result_rows

if TYPE_CHECKING:
    from kubegym.data.merge import EnvironmentSummary
    from kubegym.local.localrun import RunResult
    from kubegym.rollout import Manifest
    from kubegym.storage import ObjectStore

FAILURES_KEY = "rollouts_failures.jsonl"
_EXAMPLES = 3
_READ = 1 << 20  # bytes of the failures file that are looked at for examples


async def show(result: RunResult, *, seconds: float | None, fresh: bool, retried: bool, as_json: bool) -> None:
    """Print how a run ended: the result on stdout, what to do next on stderr.

    Args:
        result: how it ended.
        seconds: how long this process collected; None where nothing was left to do.
        fresh: whether ``--fresh`` was given.
        retried: whether it was a retry.
        as_json: the result as JSON.
    """
    manifest, summary = result.manifest, result.summary
    if as_json:
        more: dict[str, Any] = {
            "within_budget": result.within_budget,
            "resumed": result.resumed,
            "exit_code": result.exit_code,
        }
        more["seconds"] = None if seconds is None else round(seconds, 3)
        interrupted = result.interrupted.name if result.interrupted else None
        print_json(
            result_json(
                output=result.output,
                manifest=manifest,
                summaries=summary.environments if summary else None,
                files=summary.files if summary else (),
                interrupted=interrupted,
                **more,
            )
        )
    if result.interrupted is not None or summary is None:
        settled, planned = manifest.totals.settled, manifest.planned
        again = "`kubegym retry` again" if retried else "the same command" + (" without --fresh" if fresh else "")
        verb = "interrupted" if result.interrupted is not None else "not finished"
        say(f"{verb}; {settled:,} of {planned:,} saved in {result.output}; {again} resumes")
        return
    if not as_json:
        print()
        print_table(*result_rows(summary.environments), sys.stdout)
        if seconds is not None:
            done = manifest.totals.settled - result.resumed
            print(f"\n{done:,} rollouts in {seconds:.1f} seconds ({done / seconds:.1f}/s)", end="")
        print(f"\nfiles in {result.output}: {', '.join(summary.files)}", flush=True)
    if seconds is None:
        say("this run was finished already" + ("" if retried else "; --fresh starts another"))
    for line in truncated_lines(summary.environments):
        say(line)
    for agent, trouble in summary.metric_errors.items():
        say(f"warning: the metrics of {agent} are not complete: {trouble}")
    if manifest.totals.stale:
        say(stale_line(manifest))
    if manifest.totals.failures:
        for line in failure_hints(result.output, manifest.totals.failures, await _examples(result.output)):
            say(line)
    if not result.within_budget:
        failed, planned = manifest.totals.failed, manifest.planned
        say(
            f"error: {failed:,} of {planned:,} rollouts failed, more than the run allows [RolloutFailureBudgetExceeded]"
        )


def truncated_lines(summaries: Iterable[EnvironmentSummary]) -> list[str]:
    """How many rollouts of each environment were cut short, and by what: a low reward may say no more than that."""
    lines = []
    for one in summaries:
        if one.truncated:
            ordered = sorted(one.truncated.items(), key=lambda item: (-item[1], item[0]))
            why = ", ".join(f"{reason} {count:,}" for reason, count in ordered)
            cut = sum(one.truncated.values())
            lines.append(f"{cut:,} of {one.rollouts:,} rollouts of {one.environment} were cut short: {why}")
    return lines


def stale_line(manifest: Manifest) -> str:
    """How many rollouts are recorded and not delivered, because the policy went on."""
    return f"{manifest.totals.stale:,} of {manifest.planned:,} rollouts are stale: recorded, and not delivered"


def failure_hints(output: str, failures: Mapping[str, int], examples: Mapping[str, str]) -> list[str]:
    """The most frequent reasons, each with what one rollout of it said, and the commands that go on from there."""
    ordered = sorted(failures.items(), key=lambda item: (-item[1], item[0]))
    lines = ["", f"{sum(failures.values()):,} rollouts failed and have no reward:"]
    for reason, count in ordered[:_EXAMPLES]:
        lines.append(f"  {reason} {count:,}" + (f"  such as: {examples[reason]}" if reason in examples else ""))
    if len(ordered) > _EXAMPLES:
        lines.append(f"  and {len(ordered) - _EXAMPLES} more reasons")
    lines.append(f"  look at them:    kubegym show {output} --failed")
    lines.append(f"  run them again:  kubegym retry {output} --reason {ordered[0][0]}")
    return lines


def one_line(text: str, width: int = 160) -> str:
    """Text on one line, cut."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


async def _examples(output: str) -> dict[str, str]:
    """Reason -> the message of one rollout, from the beginning of the merged failures."""
    from kubegym.storage import open_store
    from kubegym.storage.errors import ObjectNotFound

    store: ObjectStore = open_store(output)
    try:
        head = await store.get_range(FAILURES_KEY, 0, _READ)
    except ObjectNotFound:
        return {}
    finally:
        await store.close()
    return messages_of(head)


def messages_of(head: bytes) -> dict[str, str]:
    """Reason -> the first message, of whole lines of failed rows."""
    import orjson

    messages: dict[str, str] = {}
    for line in head.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break  # cut off by the read
        failure: dict[str, Any] | None = orjson.loads(line)["kubegym"]["failure"]
        if failure is not None:
            messages.setdefault(failure["reason"], one_line(failure["message"]))
    return messages


def say(line: str) -> None:
    """Tell the user something that is not the result."""
    print(line, file=sys.stderr, flush=True)
