"""NeMo Gym's files from the final rows of a run, streaming (contract 2.2, DESIGN section 6 "Files")."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from kubegym.core.errors import KubeGymError
from kubegym.core.outcomes import TRUNCATED
from kubegym.core.rows import encode_row, failure_class
from kubegym.data.aggregate import NO_HOOKS, AgentMetrics, Aggregator, Counts, MetricHooks, is_scored, metrics_json
from kubegym.data.passk import PassMetrics
from kubegym.storage.protocol import ObjectStore, ObjectWriter

InputRow = Callable[[int], Awaitable[Mapping[str, Any]]]
"""From a task's index in the run (``kubegym.task_index``) to its input row."""

_BUFFER = 1 << 20  # bytes gathered for one write
_PAUSE = 64  # tasks between two turns of the event loop


@dataclass(frozen=True, slots=True)
class EnvironmentSummary:
    """A line of the result table.

    Attributes:
        environment: its name.
        tasks: tasks seen.
        rollouts: their rollouts; scored + unscored + those failed.
        scored: with a reward.
        unscored: the verifier declined, or was told to skip.
        failed: rollouts by the reason of their failure.
        mean_reward: over scored rollouts; None without any.
        pass_at_1: percent (contract 2.4); None without a scored rollout.
        k: the most scored rollouts that any task has.
        pass_at_k: percent, over the tasks that have k.
        coverage: share of the tasks that have k scored rollouts.
        input_tokens: the policy's, of all final attempts, failed ones included.
        output_tokens: likewise.
        seconds: durations of the final attempts, summed.
        truncated: rollouts that were cut short, by their stop reason.
    """

    environment: str
    tasks: int
    rollouts: int
    scored: int
    unscored: int
    failed: dict[str, int]
    mean_reward: float | None
    pass_at_1: float | None
    k: int
    pass_at_k: float | None
    coverage: float
    input_tokens: int
    output_tokens: int
    seconds: float = 0.0
    truncated: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MergeSummary:
    """What a merge saw and wrote.

    Attributes:
        environments: a summary each, in order of first appearance.
        files: keys of the objects written.
        metric_errors: agent -> what went wrong in its environment's metric hooks.
    """

    environments: list[EnvironmentSummary]
    files: list[str]
    metric_errors: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


async def merge(
    groups: AsyncIterable[Sequence[bytes]],
    store: ObjectStore,
    *,
    scratch: Path,
    stem: str = "rollouts",
    hooks: Mapping[str, MetricHooks] | None = None,
    inputs: InputRow | None = None,
) -> MergeSummary:
    """Write the merged files of a run; each appears, whole, when all is well, and replaces an older one.

    - ``<stem>.jsonl``: rows with a reward, byte for byte as they came.
    - ``<stem>_failures.jsonl``: every other row, with ``_ng_failure_class`` and, where it will not be tried again,
      ``_ng_failure_terminal``. The two together are the plan.
    - ``<stem>_aggregate_metrics.json``: see ``aggregate``.
    - ``<stem>_materialized_inputs.jsonl`` (with ``inputs``): what each rollout was asked.

    Args:
        groups: the final rows of one task at a time, as JSON lines sorted by rollout index. Tasks come in the order
            in which they shall stand in the files.
        store: where the files go.
        scratch: a folder on a local disk.
        stem: how the files' names begin.
        hooks: metric hooks by environment name.
        inputs: gives input rows for the materialized inputs; None leaves that file out.

    Raises:
        KubeGymError: a row is not JSON (``RowCorrupt``).
        StoreError: a file cannot be written; none of those still open appears.
    """
    aggregator = Aggregator(scratch)
    suffixes = [".jsonl", "_failures.jsonl", "_aggregate_metrics.json"]
    if inputs is not None:
        suffixes.append("_materialized_inputs.jsonl")
    files = [stem + suffix for suffix in suffixes]
    try:
        async with AsyncExitStack() as stack:
            outputs = [_Output(await stack.enter_async_context(store.writer(key))) for key in files]
            merging = _Merge(aggregator, hooks or {}, outputs, inputs)
            done = 0
            async for lines in groups:
                await merging.add_task(lines)
                done += 1
                if done % _PAUSE == 0:
                    await asyncio.sleep(0)
            agents = await aggregator.finish()
            await merging.finish(agents)
    finally:
        aggregator.close()
    errors = {agent.agent: agent.error for agent in agents if agent.error is not None}
    return MergeSummary([tally.summary(name) for name, tally in merging.tallies.items()], files, errors)


class _Output:
    """A file being written in large pieces."""

    def __init__(self, writer: ObjectWriter) -> None:
        self._writer = writer
        self._buffer = bytearray()

    def add(self, data: bytes) -> None:
        self._buffer += data

    async def drain(self, *, all_of_it: bool = False) -> None:
        if len(self._buffer) >= _BUFFER or (all_of_it and self._buffer):
            data = bytes(self._buffer)
            self._buffer.clear()
            await self._writer.write(data)


