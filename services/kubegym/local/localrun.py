"""One run on one machine: plan, work, manifest, NeMo Gym's files (DESIGN 3.5: the same engine as on a cluster)."""

from __future__ import annotations

import logging
import signal
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import orjson

from kubegym.core.clock import SystemClock
from kubegym.core.errors import InvalidSpec
from kubegym.core.protocols import ModelClient
from kubegym.data.merge import EnvironmentSummary, MergeSummary, merge
from kubegym.local.episodes import LocalEpisodes, build_episodes, load
from kubegym.local.fit import Needs, check_fit
from kubegym.local.models import check_models
from kubegym.local.runspec import Entry, RunSpec, default_output, store_options
from kubegym.local.tasks import RunTasks, open_tasks
from kubegym.resources import LoadedEnvironment, SessionLimits
from kubegym.rollout import (
    BatchRun,
    ChildSpec,
    Draft,
    Holder,
    Manifest,
    Opened,
    Progress,
    StoreAccess,
    Wanted,
    WorkerMetrics,
    WorkerSettings,
    local_holder,
    open_plan,
    open_retry,
    read_run,
)
from kubegym.rollout.reader import newest_plan
from kubegym.rollout.samples import require_arrow
from kubegym.storage import LocalStore, ObjectStore, open_store, probe_conditional_writes

log = logging.getLogger("kubegym.local")

LOCAL_FLUSH_SECONDS = 1.0
REMOTE_FLUSH_SECONDS = 10.0
SUMMARY_KEY = "summary.json"
"""What the result table shows; it names the plan whose merged files it describes, so that a run that was killed
between manifest and merge is merged by the next start."""


class Display(Protocol):
    """Who shows how a run goes."""

    def validating(self, rows: int) -> None:
        """So many rows are checked."""
        ...

    def began(self, output: str, progress: Progress) -> None:
        """The run works, or goes on; ``progress`` changes while it does."""
        ...

    def merging(self) -> None:
        """All is settled; the files are being written."""
        ...


class Silent:
    """Shows nothing."""

    def validating(self, rows: int) -> None:
        """Nothing."""

    def began(self, output: str, progress: Progress) -> None:
        """Nothing."""

    def merging(self) -> None:
        """Nothing."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        output: folder or URL of its files.
        manifest: complete or not.
        summary: the table; None for an unfinished run.
        within_budget: whether the failed share is within the failure policy.
        interrupted: the signal that ended it, or None.
        resumed: rollouts that were there before it started.
    """

    output: str
    manifest: Manifest
    summary: MergeSummary | None
    within_budget: bool
    interrupted: signal.Signals | None = None
    resumed: int = 0

    @property
    def exit_code(self) -> int:
        """0 all settled within the failure budget, 1 run failed, 130 and 143 interrupted."""
        if self.interrupted is not None:
            return 128 + self.interrupted
        return 0 if self.manifest.complete and self.within_budget else 1


