"""Verifying the rollouts of a finished run again, with another verifier or judge.

It is a run of its own, by the same engine: the tasks are those of the stored run in their order, and an attempt takes
the stored conversation where others ask a policy. So it is as parallel, exactly-once and resumable as any run, and what
it writes is read like any run. The stored run is only read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from kubegym.agent import apply_verdict
from kubegym.core.clock import Deadline, SystemClock
from kubegym.core.errors import AgentError, InvalidSpec, RolloutError
from kubegym.core.messages import input_items
from kubegym.core.outcomes import TRUNCATED, Failure
from kubegym.core.protocols import Assignment, Attempt, EnvironmentInfo
from kubegym.core.trajectory import Rollout, Verdict
from kubegym.data.changes import BEFORE, Changes
from kubegym.http.rows import RESULTS
from kubegym.local.episodes import LocalEpisodes, Part, build_episodes
from kubegym.local.localrun import LOCAL_FLUSH_SECONDS, REMOTE_FLUSH_SECONDS, Display, Silent, merge_run, read_summary
from kubegym.local.models import check_models
from kubegym.local.runspec import Entry, ModelRef, RunSpec, default_output
from kubegym.rollout import (
    BatchRun,
    Draft,
    IncompleteRun,
    Manifest,
    StoreAccess,
    StoredRun,
    TaskRow,
    Wanted,
    WorkerSettings,
    local_holder,
    open_plan,
    read_run,
)
from kubegym.rollout.reader import by_task, read_parts
from kubegym.storage import LocalStore, open_store, probe_conditional_writes

_VERDICTS = frozenset({"verifier", "judge"})
"""Stages of failures that another verifier may mend; what failed earlier has no whole conversation."""


@dataclass(frozen=True)
class Reverification:
    """What to verify again, and how.

    Attributes:
        run: folder or URL of the finished run.
        entries: environments to verify with, by name of the run's entries; those it was collected with where absent.
        models: models over the entries' own, by role, such as another judge.
        output: folder or URL of the new run; None for one below ``runs/``.
        concurrency: rollouts at a time.
        force: also verify environments that do not promise to be able to (``stateless_verify``).
    """

    run: str
    entries: Mapping[str, Entry] | None = None
    models: Mapping[str, ModelRef] | None = None
    output: str | None = None
    concurrency: int = 64
    force: bool = False


@dataclass(frozen=True)
class Reverified:
    """How it ended.

    Attributes:
        output: folder or URL of the new run.
        manifest: complete or not.
        changes: by environment; of an unfinished one nothing.
    """

    output: str
    manifest: Manifest
    changes: Mapping[str, Changes]


class Reverifier:
    """Does a ``Reverification``; ``stop`` ends it early, and the same again goes on.

    Args:
        wanted: what to do.
        display: shows how it goes.
    """

    def __init__(self, wanted: Reverification, *, display: Display | None = None) -> None:
        self._wanted = wanted
        self._display = display or Silent()
        self._batch: BatchRun | None = None
        self._stopped = False

    def stop(self) -> None:
        """End soon and cleanly."""
        self._stopped = True
        if self._batch is not None:
            self._batch.stop()

    async def run(self) -> Reverified:
        """Verify what is missing, and count what has changed.

        Raises:
            NoSuchRun, IncompleteRun: there is no finished run.
            InputError: an environment or model that cannot be had, or that cannot verify stored rollouts.
            StoreError: a store went away; what is verified is saved.
        """
        source = open_store(self._wanted.run)
        try:
            stored = await read_run(source)
            if not stored.manifest.complete:
                raise IncompleteRun(f"{self._wanted.run} is not finished; run it again to finish it first")
            spec = _spec(stored, self._wanted)
            inner = build_episodes(spec)
            try:
                if not self._wanted.force:
                    _require_stateless(inner)
                return await self._verify(stored, spec, inner)
            finally:
                await inner.close()
        finally:
            await source.close()

    async def _verify(self, stored: StoredRun, spec: RunSpec, inner: LocalEpisodes) -> Reverified:
        draft = _draft(stored, spec, inner)
        output = self._wanted.output or default_output(f"{spec.name}-reverified", [draft.environments, draft.settings])
        if output == self._wanted.run:
            raise InvalidSpec(f"{output} is the run itself; give another --output")
        store = open_store(output)
        try:
            await probe_conditional_writes(store)
            with local_holder() as holder:
                access = StoreAccess(store, holder, SystemClock(), compression=spec.compression)
                opened = await open_plan(store, draft, access.clock)
                manifest = opened.manifest
                if manifest is None:
                    await check_models(inner.clients)
                    await inner.start()
                    seconds = LOCAL_FLUSH_SECONDS if isinstance(store, LocalStore) else REMOTE_FLUSH_SECONDS
                    settings = WorkerSettings(
                        concurrency=spec.concurrency,
                        max_attempts=spec.max_attempts,
                        flush_seconds=seconds,
                        max_failed_fraction=1.0,  # what had failed before fails again
                    )
                    source = StoredTasks(stored)
                    self._batch = BatchRun(access, opened, StoredEpisodes(inner), source, settings)
                    if self._stopped:
                        self._batch.stop()
                    self._display.began(output, self._batch.progress)
                    manifest = await self._batch.run()
                if not manifest.complete:
                    return Reverified(output, manifest, {})
                if await read_summary(store, manifest) is None:
                    self._display.merging()
                    await merge_run(store, manifest, inner)
                return Reverified(output, manifest, await _changes(await read_run(store)))
        finally:
            await store.close()


class StoredTasks:
    """Implements ``rollout.TaskSource`` over a finished run: a task's row holds its rollouts, for StoredEpisodes."""

    def __init__(self, stored: StoredRun) -> None:
        self._stored = stored
        self._entries = {entry["environment"]: entry["name"] for entry in stored.plan.environments}

    async def tasks(self, environment: str, first_row: int, count: int) -> list[TaskRow]:
        """``count`` tasks that came from an entry's dataset, from its ``first_row`` on. Raises CorruptPart."""
        indices = [self._task_index(environment, row) for row in range(first_row, first_row + count)]
        plan, manifest = self._stored.plan, self._stored.manifest
        found: dict[int, StoredTask] = {}
        for shard in sorted({plan.shard_of(index) for index in indices}):
            for lines in by_task(await read_parts(self._stored.store, manifest.shards[shard])):
                task = StoredTask(lines)
                found[task.index] = task
        return [self._row(found[index]) for index in indices]

    def _row(self, task: StoredTask) -> TaskRow:
        ours = task.first["kubegym"]
        return TaskRow(self._entries[ours["environment"]["name"]], task, ours["task_id"])

    def _task_index(self, environment: str, row: int) -> int:
        for segment in self._stored.plan.segments:
            if segment.environment == environment and 0 <= row - segment.first_row < segment.tasks:
                return segment.first_task + row - segment.first_row
        raise IndexError(f"row {row} of {environment} is not in the run")


