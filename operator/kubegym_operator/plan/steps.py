"""RolloutJob: what is written for the step that ``rolloutjob.decide`` chose."""

from __future__ import annotations

from typing import Final

from kubegym.core.errors import InvalidSpec
from kubegym_operator.api.conditions import find
from kubegym_operator.api.reasons import Type
from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.frozen import FrozenRun
from kubegym_operator.build.job import build_finaliser, build_model_servers, build_run_objects, build_worker_job
from kubegym_operator.plan.actions import Delete, Object, Patch, Plan, kind_of
from kubegym_operator.plan.activity import overdue, until_overdue
from kubegym_operator.plan.children import delete_of, plan_children
from kubegym_operator.plan.demand import finished, managed_elsewhere
from kubegym_operator.plan.failures import Trouble, unsettled_until
from kubegym_operator.plan.job_status import OVER, frozen_of, is_news, job_status
from kubegym_operator.plan.objects import (
    JOB,
    MODEL_SERVER,
    ROLLOUT_JOB,
    conditions_of,
    holds,
    name_of,
    namespace_of,
    of_kind,
    spec_of,
    uid_of,
)
from kubegym_operator.plan.rolloutjob import Decision, Facts, Step, decide, pause_in, read_facts, rests
from kubegym_operator.plan.run import Run, resolve_run
from kubegym_operator.plan.snapshot import RolloutJobSnapshot
from kubegym_operator.plan.status import stalled_status
from kubegym_operator.plan.times import seconds
from kubegym_operator.plan.workload import Serving

ASK_AGAIN: Final = 30.0
"""Seconds until what is waited for is looked at again, if no event comes."""

_RUNS: Final = (Step.CHECK, Step.CREATE, Step.RUN, Step.FINALISE)
"""Steps whose Jobs need what lies beside them: identity, network, pace."""


def plan_rollout_job(snapshot: RolloutJobSnapshot, context: BuildContext) -> Plan:
    """What to do for a RolloutJob."""
    if managed_elsewhere(snapshot.raw):
        return Plan()
    if finished(snapshot.raw):
        return _plan_finished(snapshot)
    try:
        return _plan_unfinished(snapshot, context)
    except InvalidSpec as error:
        return plan_stuck_job(snapshot, Trouble(error.reason, error.message))


def plan_stuck_job(snapshot: RolloutJobSnapshot, trouble: Trouble) -> Plan:
    """What to do for a RolloutJob whose pods cannot be made: its deadlines end it all the same.

    Args:
        snapshot: what is observed.
        trouble: why it cannot be rendered, or what the API server has against what was.
    """
    facts = read_facts(snapshot)
    late = overdue(snapshot.job, snapshot.raw, facts.activity, trouble.message, snapshot.now)
    if late is None:
        status, events = stalled_status(snapshot.raw, trouble, snapshot.now)
        left = until_overdue(snapshot.job, snapshot.raw, facts.activity, snapshot.now)
        return Plan(status=status, events=events, requeue_after=left)
    run = Run(None, Serving(False, trouble.reason, trouble.message), trouble)
    decision = Decision(Step.FAIL, late)
    status, events = job_status(snapshot, facts, run, decision, facts.number)
    return Plan(deletes=_stop(snapshot), status=status, events=events)


def _plan_unfinished(snapshot: RolloutJobSnapshot, context: BuildContext) -> Plan:
    facts = read_facts(snapshot)
    run = resolve_run(snapshot, context)
    decision = decide(snapshot, facts, run)
    writes = _writes(snapshot, facts, run, decision, context)
    number = facts.number + any(kind_of(obj) == JOB for obj in writes.creates if decision.step is Step.CREATE)
    status, events = job_status(snapshot, facts, run, decision, number)
    held = status is not None and not snapshot.progress_due and not is_news(snapshot, status)
    if held:
        status, events = None, ()
    waits = [_requeue(snapshot, facts, run, decision), snapshot.progress_after if held else None]
    return Plan(
        applies=writes.applies,
        creates=writes.creates,
        patches=writes.patches,
        scales=writes.scales,
        deletes=writes.deletes,
        status=status,
        events=events,
        requeue_after=min((wait for wait in waits if wait is not None), default=None),
    )


def _plan_finished(snapshot: RolloutJobSnapshot) -> Plan:
    """Stop what still runs, and go when the time to live is over. Data in the store is never touched (rule 12)."""
    deletes = _stop(snapshot)
    ttl = snapshot.job.spec.ttl_seconds_after_finished
    if ttl is None:
        return Plan(deletes=deletes)
    ended = [c for c in (find(conditions_of(snapshot.raw), t) for t in (Type.COMPLETE, Type.FAILED)) if c]
    at = max((seconds(c["lastTransitionTime"]) or 0.0 for c in ended if c["status"] == "True"), default=snapshot.now)
    left = at + ttl - snapshot.now
    if left > 0:
        return Plan(deletes=deletes, requeue_after=left)
    raw = snapshot.raw
    return Plan(deletes=(*deletes, Delete(ROLLOUT_JOB, namespace_of(raw), name_of(raw), uid_of(raw))))


def _stop(snapshot: RolloutJobSnapshot) -> tuple[Delete, ...]:
    """Deletion of every Job that still runs, and of the models that only this run uses."""
    jobs = of_kind(snapshot.children, JOB)
    running = [job for job in jobs if not holds(job, "Complete") and not holds(job, "Failed")]
    return tuple(delete_of(obj) for obj in (*running, *of_kind(snapshot.children, MODEL_SERVER)))