class _Merge:
    """Sorts rows into files, and counts them."""

    def __init__(
        self,
        aggregator: Aggregator,
        hooks: Mapping[str, MetricHooks],
        outputs: Sequence[_Output],
        inputs: InputRow | None,
    ) -> None:
        self.tallies: dict[str, EnvironmentTally] = {}
        self._aggregator = aggregator
        self._hooks = hooks
        self._inputs = inputs
        self._outputs = outputs
        self._scored, self._others, self._metrics, *materialized = outputs
        self._materialized = materialized[0] if materialized else None

    async def add_task(self, lines: Sequence[bytes]) -> None:
        """Take the final rows of a task."""
        rows = [_parsed(line) for line in lines]
        if not rows:
            return
        for row, line in zip(rows, lines, strict=True):
            if is_scored(row):
                self._scored.add(line if line.endswith(b"\n") else line + b"\n")
            else:
                self._others.add(_as_failure(row, line))
        self._count(rows)
        if self._materialized is not None and self._inputs is not None:
            given = await self._inputs(rows[0]["kubegym"]["task_index"])
            for row in rows:
                self._materialized.add(_materialized(given, row))
        for output in self._outputs:
            await output.drain()

    async def finish(self, agents: Sequence[AgentMetrics]) -> None:
        """Write the metrics, and what is left of everything."""
        for chunk in metrics_json(agents):
            self._metrics.add(chunk)
            await self._metrics.drain()
        for output in self._outputs:
            await output.drain(all_of_it=True)

    def _count(self, rows: Sequence[dict[str, Any]]) -> None:
        first = rows[0]
        environment = first["kubegym"]["environment"]["name"]
        tally = self.tallies.get(environment)
        if tally is None:
            tally = self.tallies[environment] = EnvironmentTally()
        tally.add_task(rows)
        hooks = self._hooks.get(environment, NO_HOOKS)
        self._aggregator.add_task(first["agent_ref"]["name"], first["_ng_task_index"], rows, hooks)


class EnvironmentTally:
    """Counts the final rows of one environment, task by task, for its line of the result table."""

    def __init__(self) -> None:
        self._counts = Counts()
        self._passes = PassMetrics()
        self._rewards = 0.0
        self._tokens = [0, 0]
        self._seconds = 0.0
        self._truncated: Counter[str] = Counter()

    def add_task(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Count the rows of one task."""
        scored = self._counts.add(rows)
        self._passes.add_task(scored)
        self._rewards = math.fsum((self._rewards, *(row["reward"] for row in scored)))
        for row in rows:
            self._seconds += row["kubegym"]["timing"].get("total") or 0.0
            if row["kubegym"]["stop_reason"] in TRUNCATED:
                self._truncated[row["kubegym"]["stop_reason"]] += 1
            usage = row["kubegym"]["usage"].get("policy")
            if usage:
                self._tokens[0] += usage.get("input_tokens") or 0
                self._tokens[1] += usage.get("output_tokens") or 0

    def summary(self, environment: str) -> EnvironmentSummary:
        """The table's line, of what was counted so far."""
        counts, k = self._counts, self._counts.max_k
        passes = self._passes.metrics()
        return EnvironmentSummary(
            environment=environment,
            tasks=counts.tasks,
            rollouts=counts.rollouts,
            scored=counts.scored,
            unscored=counts.unscored,
            failed=dict(sorted(counts.failed.items())),
            mean_reward=self._rewards / counts.scored if counts.scored else None,
            pass_at_1=passes.get("pass@1/accuracy"),
            k=k,
            pass_at_k=passes.get(f"pass@{k}/accuracy"),
            coverage=counts.coverage(k) if k else 0.0,
            input_tokens=self._tokens[0],
            output_tokens=self._tokens[1],
            seconds=self._seconds,
            truncated=dict(sorted(self._truncated.items())),
        )


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        row: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise KubeGymError(f"a row of the run is not JSON: {error}", reason="RowCorrupt") from error
    return row


def _as_failure(row: Mapping[str, Any], line: bytes) -> bytes:
    """The line with NeMo Gym's marks at its end; the rest stays byte for byte."""
    marks: dict[str, Any] = {}
    if "_ng_failure_class" not in row:
        marks["_ng_failure_class"] = failure_class(row) or "unscored"
    failure = row["kubegym"]["failure"]
    if "_ng_failure_terminal" not in row and (failure is None or not failure["retryable"]):
        marks["_ng_failure_terminal"] = True
    line = line.rstrip()
    if marks:
        line = line[:-1] + b"," + orjson.dumps(marks)[1:]
    return line + b"\n"


def _materialized(given: Mapping[str, Any], row: Mapping[str, Any]) -> bytes:
    """An input row as the rollout got it: parameters after overrides, position, agent (contract 2.2)."""
    names = ("responses_create_params", "_ng_task_index", "_ng_rollout_index", "agent_ref")
    return encode_row({**given, **{name: row[name] for name in names}})
