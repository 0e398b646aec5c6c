"""``kubegym show``: a run's table, a task, a rollout turn by turn. Streams: no run is too large to look at."""

from __future__ import annotations

import heapq
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kubegym.cli.errors import guarded, print_json
from kubegym.cli.locate import locate
from kubegym.cli.result import one_line, stale_line
from kubegym.core.errors import InputError, InvalidSpec

if TYPE_CHECKING:
    from kubegym.data.merge import EnvironmentSummary
    from kubegym.rollout import StoredRun

SHOWN_TASKS = 20
SHOWN_FAILED = 50
_ROLLOUT = re.compile(r"^(?:[0-9a-zA-Z]+-)?(\d+)-(\d+)(?:-a(\d+))?$")


@dataclass(frozen=True)
class Address:
    """A task, or one rollout of it, or one attempt of that."""

    task: int
    rollout: int | None = None
    attempt: int | None = None


def parse_address(text: str) -> Address:
    """``3``, ``3-0``, ``1a2b3c4d-3-0`` or ``1a2b3c4d-3-0-a1``. Raises InvalidSpec."""
    if text.isascii() and text.isdigit():
        return Address(int(text))
    match = _ROLLOUT.match(text)
    if match is None:
        raise InvalidSpec(f"{text!r} is neither a task (3) nor a rollout (3-0, or its id 1a2b3c4d-3-0)")
    task, rollout, attempt = match.groups()
    return Address(int(task), int(rollout), None if attempt is None else int(attempt))