class LocalRun:
    """A run of a RunSpec on this machine.

    Args:
        spec: what to run.
        classes: environments given in Python, by entry; then isolated children cannot rebuild them unless the class
            can be imported.
        clients: models given in Python, by role.
        rows: rows given in Python, by entry.
        display: shows how it goes.
        metrics: Prometheus instruments.
        retry: run failed rollouts with these reasons again (none named: all) in a further generation of the finished
            run; None for a plain run.
        fresh: begin anew beside earlier runs of the default output, as ``runs/<environment>/<digest>-<n>``.
        limits: of the environments' hooks; isolated children keep the defaults.
    """

    def __init__(
        self,
        spec: RunSpec,
        *,
        classes: Mapping[str, LoadedEnvironment] | None = None,
        clients: Mapping[str, ModelClient] | None = None,
        rows: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        display: Display | None = None,
        metrics: WorkerMetrics | None = None,
        retry: Sequence[str] | None = None,
        fresh: bool = False,
        limits: SessionLimits | None = None,
    ) -> None:
        self.spec = spec
        self._limits = limits
        self._retry = retry
        self._prepared = False
        self._needs = Needs()
        self._fresh = fresh
        self._classes = classes
        self._clients = clients
        self._rows = rows
        self._display = display or Silent()
        self._metrics = metrics or WorkerMetrics()
        self._batch: BatchRun | None = None
        self._signal: signal.Signals | None = None

    def stop(self, received: signal.Signals = signal.SIGINT) -> None:
        """End soon and cleanly; ``run`` then returns what is saved."""
        self._signal = self._signal or received
        if self._batch is not None:
            self._batch.stop()

    async def run(self) -> RunResult:
        """Collect what is missing and write the files.

        Raises:
            InputError: rows, manifests, models or outputs that cannot be used; nothing was run.
            ModelError: the endpoint is not there; nothing was run.
            FailureBudgetExceeded: too many rollouts failed; what is finished is saved.
            StoreError: the store went away; what is finished is saved.
        """
        episodes = build_episodes(
            self.spec,
            classes=self._classes,
            clients=self._clients,
            on_call=lambda seconds, *_: self._called(seconds),
            limits=self._limits,
        )
        self._metrics.routing = episodes.routing
        try:
            tasks = await open_tasks(self.spec, episodes, self._rows)
            try:
                return await self._run(episodes, tasks)
            finally:
                await tasks.close()
        finally:
            await episodes.close()

    def _called(self, seconds: float) -> None:
        self._metrics.model_call(seconds)

    async def _run(self, episodes: LocalEpisodes, tasks: RunTasks) -> RunResult:
        draft = make_draft(self.spec, episodes, tasks)
        output = self.spec.output or await choose_output(
            default_output(self._folder_name(), [draft.environments, draft.settings, _wants(draft)]), fresh=self._fresh
        )
        if self.spec.tokens == "Samples":
            require_arrow()
        store = open_output(self.spec, output)
        try:
            stored = await newest_plan(store)
            if stored is None or stored.planned < sum(want.rows * want.rollouts for want in draft.wanted):
                self._needs = await tasks.validate(episodes, self._display.validating)
            if stored is None:  # what can refuse the run does so before anything is written
                await probe_conditional_writes(store)
                await self._prepare(episodes)
            with local_holder() as holder:
                return await self._collect(store, holder, output, draft, episodes, tasks)
        finally:
            await store.close()

    async def _collect(
        self,
        store: ObjectStore,
        holder: Holder,
        output: str,
        draft: Draft,
        episodes: LocalEpisodes,
        tasks: RunTasks,
    ) -> RunResult:
        """Generation after generation until everything asked for is there."""
        access = StoreAccess(store, holder, SystemClock(), compression=self.spec.compression)
        resumed: int | None = None
        if self._retry is not None:
            await open_plan(store, draft, access.clock)  # refuses what is not this run any more
            await open_retry(store, self._retry, access.clock)
        while True:
            opened = await open_plan(store, draft, access.clock)
            if opened.manifest is not None:
                summary = await read_summary(store, opened.manifest)
                if summary is None:
                    summary = await self._merge(store, opened.manifest, episodes, tasks)
                settled = opened.manifest.totals.settled
                return self._result(output, opened.manifest, summary, settled if resumed is None else resumed)
            await self._prepare(episodes)
            batch = self._batch_run(access, opened, episodes, tasks)
            self._display.began(output, batch.progress)
            manifest = await batch.run()
            resumed = batch.progress.resumed if resumed is None else resumed
            if not manifest.complete:
                return self._result(output, manifest, None, resumed)

    async def _prepare(self, episodes: LocalEpisodes) -> None:
        """Ask the models whether they are there and can do what the rows need, and set the environments up; once."""
        if not self._prepared:
            self._prepared = True
            await check_models([*(self._clients or {}).values(), *episodes.clients])
            await check_fit(self._needs, episodes)
            await episodes.start()

    def _batch_run(self, access: StoreAccess, opened: Opened, episodes: LocalEpisodes, tasks: RunTasks) -> BatchRun:
        spec = self.spec
        seconds = LOCAL_FLUSH_SECONDS if isinstance(access.store, LocalStore) else REMOTE_FLUSH_SECONDS
        self._batch = BatchRun(
            access,
            opened,
            episodes,
            tasks,
            WorkerSettings(
                concurrency=spec.concurrency,
                max_attempts=spec.max_attempts,
                flush_seconds=spec.flush_seconds or seconds,
                flush_bytes=spec.flush_bytes,
                max_failed_fraction=spec.max_failed_fraction,
                tokens=spec.tokens,
                max_policy_version_lag=spec.max_policy_version_lag,
            ),
            weights={entry.name: entry.weight for entry in spec.entries},
            child=self._child(),
            metrics=self._metrics,
        )
        if self._signal is not None:
            self._batch.stop()
        return self._batch

    def _child(self) -> ChildSpec | None:
        """How isolated children rebuild this run; None where what was given in Python cannot be rebuilt."""
        if self._clients or not all(map(self._importable, self.spec.entries)):
            return None
        return ChildSpec("kubegym.local.episodes:from_json", self.spec.to_json())

    def _importable(self, entry: Entry) -> bool:
        """Whether another process finds the entry's class: not one of a script, a notebook or a function."""
        given = (self._classes or {}).get(entry.name)
        if given is None:
            return True
        if entry.environment.startswith("__main__:"):
            return False
        try:
            return load(entry.environment).cls is given.cls
        except InvalidSpec:
            return False

    async def _merge(
        self, store: ObjectStore, manifest: Manifest, episodes: LocalEpisodes, tasks: RunTasks
    ) -> MergeSummary:
        self._display.merging()
        return await merge_run(store, manifest, episodes, tasks if self.spec.materialized_inputs else None)

    def _result(self, output: str, manifest: Manifest, summary: MergeSummary | None, resumed: int) -> RunResult:
        allowed = self.spec.max_failed_fraction * manifest.planned
        interrupted = self._signal if not manifest.complete else None
        return RunResult(output, manifest, summary, manifest.totals.failed <= allowed, interrupted, resumed)

    def _folder_name(self) -> str:
        return self.spec.entries[0].name if len(self.spec.entries) == 1 else self.spec.name


