"""RolloutJob: what is written for the step that ``rolloutjob.decide`` chose, and what the status says of it.

Conditions by step:

===============  =======================  ===========================  ==========================  =====================
step             Suspended                Progressing                  Reconciling                 Stalled
===============  =======================  ===========================  ==========================  =====================
WAIT             False                    ``WaitingForEnvironment``    True                        what it refers to
CHECK, UNCHECK   False                    ``CheckingOutput``           True                        False
CREATE           False                    ``WaitingForWorkers``        True                        False
RUN              False, ``QuotaPending``  True, ``Collecting``         until a worker is ready     its pods, before that
SUSPEND          ``Suspended``            ``Suspended``                False                       False
PAUSE            ``EnvironmentNotReady``  ``WaitingForEnvironment``    True                        the environment
FINALISE         False                    True, ``Finalizing``         False                       False
COMPLETE         False                    ``Completed``                False                       False
FAIL             False                    the reason                   False                       the reason
===============  =======================  ===========================  ==========================  =====================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kubegym.core.errors import InvalidSpec
from kubegym_operator.api.conditions import Condition, find
from kubegym_operator.api.reasons import Reason, Type
from kubegym_operator.build import names
from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.frozen import FrozenRun
from kubegym_operator.build.job import build_finaliser, build_model_servers, build_run_objects, build_worker_job
from kubegym_operator.plan.actions import Delete, Object, Patch, Plan, kind_of
from kubegym_operator.plan.activity import overdue, until_overdue
from kubegym_operator.plan.children import delete_of, plan_children
from kubegym_operator.plan.demand import CHECKING_OUTPUT, finished, managed_elsewhere
from kubegym_operator.plan.failures import Trouble, first_trouble, success_words, template_of, unsettled_until
from kubegym_operator.plan.figures import VOLATILE, figures, reward_integrity
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
    status_of,
    uid_of,
)
from kubegym_operator.plan.queues import queue_trouble
from kubegym_operator.plan.rolloutjob import Decision, Facts, Step, decide, pause_in, read_facts, rests
from kubegym_operator.plan.run import Run, resolve_run
from kubegym_operator.plan.snapshot import Progress, RolloutJobSnapshot
from kubegym_operator.plan.status import kstatus, next_status, stalled_status
from kubegym_operator.plan.times import rfc3339, seconds
from kubegym_operator.plan.workload import Serving

ASK_AGAIN: Final = 30.0
"""Seconds until what is waited for is looked at again, if no event comes."""

NO_PROGRESS_AFTER: Final = 600.0
"""Seconds beyond the longest rollout in which no rollout became durable: something hangs."""

_LONGEST_URI: Final = 1024
_ROLLOUT_SECONDS: Final = 3600
_OVER: Final = (Step.COMPLETE, Step.FAIL)
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
    fields = _fields(snapshot, facts, run, decision, facts.number)
    conditions = _conditions(snapshot, facts, run, decision, fields)
    status, events = next_status(snapshot.raw, fields, conditions, snapshot.now)
    return Plan(deletes=_stop(snapshot), status=status, events=events)


def _plan_unfinished(snapshot: RolloutJobSnapshot, context: BuildContext) -> Plan:
    facts = read_facts(snapshot)
    run = resolve_run(snapshot, context)
    decision = decide(snapshot, facts, run)
    writes = _writes(snapshot, facts, run, decision, context)
    number = facts.number + any(kind_of(obj) == JOB for obj in writes.creates if decision.step is Step.CREATE)
    fields = _fields(snapshot, facts, run, decision, number)
    conditions = _conditions(snapshot, facts, run, decision, fields)
    status, events = next_status(snapshot.raw, fields, conditions, snapshot.now)
    held = status is not None and not snapshot.progress_due and not _news(snapshot, status)
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
    frozen = _frozen(facts, run)
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
    job, worker_job, frozen = snapshot.job, facts.worker_job, _frozen(facts, run)
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


def _frozen(facts: Facts, run: Run) -> FrozenRun | None:
    """The run that its workers mount; before there were any, today's."""
    return facts.stored if facts.number > 0 and facts.stored is not None else run.frozen


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