def _writes(snapshot: RolloutJobSnapshot, facts: Facts, run: Run, decision: Decision, context: BuildContext) -> Plan:
    step = decision.step
    if step is Step.COMPLETE:
        return Plan(deletes=tuple(delete_of(obj) for obj in of_kind(snapshot.children, MODEL_SERVER)))
    if step is Step.FAIL:
        return Plan(deletes=_stop(snapshot))
    servers = [_with_rest(server, snapshot) for server in build_model_servers(snapshot.job, context)]
    frozen = frozen_of(facts, run)
    beside = build_run_objects(snapshot.job, frozen, context) if frozen is not None and step in _RUNS else []
    base = plan_children(snapshot.raw, [*servers, *beside], snapshot.children, {}, prune=False)
    job_writes = _job_writes(snapshot, facts, run, step, context)
    return Plan(
        applies=base.applies,
        creates=(*base.creates, *job_writes.creates),
        patches=job_writes.patches,
        scales=base.scales,
        deletes=(*map(delete_of, facts.other_jobs), *job_writes.deletes),
    )


def _job_writes(snapshot: RolloutJobSnapshot, facts: Facts, run: Run, step: Step, context: BuildContext) -> Plan:
    """The writes about the Jobs of the run."""
    job, worker_job, frozen = snapshot.job, facts.worker_job, frozen_of(facts, run)
    if step is Step.UNCHECK and facts.finaliser is not None:
        return Plan(deletes=(delete_of(facts.finaliser),))
    if step in (Step.SUSPEND, Step.PAUSE):
        return _halted(snapshot, worker_job)
    if step is Step.RUN and worker_job is not None:
        return _run_on(snapshot, facts, worker_job, frozen, context)
    if frozen is None or step not in (Step.CHECK, Step.CREATE, Step.FINALISE):
        return Plan()
    if facts.number == 0 and facts.config is not None and _digest(facts.stored) != frozen.digest:
        return Plan(deletes=(delete_of(facts.config),))  # frozen for a look at the output only: nothing ran with it
    if step is Step.CREATE:
        look = (delete_of(facts.finaliser),) if facts.finaliser is not None else ()  # it found nothing finished
        number = facts.number + 1
        workers = max(1, job.spec.parallelism)
        queued = job.spec.queue is not None
        made = build_worker_job(job, frozen, context, number=number, workers=workers, suspend=queued)
        return Plan(creates=tuple(made), deletes=look)
    if facts.finaliser is not None:
        return Plan()
    config = () if facts.config is not None else (frozen.to_config_map(job, context),)
    return Plan(creates=(*config, *build_finaliser(job, frozen, context)))


def _digest(frozen: FrozenRun | None) -> str | None:
    return frozen.digest if frozen is not None else None


def _run_on(
    snapshot: RolloutJobSnapshot, facts: Facts, worker_job: Object, frozen: FrozenRun | None, context: BuildContext
) -> Plan:
    """Hold a Job to its size, and going."""
    spec, wanted = spec_of(worker_job), max(1, snapshot.job.spec.parallelism)
    other_size = spec.get("parallelism") != wanted or spec.get("completions") != wanted
    if snapshot.job.spec.queue is not None:
        return Plan(deletes=(delete_of(worker_job),)) if other_size else Plan()
    body: Object = {"parallelism": wanted, "completions": wanted} if other_size else {}
    if spec.get("suspend"):
        body["suspend"] = False
    patches = (_patch(worker_job, body),) if body else ()
    lost = facts.config is None and frozen is not None
    return Plan(patches=patches, creates=(frozen.to_config_map(snapshot.job, context),) if lost and frozen else ())


def _halted(snapshot: RolloutJobSnapshot, worker_job: Object | None) -> Plan:
    if worker_job is None:
        return Plan()
    if snapshot.job.spec.queue is not None:  # suspend is Kueue's (rule 5)
        return Plan(deletes=(delete_of(worker_job),))
    return Plan() if spec_of(worker_job).get("suspend") else Plan(patches=(_patch(worker_job, {"suspend": True}),))


def _patch(job: Object, spec: Object) -> Patch:
    return Patch(JOB, namespace_of(job), name_of(job), {"spec": spec})


def _with_rest(server: Object, snapshot: RolloutJobSnapshot) -> Object:
    """A model of this run alone rests with it."""
    return {**server, "spec": {**spec_of(server), "suspend": True}} if rests(snapshot) else server


def _requeue(snapshot: RolloutJobSnapshot, facts: Facts, run: Run, decision: Decision) -> float | None:
    if decision.step in OVER:
        ttl = snapshot.job.spec.ttl_seconds_after_finished
        return float(ttl) if ttl is not None else None
    waits = [
        until_overdue(snapshot.job, snapshot.raw, facts.activity, snapshot.now),
        unsettled_until(snapshot.pods, snapshot.now),
    ]
    if decision.step is Step.RUN:
        waits.append(snapshot.progress_after)
        if not run.serving.serves:
            waits.append(max(0.0, pause_in(snapshot, run)))
    if decision.trouble is not None and decision.trouble.waits:
        waits.append(ASK_AGAIN)
    return min((wait for wait in waits if wait is not None), default=None)