class StoredTask(dict[str, Any]):
    """In a task's row's place: its finished rollouts, as lines by rollout index."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        super().__init__()
        self.first: dict[str, Any] = orjson.loads(lines[0])
        self.index: int = self.first["kubegym"]["task_index"]
        self.lines = {orjson.loads(line)["_ng_rollout_index"]: line for line in lines}


class StoredRow(dict[str, Any]):
    """A rollout's row without its results, which are in ``whole``."""

    def __init__(self, line: bytes) -> None:
        self.whole: dict[str, Any] = orjson.loads(line)
        components = self.whole.get("reward_components") or {}
        dropped = {*RESULTS, *components, BEFORE, "_ng_attempt_index"}
        super().__init__({name: value for name, value in self.whole.items() if name not in dropped})


class StoredEpisodes:
    """Implements ``core.protocols.Episodes``: an attempt verifies a stored conversation.

    Args:
        inner: the environments and models to verify with.
    """

    def __init__(self, inner: LocalEpisodes) -> None:
        self._inner = inner

    async def run(self, assignment: Assignment) -> Attempt:
        """Verify the conversation that a rollout's row holds; one without is settled as it was."""
        if isinstance(assignment.row, StoredTask):
            assignment.row = StoredRow(assignment.row.lines[assignment.rollout_index])
        row = assignment.row
        assert isinstance(row, StoredRow), "rows come from StoredTasks"
        attempt = _stored_attempt(row.whole)
        if not row.whole[BEFORE]["kept"]:
            await self._verify(self._inner.parts[assignment.environment], assignment, attempt)
        attempt.fields = {**attempt.fields, BEFORE: row.whole[BEFORE]}
        return attempt

    async def _verify(self, part: Part, assignment: Assignment, attempt: Attempt) -> None:
        session = part.session(assignment)
        session.deadline = Deadline(part.settings.deadline_seconds, part.settings.stall_seconds)
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            if part.settings.on_truncated == "Skip" and attempt.stop_reason in TRUNCATED:
                verdict = Verdict(None)
            else:
                if not part.runtime.cls.stateless_verify:
                    await session.seed()
                verdict = await session.verify(_rollout(assignment, attempt))
            apply_verdict(attempt, verdict)
        except RolloutError as error:
            attempt.outcome, attempt.failure = "failed", error.failure(assignment.attempt)
        except Exception as error:  # what was stored is no conversation
            broken = AgentError(f"{type(error).__name__}: {error}", reason="InvalidRow")
            attempt.outcome, attempt.failure = "failed", broken.failure(assignment.attempt)
        finally:
            attempt.usage = {**attempt.usage, **session.usage}
            attempt.timing = {**attempt.timing, "verify": round(clock() - started, 6)}
            await session.close()

    def info(self, environment: str) -> EnvironmentInfo:
        """Names and versions for rows."""
        return self._inner.info(environment)

    def verifies_groups(self, environment: str) -> bool:
        """Whether the environment has ``verify_group``."""
        return self._inner.verifies_groups(environment)

    async def verify_group(self, environment: str, group: list[tuple[Assignment, Attempt]]) -> None:
        """Let the environment give verdicts over a whole group."""
        await self._inner.verify_group(environment, group)

    async def close(self) -> None:
        """The environments are closed by who opened them."""