def _fields(snapshot: RolloutJobSnapshot, facts: Facts, run: Run, decision: Decision, number: int) -> dict[str, Any]:
    stored, now = status_of(snapshot.raw), rfc3339(snapshot.now)
    step = decision.step
    words = success_words(facts.finaliser_pods) if step in _OVER else None
    told = Progress.from_json(words) if words is not None else snapshot.progress
    activity = facts.activity.ended(snapshot.now) if step in _OVER else facts.activity
    frozen = _frozen(facts, run)
    fields: dict[str, Any] = {
        "workers": _workers(facts) if step is Step.RUN else 0,
        **figures(stored, told),
        "startTime": stored.get("startTime") or now,
        "activeSince": rfc3339(activity.since) if activity.since is not None else None,
        "activeSeconds": activity.earlier or None,
        "jobName": names.job(snapshot.job.name, number) if number else None,
    }
    if number and frozen is not None:
        fields["environments"] = [{"name": n, "digest": d} for n, d in sorted(frozen.environments.items())]
    elif "environments" in stored:
        fields["environments"] = stored["environments"]
    if step in _OVER:
        fields |= {"completionTime": now, "workers": 0, "estimatedCompletionTime": None}
        uri = words.get("manifestUri") if words is not None else None
        fields["manifestUri"] = uri if isinstance(uri, str) and len(uri) <= _LONGEST_URI else None
    return fields


def _news(snapshot: RolloutJobSnapshot, status: Mapping[str, Any]) -> bool:
    """Whether somebody decides by what changed; words about waiting and moving figures can wait for 30 s."""
    return _deciding(status) != _deciding(status_of(snapshot.raw))


def _deciding(status: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, tuple[str, str]]]:
    """What others, and this operator after a restart, decide by."""
    fields = {name: value for name, value in status.items() if name not in VOLATILE and name != "conditions"}
    return fields, {found["type"]: _telling(found) for found in status.get("conditions") or ()}


def _telling(condition: Mapping[str, str]) -> tuple[str, str]:
    """What of a condition is news: the reason, too, except where it says what is waited for."""
    type, status, reason = condition["type"], condition["status"], condition["reason"]
    waiting = type == Type.RECONCILING or (type == Type.ENVIRONMENT_READY and reason != CHECKING_OUTPUT)
    return status, "" if waiting else reason


def _conditions(
    snapshot: RolloutJobSnapshot, facts: Facts, run: Run, decision: Decision, fields: Mapping[str, Any]
) -> list[Condition]:
    step, over = decision.step, decision.step in _OVER
    trouble = decision.trouble or _pod_trouble(snapshot, facts, step)
    progressing = _progressing(snapshot, facts, decision, fields)
    started = step is Step.RUN and bool(_ready(facts))
    done = over or started or step in (Step.SUSPEND, Step.FINALISE)
    _, reconciling, stalled = kstatus(
        done=done, reason=progressing.reason, message=progressing.message, trouble=trouble
    )
    planned = "planDigest" in fields
    return [
        _suspended(snapshot, facts, run, step),
        _environment_ready(run, step),
        Condition(
            Type.PLAN_COMMITTED,
            "True" if planned else "False",
            Reason.PLAN_COMMITTED if planned else Reason.WAITING_FOR_PLAN,
        ),
        reward_integrity(snapshot.job, fields),
        progressing,
        reconciling,
        stalled,
        Condition(Type.COMPLETE, "True", Reason.COMPLETED, "the manifest is written")
        if step is Step.COMPLETE
        else Condition(Type.COMPLETE, "False", Reason.NOT_FINISHED),
        Condition(Type.FAILED, "True", trouble.reason, trouble.message)
        if step is Step.FAIL and trouble is not None
        else Condition(Type.FAILED, "False", Reason.NOT_FINISHED),
    ]


def _suspended(snapshot: RolloutJobSnapshot, facts: Facts, run: Run, step: Step) -> Condition:
    if step is Step.SUSPEND:
        why = "spec.suspend is true" if snapshot.job.spec.suspend else "spec.parallelism is 0"
        return Condition(Type.SUSPENDED, "True", Reason.SUSPENDED, why)
    if step is Step.PAUSE:
        return Condition(Type.SUSPENDED, "True", Reason.ENVIRONMENT_NOT_READY, run.serving.message)
    if step is Step.RUN and facts.worker_job is not None and _queued(snapshot, facts.worker_job):
        message = _quota_pending(snapshot, facts.worker_job).message
        return Condition(Type.SUSPENDED, "True", Reason.QUOTA_PENDING, message)
    return Condition(Type.SUSPENDED, "False", Reason.NOT_SUSPENDED)