async def choose_output(base: str, *, fresh: bool) -> str:
    """The newest of ``base``, ``base-2``, ... that holds a run; with ``fresh`` the first that holds none."""
    newest, number = base, 1
    while True:
        place = base if number == 1 else f"{base}-{number}"
        store = open_store(place)
        try:
            if await newest_plan(store) is None:
                return place if fresh else newest
        finally:
            await store.close()
        newest, number = place, number + 1


async def merge_run(
    store: ObjectStore, manifest: Manifest, episodes: LocalEpisodes, materialized: RunTasks | None = None
) -> MergeSummary:
    """Write NeMo Gym's files of a finished run, and what they sum up to.

    Args:
        store: of the run.
        manifest: of the generation that they are of.
        episodes: for the environments' own metrics.
        materialized: the rows, where ``rollouts_materialized_inputs.jsonl`` is wanted, too.
    """
    run = await read_run(store)
    hooks = {part.info.name: part.metric_hooks for part in episodes.parts.values()}

    async def inputs(task_index: int) -> Mapping[str, Any]:
        assert materialized is not None, "only asked for where it is wanted"
        shard = run.plan.shard(run.plan.shard_of(task_index))
        row = shard.first_row + task_index - shard.first_task
        return (await materialized.tasks(shard.environment, row, 1))[0].row

    summary = await merge(
        run.tasks(),
        store,
        scratch=Path(tempfile.gettempdir()),
        hooks=hooks,
        inputs=inputs if materialized is not None else None,
    )
    await store.put(SUMMARY_KEY, orjson.dumps({"plan_digest": manifest.plan_digest, **summary.to_dict()}))
    return summary


async def read_summary(store: ObjectStore, manifest: Manifest) -> MergeSummary | None:
    """The summary of a finished run's merged files; None where they have to be made (again).

    They are missing then, or of an earlier generation, or the summary is damaged or another version's: it only
    repeats what the record says.
    """
    stored = await store.get(SUMMARY_KEY)
    if stored is None:
        return None
    try:
        raw = orjson.loads(stored.data)
        if raw.pop("plan_digest") != manifest.plan_digest:
            return None
        return MergeSummary(**{**raw, "environments": [EnvironmentSummary(**one) for one in raw["environments"]]})
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def make_draft(spec: RunSpec, episodes: LocalEpisodes, tasks: RunTasks) -> Draft:
    """The plan a spec asks for: everything that decides what is collected, resolved."""
    environments = []
    wanted = []
    for entry in spec.entries:
        part = episodes.parts[entry.name]
        dataset = tasks.datasets[entry.name]
        environments.append(_frozen(entry, part.info.name, part.loaded.source_digest, dataset.digest))
        environments[-1]["version"] = part.info.version
        environments[-1]["verifier_version"] = part.info.verifier_version
        wanted.append(Wanted(entry.name, dataset.rows, entry.rollouts_per_task))
    return Draft(
        name=spec.name,
        environments=tuple(environments),
        settings=_settings(spec),
        wanted=tuple(wanted),
        tasks_per_shard=spec.tasks_per_shard,
        extra={"run": spec.to_json()},
    )


def _settings(spec: RunSpec) -> dict[str, Any]:
    settings = {
        "tokens": None if spec.tokens == "None" else spec.tokens,
        "maxPolicyVersionLag": spec.max_policy_version_lag,
    }
    return {name: value for name, value in settings.items() if value is not None}


# Where rows lie does not decide what they hold; how many of them, a later generation may change.
_WHERE = ("endpoint", "region", "credentials", "ca_bundle", "revision", "limit", "uri", "sha256")


def _frozen(entry: Entry, name: str, source: str, rows: str) -> dict[str, Any]:
    dataset = asdict(replace(entry.dataset, limit=None)) if entry.dataset else {"uri": "rows"}
    for place in _WHERE:
        dataset.pop(place, None)
    return {
        "name": entry.name,
        "environment": name,
        "source": source,
        "config": entry.config,
        "models": {role: model.identity() for role, model in sorted(entry.models.items())},
        "dataset": {**dataset, "sha256": rows},
        "agent_refs": list(entry.agent_refs),
        "harness": entry.harness,
        **({"harness_config": entry.harness_config} if entry.harness_config else {}),
        "sampling": entry.sampling,
        "max_steps": entry.max_steps,
        "max_total_tokens": entry.max_total_tokens,
        "rollout_timeout": entry.rollout_timeout,
        "seed": entry.seed,
        "on_truncated": entry.on_truncated,
    }


def _wants(draft: Draft) -> list[dict[str, Any]]:
    return [asdict(want) for want in draft.wanted]


def open_output(spec: RunSpec, output: str) -> ObjectStore:
    """The store a run writes to."""
    options = store_options(spec.output_endpoint, spec.output_region, spec.output_credentials, spec.output_ca_bundle)
    return open_store(output, options=options)
