"""RolloutJob: which step a run is at, decided anew each time from what is observed; no step is stored.

=====  ================================================  ================  ==========================================
row    seen (first row that fits)                        step              done
=====  ================================================  ================  ==========================================
1      finaliser: manifest written, within the budget    ``COMPLETE``      figures from its last words
2      finaliser: manifest written, above the budget     ``FAIL``          ``RolloutFailureBudgetExceeded``
3      finaliser failed after the workers                ``FAIL``          ``FinalizationFailed``
4      finaliser, before any worker: no manifest yet     ``UNCHECK``       finaliser deleted; exit code 11: ``FAIL``
5      workers' Job complete                             ``FINALISE``      finaliser created
6      workers' Job failed                               ``FAIL``          the last words of its pods
7      frozen run and today's differ                     ``FAIL``          ``EnvironmentChanged``
8      share of failed rollouts above the budget         ``FAIL``          ``RolloutFailureBudgetExceeded``
9      a deadline has passed                             ``FAIL``          ``(PreRunning)DeadlineExceeded``
10     ``suspend``, or ``parallelism: 0``                ``SUSPEND``       Job suspended; with a queue: deleted
11     not serving, no Job yet, environment idle         ``CHECK``         finaliser looks for a manifest (rule 12)
12     not serving, no Job                               ``WAIT``          the environment is woken by its demand
13     not serving for a while, Job                      ``PAUSE``         Job suspended; with a queue: deleted
14     serving, no Job                                   ``CREATE``        run frozen, Job created
15     Job                                               ``RUN``           its size follows ``parallelism``
=====  ================================================  ================  ==========================================

Size and suspension of a Job are patched as single fields (rule 1). With a Kueue queue they are not ours: the Job is
deleted, and created again under the next number; all state is in the store (rule 5). Whatever ends a run deletes its
running Job. A finished RolloutJob is left alone until its time to live is over.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from kubegym_operator.api.reasons import Reason, Type
from kubegym_operator.build import labels, names
from kubegym_operator.build.frozen import FrozenRun
from kubegym_operator.build.labels import Component
from kubegym_operator.plan.actions import Object
from kubegym_operator.plan.activity import Activity, overdue, read_activity
from kubegym_operator.plan.demand import CHECKING_OUTPUT
from kubegym_operator.plan.failures import EXIT_CANNOT_SUCCEED, Trouble, job_failure, last_words, success_words
from kubegym_operator.plan.figures import figures, reward_integrity
from kubegym_operator.plan.objects import (
    CONFIG_MAP,
    JOB,
    condition,
    deleting,
    holds,
    labelled,
    labels_of,
    name_of,
    named,
    of_kind,
    spec_of,
    status_of,
)
from kubegym_operator.plan.run import Run
from kubegym_operator.plan.snapshot import Progress, RolloutJobSnapshot
from kubegym_operator.plan.times import seconds

PAUSE_AFTER: Final = 120.0
"""Seconds of a lost environment until its workers are stopped: a pod that restarts costs less than that."""

TAKEN_AWAY: Final = frozenset({Reason.QUOTA_PENDING, Reason.PREEMPTED, Reason.SUSPENDED})
"""Reasons of not serving that no restart of a pod explains."""

_MOST_JOBS: Final = 10_000
"""Where the search for the number of a stored Job's name ends."""