def _environment_ready(run: Run, step: Step) -> Condition:
    if step is Step.CHECK:
        message = "the environment is idle; first the output is looked at"
        return Condition(Type.ENVIRONMENT_READY, "False", CHECKING_OUTPUT, message)
    status = "True" if run.serving.serves and run.frozen is not None else "False"
    reason = run.serving.reason if status == "False" else Reason.AVAILABLE
    return Condition(Type.ENVIRONMENT_READY, status, reason, run.serving.message)  # type: ignore[arg-type]


def _progressing(
    snapshot: RolloutJobSnapshot, facts: Facts, decision: Decision, fields: Mapping[str, Any]
) -> Condition:
    step, type = decision.step, Type.PROGRESSING
    if step is Step.FAIL and decision.trouble is not None:
        return Condition(type, "False", decision.trouble.reason)
    if step is Step.RUN:
        if facts.worker_job is not None and _queued(snapshot, facts.worker_job):
            waiting = _quota_pending(snapshot, facts.worker_job)
            return Condition(type, "False", waiting.reason, waiting.message)
        if not _ready(facts):
            return Condition(type, "False", Reason.WAITING_FOR_WORKERS, "no worker is ready yet")
        last, limit = seconds(fields.get("lastProgressTime")), NO_PROGRESS_AFTER + _longest_rollout(snapshot)
        if last is not None and snapshot.now - last > limit:
            return Condition(type, "False", Reason.NO_PROGRESS, f"no rollout became durable since {rfc3339(last)}")
        return Condition(type, "True", Reason.COLLECTING)
    if step is Step.FINALISE:
        return Condition(type, "True", Reason.FINALIZING, "the workers are done, the manifest is being written")
    reason = {
        Step.CREATE: Reason.WAITING_FOR_WORKERS,
        Step.CHECK: CHECKING_OUTPUT,
        Step.UNCHECK: CHECKING_OUTPUT,
        Step.SUSPEND: Reason.SUSPENDED,
        Step.COMPLETE: Reason.COMPLETED,
    }.get(step, Reason.WAITING_FOR_ENVIRONMENT)
    return Condition(type, "False", reason)


def _longest_rollout(snapshot: RolloutJobSnapshot) -> int:
    limits = (spec_of(env).get("rolloutTimeoutSeconds") for env in snapshot.environments.values())
    return max((int(limit) for limit in limits if limit), default=_ROLLOUT_SECONDS)


def _pod_trouble(snapshot: RolloutJobSnapshot, facts: Facts, step: Step) -> Trouble | None:
    """What keeps the first worker, or the finaliser, from running."""
    job = facts.worker_job if step is Step.RUN else facts.finaliser if step in (Step.FINALISE, Step.CHECK) else None
    if job is None or (step is Step.RUN and _ready(facts)):
        return None
    if spec_of(job).get("suspend"):
        return _quota_pending(snapshot, job)
    pods = facts.worker_pods if step is Step.RUN else facts.finaliser_pods
    if snapshot.refusal is not None and not pods:
        refused = Reason.QUOTA_EXCEEDED if "exceeded quota" in snapshot.refusal else Reason.ADMISSION_REFUSED
        return Trouble(refused, f"Job {name_of(job)}: {snapshot.refusal}")
    return first_trouble(pods, snapshot.now, template_of(job))


def _queued(snapshot: RolloutJobSnapshot, job: Object) -> bool:
    """Whether a Job waits for its queue."""
    return snapshot.job.spec.queue is not None and bool(spec_of(job).get("suspend"))


def _quota_pending(snapshot: RolloutJobSnapshot, job: Object) -> Trouble:
    """What a suspended Job waits for."""
    queue = snapshot.job.spec.queue
    if queue is None:
        return Trouble(Reason.QUOTA_PENDING, f"Job {name_of(job)} is suspended", waits=True)
    found = queue_trouble(snapshot.raw, queue.name, snapshot.cluster, snapshot.now)
    return found or Trouble(Reason.QUOTA_PENDING, f"Job {name_of(job)} waits for queue {queue.name}", waits=True)


def _workers(facts: Facts) -> int:
    """Worker pods of a Job that may have some."""
    job = facts.worker_job
    return int(status_of(job).get("active") or 0) if job is not None and not spec_of(job).get("suspend") else 0


def _ready(facts: Facts) -> int:
    """Ready workers of the run; those that have ended well count."""
    if facts.worker_job is None or spec_of(facts.worker_job).get("suspend"):
        return 0
    status = status_of(facts.worker_job)
    return int(status.get("ready") or 0) + int(status.get("succeeded") or 0)


def _requeue(snapshot: RolloutJobSnapshot, facts: Facts, run: Run, decision: Decision) -> float | None:
    if decision.step in _OVER:
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
