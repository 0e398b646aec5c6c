"""Reading a run in Python: finished, interrupted, or while it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from kubegym.rollout import Group, GroupPolicy, Manifest, Plan, read_run
from kubegym.rollout.samples import join
from kubegym.storage import StoreOptions, open_store

if TYPE_CHECKING:
    import pandas
    import pyarrow

T = TypeVar("T")


@dataclass(frozen=True)
class Results:
    """A run's results as they were when it was read.

    Attributes:
        output: folder or URL.
        plan: the newest generation's plan.
        manifest: the manifest; of an unfinished run what its heads had committed.
        lines: the rows as JSON lines, by task and rollout.
        options: how the store is reached.
    """

    output: str
    plan: Plan
    manifest: Manifest
    lines: list[list[bytes]] = field(repr=False)
    options: StoreOptions | None = field(default=None, repr=False)

    @property
    def complete(self) -> bool:
        """Whether every planned rollout has its result."""
        return self.manifest.complete

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Every result, scored or not, by task and rollout index."""
        return [orjson.loads(line) for lines in self.lines for line in lines]

    @cached_property
    def samples(self) -> pyarrow.Table:
        """Token ids, loss mask and log-probs of the results, one line a sample; empty where the run kept none.

        ``kubegym.batches`` makes padded arrays of it. Columns: ``rollout_id``, ``task_id``, ``task_index``,
        ``rollout_index``, ``attempt``, ``sample``, ``parent``, ``environment``, ``agent``, ``outcome``, ``reward``,
        ``stop_reason``, ``stale``, ``token_ids`` (int32), ``loss_mask``, ``log_probs`` (float32; 0 where the mask is
        false), ``policy_runs`` (``version`` from ``from_token`` on).

        Raises:
            InvalidSpec: "MissingDependency", pyarrow is not installed.
        """
        return blocking(read_samples(self.output, options=self.options))

    @cached_property
    def groups(self) -> list[Group]:
        """The results task by task, without stale ones; ``rows`` has those, too."""
        return list(self._groups(GroupPolicy()))

    def _groups(self, policy: GroupPolicy) -> Iterator[Group]:
        rows = iter(self.rows)
        for lines in self.lines:
            members = [next(rows) for _ in lines]
            ours = members[0]["kubegym"]
            group = Group(ours["task_id"], ours["task_index"], ours["environment"]["name"], members)
            if (delivered := policy.delivered(group)) is not None:
                yield delivered

    def __len__(self) -> int:
        return sum(map(len, self.lines))

    def to_pandas(self) -> pandas.DataFrame:
        """One line a rollout: ids, outcome, reward, numeric fields of the verdict, usage and timing."""
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas() needs pandas: pip install 'kubegym[dataframe]'") from error
        return pandas.DataFrame([_flat(row) for row in self.rows])


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    ours = row["kubegym"]
    failure = ours["failure"] or {}
    flat = {
        "rollout_id": ours["rollout_id"],
        "task_id": ours["task_id"],
        "task_index": ours["task_index"],
        "rollout_index": row["_ng_rollout_index"],
        "environment": ours["environment"]["name"],
        "attempt": ours["attempt"],
        "outcome": ours["outcome"],
        "reward": row["reward"],
        "stop_reason": ours["stop_reason"],
        "failure_stage": failure.get("stage"),
        "failure_reason": failure.get("reason"),
        "model": ours["policy"]["model"],
        "turns": len(ours["turns"]),
    }
    flat |= {name: value for name, value in row.items() if name not in flat and isinstance(value, int | float | str)}
    flat |= {f"{role}_{name}": value for role, usage in ours["usage"].items() for name, value in usage.items()}
    return flat | {f"{name}_seconds": value for name, value in ours["timing"].items()}


async def read_results(output: str | Path, *, options: StoreOptions | None = None) -> Results:
    """Read a run from its folder or URL. Raises NoSuchRun."""
    store = open_store(output, options=options)
    try:
        run = await read_run(store)
        lines = [task async for task in run.tasks()]
        return Results(str(output), run.plan, run.manifest, lines, options)
    finally:
        await store.close()


async def read_samples(output: str | Path, *, options: StoreOptions | None = None) -> pyarrow.Table:
    """The token data of a run's results, whole in memory. Raises NoSuchRun, CorruptPart, InvalidSpec."""
    store = open_store(output, options=options)
    try:
        run = await read_run(store)
        return join([table async for table in run.samples()])
    finally:
        await store.close()


def load(output: str | Path, *, options: StoreOptions | None = None) -> Results:
    """Read a run from its folder or URL (``s3://...``), also in the middle of it.

    Args:
        output: where the run lies.
        options: endpoint, region and credentials of a remote store; default from the environment.

    Raises:
        NoSuchRun: there is no run.
    """
    return blocking(read_results(output, options=options))


def blocking(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end from plain code, and from inside a running event loop (a notebook) in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1, "kubegym") as thread:
        return thread.submit(asyncio.run, work).result()