def _stored_attempt(whole: dict[str, Any]) -> Attempt:
    """The attempt that a row tells, without its verdict; says in the row what was, and whether it stays so."""
    ours = whole["kubegym"]
    failure = ours["failure"]
    kept = whole.get("response") is None or (failure is not None and failure["stage"] not in _VERDICTS)
    whole[BEFORE] = {
        "run_id": ours["run_id"],
        "rollout_id": ours["rollout_id"],
        "verifier": ours["verifier"],
        "outcome": ours["outcome"],
        "reward": whole["reward"],
        "kept": kept,
    }
    return Attempt(
        outcome=ours["outcome"] if kept else "unscored",
        # Not retryable: what is stored does not change.
        failure=replace(Failure(**failure), retryable=False) if kept and failure else None,
        stop_reason=ours["stop_reason"],
        response=whole.get("response"),
        params=whole["responses_create_params"],
        usage={role: used for role, used in ours["usage"].items() if role == "policy" or kept},
        timing=ours["timing"],
        turns=[{**turn, "reward": None} for turn in ours["turns"]],
        seed=ours["seed"],
    )


def _rollout(assignment: Assignment, attempt: Attempt) -> Rollout:
    assert attempt.response is not None, "one without a conversation is kept"
    return Rollout(
        input_items(attempt.params.get("input") or []),
        attempt.response["output"],
        attempt.stop_reason or "completed",
        attempt.response,
        assignment.row,
    )


def _spec(stored: StoredRun, wanted: Reverification) -> RunSpec:
    """The stored run's spec with what is asked for in its place; the policy, which nobody asks, is a name alone."""
    raw = stored.plan.extra.get("run") or stored.plan.extra.get("reverified")
    if raw is None:
        raise InvalidSpec(f"{wanted.run} does not say how it was collected; it is no run of `kubegym run` or a job")
    spec = RunSpec.from_json(raw)
    given = dict(wanted.entries or {})
    entries = []
    for entry in spec.entries:
        now = given.pop(entry.name, entry)
        roles = {**now.models, **(wanted.models or {})}
        policy = ModelRef("simulated", entry.models["policy"].model)
        here = replace(now, name=entry.name, models={**roles, "policy": policy}, dataset=entry.dataset, image=None)
        entries.append(replace(here, agent_urls=(), resources_urls=(), on_truncated=entry.on_truncated))
    if given:
        known = ", ".join(entry.name for entry in spec.entries)
        raise InvalidSpec(f"the run has no environment {', '.join(given)}; it has {known}")
    return replace(spec, entries=tuple(entries), concurrency=wanted.concurrency, tokens="None")


def _require_stateless(episodes: LocalEpisodes) -> None:
    stateful = [part.info.name for part in episodes.parts.values() if not part.runtime.cls.stateless_verify]
    if stateful:
        raise InvalidSpec(
            f"{', '.join(stateful)} does not promise that stored rollouts can be verified (stateless_verify); "
            "--force tries it, on fresh sessions"
        )


def _draft(stored: StoredRun, spec: RunSpec, episodes: LocalEpisodes) -> Draft:
    """A plan of the stored run's tasks and rollouts, in the order of its datasets."""
    environments, wanted = [], []
    for entry in spec.entries:
        part = episodes.parts[entry.name]
        segments = [segment for segment in stored.plan.segments if segment.environment == entry.name]
        if not segments:
            continue
        environments.append(
            {
                "name": entry.name,
                "environment": part.info.name,
                "source": part.loaded.source_digest,
                "config": entry.config,
                "models": {role: model.identity() for role, model in sorted(entry.models.items()) if role != "policy"},
                "version": part.info.version,
                "verifier_version": part.info.verifier_version,
            }
        )
        wanted.append(Wanted(entry.name, sum(one.tasks for one in segments), segments[0].rollouts[1]))
    return Draft(
        name=f"{spec.name}-reverified",
        environments=tuple(environments),
        settings={"reverified": {"run_id": stored.plan.run_id, "plan": stored.plan.digest}},
        wanted=tuple(wanted),
        tasks_per_shard=stored.plan.tasks_per_shard,
        extra={"reverified": spec.to_json()},
    )


async def _changes(run: StoredRun) -> dict[str, Changes]:
    changes: dict[str, Changes] = {}
    async for lines in run.tasks():
        for line in lines:
            row = orjson.loads(line)
            changes.setdefault(row["kubegym"]["environment"]["name"], Changes()).add(row)
    return changes
