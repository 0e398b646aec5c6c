"""RolloutJob: what its status says of the step that ``rolloutjob.decide`` chose.

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

from kubegym_operator.api.conditions import Condition
from kubegym_operator.api.reasons import Reason, Type
from kubegym_operator.build import names
from kubegym_operator.build.frozen import FrozenRun
from kubegym_operator.plan.actions import Event, Object
from kubegym_operator.plan.demand import CHECKING_OUTPUT
from kubegym_operator.plan.failures import Trouble, first_trouble, success_words, template_of
from kubegym_operator.plan.figures import VOLATILE, figures, reward_integrity
from kubegym_operator.plan.objects import (
    name_of,
    spec_of,
    status_of,
)
from kubegym_operator.plan.queues import queue_trouble
from kubegym_operator.plan.rolloutjob import Decision, Facts, Step
from kubegym_operator.plan.run import Run
from kubegym_operator.plan.snapshot import Progress, RolloutJobSnapshot
from kubegym_operator.plan.status import kstatus, next_status
from kubegym_operator.plan.times import rfc3339, seconds

NO_PROGRESS_AFTER: Final = 600.0
"""Seconds beyond the longest rollout in which no rollout became durable: something hangs."""

OVER: Final = (Step.COMPLETE, Step.FAIL)
"""Steps after which nothing more is done."""

_LONGEST_URI: Final = 1024
_ROLLOUT_SECONDS: Final = 3600


def job_status(
    snapshot: RolloutJobSnapshot, facts: Facts, run: Run, decision: Decision, number: int
) -> tuple[Object | None, tuple[Event, ...]]:
    """The whole status to write, None when the stored one says the same, and the events of what changed.

    Args:
        snapshot: what is observed.
        facts: what follows from it.
        run: the run as it would be frozen today.
        decision: the step, and what speaks against it.
        number: of the Jobs of workers, with one that is about to be made.
    """
    fields = _fields(snapshot, facts, run, decision, number)
    conditions = _conditions(snapshot, facts, run, decision, fields)
    return next_status(snapshot.raw, fields, conditions, snapshot.now)


def frozen_of(facts: Facts, run: Run) -> FrozenRun | None:
    """The run that its workers mount; before there were any, today's."""
    return facts.stored if facts.number > 0 and facts.stored is not None else run.frozen


def _fields(snapshot: RolloutJobSnapshot, facts: Facts, run: Run, decision: Decision, number: int) -> dict[str, Any]:
    stored, now = status_of(snapshot.raw), rfc3339(snapshot.now)
    step = decision.step
    words = success_words(facts.finaliser_pods) if step in OVER else None
    told = Progress.from_json(words) if words is not None else snapshot.progress
    activity = facts.activity.ended(snapshot.now) if step in OVER else facts.activity
    frozen = frozen_of(facts, run)
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
    if step in OVER:
        fields |= {"completionTime": now, "workers": 0, "estimatedCompletionTime": None}
        uri = words.get("manifestUri") if words is not None else None
        fields["manifestUri"] = uri if isinstance(uri, str) and len(uri) <= _LONGEST_URI else None
    return fields


def is_news(snapshot: RolloutJobSnapshot, status: Mapping[str, Any]) -> bool:
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
    step, over = decision.step, decision.step in OVER
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