class Step(Enum):
    """What a run does next."""

    WAIT = "wait"
    CHECK = "check"
    UNCHECK = "uncheck"
    CREATE = "create"
    RUN = "run"
    SUSPEND = "suspend"
    PAUSE = "pause"
    FINALISE = "finalise"
    COMPLETE = "complete"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is observed of a run.

    Attributes:
        number: of its newest Job; 0 while there never was one.
        worker_job: that Job, if it is there and not ending.
        other_jobs: earlier ones that are still there.
        finaliser: the finaliser's Job.
        config: the ConfigMap of the frozen run.
        stored: that run; None where there is none, or none that can be read.
        worker_pods, finaliser_pods: pods of the two.
        activity: its active periods.
    """

    number: int
    worker_job: Object | None
    other_jobs: tuple[Object, ...]
    finaliser: Object | None
    config: Object | None
    stored: FrozenRun | None
    worker_pods: tuple[Object, ...]
    finaliser_pods: tuple[Object, ...]
    activity: Activity

    @property
    def workers_done(self) -> bool:
        """Whether every worker has ended well."""
        return self.worker_job is not None and holds(self.worker_job, "Complete")


@dataclass(frozen=True, slots=True)
class Decision:
    """The step, and the reason where there is one to give."""

    step: Step
    trouble: Trouble | None = None


def read_facts(snapshot: RolloutJobSnapshot) -> Facts:
    """What is observed of the run."""
    job = snapshot.job
    jobs = of_kind(snapshot.children, JOB)
    workers = {number: obj for obj in jobs if (number := _number(obj)) is not None and not deleting(obj)}
    newest = max([*workers, _stored_number(snapshot)], default=0)
    config = named(snapshot.children, CONFIG_MAP, names.run_config(job.name))
    worker_job = workers.get(newest)
    finaliser = named(jobs, JOB, names.finaliser(job.name))
    return Facts(
        number=newest,
        worker_job=worker_job,
        other_jobs=tuple(obj for number, obj in sorted(workers.items()) if number != newest),
        finaliser=finaliser if finaliser is not None and not deleting(finaliser) else None,
        config=config,
        stored=_frozen(config),
        worker_pods=tuple(labelled(snapshot.pods, labels.selector(job, Component.WORKER))),
        finaliser_pods=tuple(labelled(snapshot.pods, labels.selector(job, Component.FINALISER))),
        activity=read_activity(snapshot.raw, worker_job, snapshot.now),
    )


def decide(snapshot: RolloutJobSnapshot, facts: Facts, run: Run) -> Decision:
    """The step of a run that has not finished: the first row of the table that fits."""
    return (
        _finalised(snapshot, facts)
        or _broken(snapshot, facts, run)
        or _interrupted(snapshot, facts)
        or _going(snapshot, facts, run)
    )


def _finalised(snapshot: RolloutJobSnapshot, facts: Facts) -> Decision | None:
    """Rows 1 to 5."""
    finaliser = facts.finaliser
    if finaliser is not None:
        words = success_words(facts.finaliser_pods) or {}
        failure = job_failure(finaliser, facts.finaliser_pods)
        if holds(finaliser, "Complete") and words.get("complete", facts.number > 0):
            totals = figures(status_of(snapshot.raw), Progress.from_json(words))
            integrity = reward_integrity(snapshot.job, totals)
            if integrity.status == "False":
                return Decision(Step.FAIL, Trouble(integrity.reason, integrity.message))
            return Decision(Step.COMPLETE)
        if facts.number == 0:
            said = last_words(facts.finaliser_pods, prefer=EXIT_CANNOT_SUCCEED)
            if failure is not None and said is not None and said.exit_code == EXIT_CANNOT_SUCCEED:
                return Decision(Step.FAIL, failure)  # another plan lies there: nobody need wake for that
            return Decision(Step.UNCHECK) if failure or said or holds(finaliser, "Complete") else None
        if failure is not None:
            told = failure.message or "it said nothing"
            return Decision(Step.FAIL, Trouble(Reason.FINALIZATION_FAILED, f"the manifest was not written: {told}"))
    if facts.workers_done:
        return Decision(Step.FINALISE)
    return None


def _broken(snapshot: RolloutJobSnapshot, facts: Facts, run: Run) -> Decision | None:
    """Rows 6 to 9."""
    if facts.worker_job is not None:
        failure = job_failure(facts.worker_job, facts.worker_pods)
        if failure is not None:
            return Decision(Step.FAIL, failure)
    if facts.number > 0 and run.frozen is not None and (changed := _changed(snapshot, facts, run.frozen)):
        message = (
            f"changed while the run was going on: {changed}. Put it back and create a new RolloutJob with the same "
            "output to go on, or use another output"
        )
        return Decision(Step.FAIL, Trouble(Reason.ENVIRONMENT_CHANGED, message))
    integrity = reward_integrity(snapshot.job, figures(status_of(snapshot.raw), snapshot.progress))
    if integrity.status == "False":
        return Decision(Step.FAIL, Trouble(integrity.reason, integrity.message))
    late = overdue(snapshot.job, snapshot.raw, facts.activity, _waiting(snapshot, run), snapshot.now)
    return Decision(Step.FAIL, late) if late is not None else None


def _waiting(snapshot: RolloutJobSnapshot, run: Run) -> str:
    """What a run without workers waits for."""
    if run.trouble is not None:
        return run.trouble.message
    stalled = condition(snapshot.raw, Type.STALLED)  # the pods that the API server refuses are not in a snapshot
    told = str(stalled.get("message") or "") if stalled.get("status") == "True" else ""
    return run.serving.message or told or "its workers have not started"


def _interrupted(snapshot: RolloutJobSnapshot, facts: Facts) -> Decision | None:
    """Row 10."""
    return Decision(Step.SUSPEND) if rests(snapshot) else None


def _going(snapshot: RolloutJobSnapshot, facts: Facts, run: Run) -> Decision:
    """Rows 11 to 15."""
    serves = run.frozen is not None and run.serving.serves
    if facts.worker_job is None:
        if serves:
            return Decision(Step.CREATE)
        if facts.number == 0 and run.frozen is not None and run.idle and not checked(snapshot):
            return Decision(Step.CHECK)
        return Decision(Step.WAIT, run.trouble)
    if not serves and pause_in(snapshot, run) <= 0:
        return Decision(Step.PAUSE, run.trouble)
    return Decision(Step.RUN)


def rests(snapshot: RolloutJobSnapshot) -> bool:
    """Whether no worker is wanted. No parallelism is no run: a Job of no completions would be complete at once."""
    return snapshot.job.spec.suspend or snapshot.job.spec.parallelism == 0


def checked(snapshot: RolloutJobSnapshot) -> bool:
    """Whether the output of an idle environment's job was looked at already."""
    reason = condition(snapshot.raw, Type.ENVIRONMENT_READY).get("reason")
    return reason not in (None, CHECKING_OUTPUT)


