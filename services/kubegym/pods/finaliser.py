"""The finaliser: the manifest when every planned rollout is settled, merged files, and the final figures.

It asks no model and holds no session. Everything it does can be done again: the manifest is written once, files that
were merged already are left as they are, and the figures are the manifest's.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from kubegym.core.clock import Clock, SystemClock
from kubegym.core.errors import KubeGymError
from kubegym.core.protocols import CallContext, ModelReply
from kubegym.local.episodes import LocalEpisodes, build_episodes
from kubegym.local.localrun import merge_run, open_output, read_summary
from kubegym.local.runspec import RunSpec
from kubegym.local.tasks import open_tasks
from kubegym.pods.compose import run_draft, run_spec
from kubegym.pods.errors import DONE, NotFinished, exit_code
from kubegym.pods.frozen import FrozenRun, read_frozen
from kubegym.pods.planning import covers
from kubegym.pods.progress import figures, most_frequent
from kubegym.pods.settings import PodSettings
from kubegym.pods.words import say, say_why
from kubegym.rollout import Manifest, Plan
from kubegym.rollout.job import read_manifest
from kubegym.rollout.manifest import build_manifest, finalise, manifest_key
from kubegym.rollout.plan import require_same
from kubegym.rollout.reader import newest_plan, plan_heads
from kubegym.storage import ObjectStore

log = logging.getLogger("kubegym.pods")

_REASONS = 24
"""Reasons of failures that the last words have room for."""


async def run_finaliser(path: Path, settings: PodSettings) -> int:
    """Finish the run of a ``run.json``; the exit code, whose last words are left."""
    try:
        manifest, where = await _finished(read_frozen(path), settings)
    except KubeGymError as error:
        log.error("not finalised: reason=%s: %s", error.reason, error.message)
        say_why(settings.termination_log, error.reason, error.message)
        return exit_code(error)
    say(
        settings.termination_log,
        {
            "manifestUri": f"{where}/{manifest_key(manifest.generation)}",
            "planDigest": manifest.plan_digest,
            "complete": True,
            **figures(manifest.totals, manifest.planned),
            "failures": most_frequent(manifest.totals.failures, _REASONS),
        },
    )
    return DONE


async def _finished(run: FrozenRun, settings: PodSettings) -> tuple[Manifest, str]:
    spec = run_spec(run, settings, rows=False)
    assert spec.output is not None, "a job has an output"
    store = open_output(spec, spec.output)
    try:
        plan = await newest_plan(store)
        if plan is None:
            raise NotFinished(f"{store.url}: nothing has been collected yet")
        written = plan.extra.get("job") or {}
        if run.uid != written.get("uid") and run.digest != written.get("digest"):
            await _require_asked(run, run_spec(run, settings), plan, store)
        manifest = await seal(store, plan, SystemClock())
        if run.job.spec.output.merge and await read_summary(store, manifest) is None:
            async with _unasked(spec) as episodes:
                await merge_run(store, manifest, episodes)
        return manifest, store.url
    finally:
        await store.close()


async def _require_asked(run: FrozenRun, spec: RunSpec, plan: Plan, store: ObjectStore) -> None:
    """Raise unless a plan that another job wrote is what this one asks for: PlanConflict, NotFinished."""
    async with _unasked(spec) as episodes:
        tasks = await open_tasks(spec, episodes)
        try:
            draft = run_draft(run, spec, episodes, tasks)
        finally:
            await tasks.close()
    require_same(plan, draft.plan(plan.run_id, plan.generation, plan.segments, 0), store.url)
    if not covers(plan, draft):
        raise NotFinished(f"{store.url}: more is asked for than has been collected")


class _Unasked:
    """Stands for a model: here none is asked, so that none need be there, nor its key."""

    model = ""

    def leave(self, rollout_id: str) -> None:
        """Nothing is kept for a rollout."""

    async def respond(self, request: dict[str, Any], context: CallContext) -> ModelReply:
        raise NotImplementedError("the finaliser asks no model")

    async def close(self) -> None:
        return None


@asynccontextmanager
async def _unasked(spec: RunSpec) -> AsyncIterator[LocalEpisodes]:
    """The run's environments, for what they say of rows and metrics."""
    roles = {role for entry in spec.entries for role in entry.models}
    episodes = build_episodes(spec, clients={role: _Unasked() for role in roles})
    try:
        yield episodes
    finally:
        await episodes.close()


async def seal(store: ObjectStore, plan: Plan, clock: Clock) -> Manifest:
    """The manifest of a generation, written if it is not there. Raises NotFinished."""
    written = await read_manifest(store, plan.generation)
    if written is not None:
        return written
    manifest = build_manifest(plan, await plan_heads(store, plan.shards), clock.time())
    if not manifest.complete:
        missing = manifest.planned - manifest.totals.settled
        raise NotFinished(f"{store.url}: {missing} of {manifest.planned} rollouts have no result yet")
    return await finalise(store, manifest)