def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder, URI or name.")],
    what: Annotated[
        str | None, typer.Argument(metavar="[TASK|ROLLOUT]", help="A task (3) or a rollout (3-0, or its id).")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="What has no reward, and why.")] = False,
    lowest: Annotated[int | None, typer.Option(metavar="N", min=1, help="The N rollouts of lowest reward.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a run, finished or not: its table, a task, or a rollout turn by turn."""

    def work() -> int:
        import asyncio

        if sum((what is not None, failed, lowest is not None)) > 1:
            raise InvalidSpec("give one of TASK or ROLLOUT, --failed and --lowest")
        address = None if what is None else parse_address(what)
        return asyncio.run(_show(locate(run), address, failed, lowest, as_json))

    raise typer.Exit(guarded(work, as_json=as_json))


async def _show(place: str, address: Address | None, failed: bool, lowest: int | None, as_json: bool) -> int:
    from kubegym.rollout import read_run
    from kubegym.storage import open_store

    store = open_store(place)
    try:
        run = await read_run(store)
        if address is not None:
            await _show_task(run, address, as_json)
        elif failed:
            await _show_failed(run, as_json)
        elif lowest is not None:
            await _show_lowest(run, lowest, as_json)
        else:
            await _show_run(run, place, as_json)
    finally:
        await store.close()
    return 0


# A run


async def _show_run(run: StoredRun, place: str, as_json: bool) -> None:
    from kubegym.cli.tables import result_json

    summaries, tasks = await _summaries(run, keep=None if as_json else SHOWN_TASKS)
    if as_json:
        tasks.sort(key=lambda task: int(task["task"]))
        print_json(result_json(output=place, manifest=run.manifest, summaries=summaries, files=(), tasks=tasks))
        return
    from kubegym.cli.tables import print_table, result_rows

    manifest = run.manifest
    print(state_line(run, place))
    if summaries:
        print()
        print_table(*result_rows(summaries), sys.stdout)
    if tasks:
        count = sum(summary.tasks for summary in summaries)
        print(f"\ntasks, {len(tasks)} of {count:,}, the lowest mean reward first")
        several = len(summaries) > 1
        headings = ["task", *(["environment"] if several else []), "rollouts", "scored", "failed", "mean reward"]
        print_table(headings, [_task_cells(task, several) for task in tasks], sys.stdout)
    print(f"\nkubegym show {place} {tasks[0]['task'] if tasks else 'TASK'}    one task, and its rollouts")
    if manifest.totals.stale:
        print(stale_line(manifest))
    if manifest.totals.failed:
        print(f"kubegym show {place} --failed    what failed, and why")


def state_line(run: StoredRun, place: str) -> str:
    """A run in one line."""
    manifest = run.manifest
    state = "finished" if manifest.complete else f"{manifest.totals.settled:,} of {manifest.planned:,} rollouts settled"
    generation = f", generation {manifest.generation}" if manifest.generation > 1 else ""
    return f"{manifest.name} in {place}: {state}{generation} (run {manifest.run_id[:8]})"


def _worst_first(task: dict[str, Any]) -> tuple[float, int]:
    reward = task["mean_reward"]
    return (float("-inf") if reward is None else reward, task["task"])


def _task_cells(task: dict[str, Any], several: bool) -> list[str]:
    from kubegym.cli.tables import number

    cells = [str(task["task"]), *([task["environment"]] if several else [])]
    return [*cells, str(task["rollouts"]), str(task["scored"]), str(task["failed"]), number(task["mean_reward"])]


async def _summaries(run: StoredRun, keep: int | None) -> tuple[list[EnvironmentSummary], list[dict[str, Any]]]:
    """The table's lines from the rows, and a small record of tasks: all, or the ``keep`` of lowest mean reward."""
    from kubegym.data.merge import EnvironmentTally

    tallies: dict[str, EnvironmentTally] = {}
    tasks: list[dict[str, Any]] = []
    async for rows in _tasks(run):
        task = _task(rows)
        tallies.setdefault(task["environment"], EnvironmentTally()).add_task(rows)
        tasks.append(task)
        if keep is not None and len(tasks) > 64 * keep:
            tasks = heapq.nsmallest(keep, tasks, key=_worst_first)
    if keep is not None:
        tasks = heapq.nsmallest(keep, tasks, key=_worst_first)
    return [tally.summary(name) for name, tally in tallies.items()], tasks


def _task(rows: list[dict[str, Any]]) -> dict[str, Any]:
    ours = rows[0]["kubegym"]
    rewards = [row["reward"] for row in rows if row["kubegym"]["outcome"] == "scored"]
    return {
        "task": ours["task_index"],
        "task_id": ours["task_id"],
        "environment": ours["environment"]["name"],
        "rollouts": len(rows),
        "scored": len(rewards),
        "failed": sum(row["kubegym"]["outcome"] == "failed" for row in rows),
        "mean_reward": sum(rewards) / len(rewards) if rewards else None,
    }


async def _tasks(run: StoredRun) -> AsyncIterator[list[dict[str, Any]]]:
    import orjson

    async for lines in run.tasks():
        yield [orjson.loads(line) for line in lines]


# Some rollouts of a run


async def _show_failed(run: StoredRun, as_json: bool) -> None:
    chosen: list[dict[str, Any]] = []
    count = 0
    async for rows in _tasks(run):
        for row in rows:
            if row["kubegym"]["outcome"] != "scored":
                count += 1
                if as_json or len(chosen) < SHOWN_FAILED:
                    chosen.append(_brief(row))
    _print_briefs(chosen, as_json)
    if not as_json:
        print("every rollout has a reward" if not count else f"\n{count:,} rollouts have no reward")
        if count > len(chosen):
            print(f"the first {len(chosen)} are shown; --json prints all")


async def _show_lowest(run: StoredRun, number: int, as_json: bool) -> None:
    lowest: list[tuple[float, int, int, dict[str, Any]]] = []  # a heap with the highest on top
    async for rows in _tasks(run):
        for row in rows:
            if row["kubegym"]["outcome"] == "scored":
                entry = (-row["reward"], -row["kubegym"]["task_index"], -row["_ng_rollout_index"], _brief(row))
                if len(lowest) < number:
                    heapq.heappush(lowest, entry)
                elif entry[:3] > lowest[0][:3]:
                    heapq.heapreplace(lowest, entry)
    chosen = [entry[3] for entry in sorted(lowest, key=lambda entry: entry[:3], reverse=True)]
    _print_briefs(chosen, as_json)
    if not chosen and not as_json:
        print("no rollout has a reward yet")


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    """A rollout in one line of a table."""
    ours = row["kubegym"]
    return {
        "rollout_id": ours["rollout_id"],
        "task": ours["task_index"],
        "rollout": row["_ng_rollout_index"],
        "environment": ours["environment"]["name"],
        "outcome": ours["outcome"],
        "reward": row["reward"],
        "stop_reason": ours["stop_reason"],
        "failure": ours["failure"],
        "answer": final_text(row),
    }


def _print_briefs(rollouts: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rollouts)
        return
    if not rollouts:
        return
    from kubegym.cli.tables import number, print_table

    cells = []
    for rollout in rollouts:
        failure = rollout["failure"]
        said = f"{failure['stage']} {failure['reason']}: {failure['message']}" if failure else rollout["answer"]
        shown = [rollout["rollout_id"], rollout["outcome"], rollout["stop_reason"] or "-", one_line(said, 100)]
        cells.append([shown[0], number(rollout["reward"]), *shown[1:]])
    last = "failure" if any(rollout["failure"] for rollout in rollouts) else "answer"
    print_table(["rollout", "reward", "outcome", "stop reason", last], cells, sys.stdout)


def final_text(row: dict[str, Any]) -> str:
    """The last thing the model said."""
    from kubegym.core.messages import is_assistant_message, item_text

    for item in reversed((row["response"] or {}).get("output") or []):
        if is_assistant_message(item):
            return item_text(item)
    return ""


# A task, a rollout


async def _show_task(run: StoredRun, address: Address, as_json: bool) -> None:
    rows = await _rows_of(run, address)
    if address.rollout is None:
        if as_json:
            print_json(rows)
            return
        ours = rows[0]["kubegym"]
        rewards = [row["reward"] for row in rows if row["kubegym"]["outcome"] == "scored"]
        mean = f", mean reward {sum(rewards) / len(rewards):.3f}" if rewards else ""
        print(f"task {address.task} of {ours['environment']['name']}, {len(rows)} rollouts{mean}\n")
        from kubegym.cli.transcript import input_text

        print(f"{input_text(rows[0])}\n")
        _print_briefs([_brief(row) for row in rows], as_json=False)
        print(f"\nkubegym show {run.store.url} {address.task}-{rows[0]['_ng_rollout_index']}    turn by turn")
        return
    if as_json:
        print_json(rows[0])
        return
    from kubegym.cli.transcript import transcript

    print("\n".join(transcript(rows[0])))


async def _rows_of(run: StoredRun, address: Address) -> list[dict[str, Any]]:
    """The rows an address means. Reads the one shard that holds the task."""
    import orjson

    from kubegym.rollout.reader import by_task, read_parts, rollout_key

    shard = _shard_of(run, address.task)
    parts = run.manifest.shards.get(shard, ())
    lines = await read_parts(run.store, parts)
    if address.attempt is None:
        lines = [line for task in by_task(lines) for line in task]
    found = []
    for line in lines:
        task, rollout, attempt = rollout_key(line)
        wanted = (address.rollout in (None, rollout)) and (address.attempt in (None, attempt))
        if task == address.task and wanted:
            found.append(orjson.loads(line))
    if not found:
        which = f"task {address.task}" if address.rollout is None else f"rollout {address.task}-{address.rollout}"
        raise InputError(f"{which} has no result yet", reason="NoSuchRollout")
    return found


def _shard_of(run: StoredRun, task: int) -> int:
    if run.open_ended:
        return task  # a stream has a shard a task
    try:
        return run.plan.shard_of(task)
    except IndexError as error:
        raise InputError(str(error), reason="NoSuchRollout") from None