def pause_in(snapshot: RolloutJobSnapshot, run: Run) -> float:
    """Seconds until workers of an environment that does not serve are stopped; at once where it was taken away."""
    if run.serving.reason in TAKEN_AWAY:
        return 0.0
    if run.serving.reason == Reason.ROLLING_OUT:
        return PAUSE_AFTER  # some of its replicas serve all the time
    said = condition(snapshot.raw, Type.ENVIRONMENT_READY)
    since = seconds(said.get("lastTransitionTime")) if said.get("status") == "False" else None
    return PAUSE_AFTER if since is None else since + PAUSE_AFTER - snapshot.now


def wants_progress(snapshot: RolloutJobSnapshot) -> tuple[str, ...]:
    """Addresses of the workers that can tell how the run goes; none while there is nothing to tell."""
    facts = read_facts(snapshot)
    if facts.worker_job is None or spec_of(facts.worker_job).get("suspend"):
        return ()
    running = [pod for pod in facts.worker_pods if holds(pod, "Ready") and not deleting(pod)]
    return tuple(str(ip) for pod in sorted(running, key=name_of) if (ip := status_of(pod).get("podIP")))


def _changed(snapshot: RolloutJobSnapshot, facts: Facts, today: FrozenRun) -> str:
    """What of a frozen run is no more as it was, in words; empty when nothing is."""
    if facts.stored is not None:
        if facts.stored.digest == today.digest:
            return ""
        before = facts.stored.environments
    else:  # the ConfigMap is gone; the status remembers
        before = {item["name"]: item["digest"] for item in status_of(snapshot.raw).get("environments") or ()}
    different = sorted(name for name, digest in today.environments.items() if before.get(name, digest) != digest)
    if different:
        return "environment " + ", ".join(different)
    return "the models, or what the run is made of" if facts.stored is not None else ""


def _number(job: Object) -> int | None:
    """The how manieth of the run's Jobs it is; None for the finaliser's."""
    text = labels_of(job).get(labels.JOB_NUMBER, "")
    is_worker = labels_of(job).get(labels.COMPONENT) == Component.WORKER
    return int(text) if is_worker and text.isdigit() else None


def _stored_number(snapshot: RolloutJobSnapshot) -> int:
    """The number of the Job that the status names; it may be gone."""
    stored = status_of(snapshot.raw).get("jobName")
    if not stored:
        return 0
    return next((n for n in range(1, _MOST_JOBS) if names.job(snapshot.job.name, n) == stored), 0)


def _frozen(config: Object | None) -> FrozenRun | None:
    if config is None:
        return None
    try:
        return FrozenRun.from_config_map(config)
    except ValueError:
        return None
