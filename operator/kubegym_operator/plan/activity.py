"""How long a run has been active, and its deadlines.

A Job's own ``activeDeadlineSeconds`` starts again whenever the Job is resumed, so the operator accounts (rule 4): a
period begins when the first worker is ready and ends when the Job is suspended, deleted, or done. What earlier periods
took stands in ``status.activeSeconds``, the beginning of the current one in ``status.activeSince``.

===========================  =====================================  ===========================================
deadline                     counts                                 ends the job as
===========================  =====================================  ===========================================
``activeDeadlineSeconds``    all active periods together            Failed, ``DeadlineExceeded``
``preRunningDeadline...``    from creation (or the last resume)     Failed, ``PreRunningDeadlineExceeded``
                             until a worker is ready
===========================  =====================================  ===========================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kubegym_operator.api import RolloutJob
from kubegym_operator.api.reasons import Reason, Type
from kubegym_operator.plan.actions import Object
from kubegym_operator.plan.failures import Trouble
from kubegym_operator.plan.objects import condition, holds, spec_of, status_of
from kubegym_operator.plan.times import seconds, spell


@dataclass(frozen=True, slots=True)
class Activity:
    """Active periods of a run.

    Attributes:
        since: wall-clock seconds at which the current one began; None outside of one.
        earlier: whole seconds of those before, rounded up, so that 0 means that there was none.
    """

    since: float | None
    earlier: int

    @property
    def ran(self) -> bool:
        """Whether a worker was ever ready."""
        return self.since is not None or self.earlier > 0

    def total(self, now: float) -> float:
        """Seconds of all periods."""
        return self.earlier + (max(0.0, now - self.since) if self.since is not None else 0.0)

    def ended(self, at: float) -> Activity:
        """With the current period, if any, closed."""
        if self.since is None:
            return self
        return Activity(None, self.earlier + max(1, math.ceil(at - self.since)))


def read_activity(raw: Object, worker_job: Object | None, now: float) -> Activity:
    """The periods as of now.

    Args:
        raw: the RolloutJob as stored.
        worker_job: its newest Job, if there is one.
        now: wall-clock seconds.
    """
    stored = Activity(seconds(status_of(raw).get("activeSince")), int(status_of(raw).get("activeSeconds") or 0))
    status = status_of(worker_job) if worker_job is not None else {}
    suspended = worker_job is None or bool(spec_of(worker_job).get("suspend"))
    if suspended:
        stopped = seconds(condition(worker_job, "Suspended").get("lastTransitionTime")) if worker_job else None
        return stored.ended(now if stopped is None or stopped < (stored.since or 0.0) else stopped)
    if worker_job is not None and (holds(worker_job, "Complete") or holds(worker_job, "Failed")):
        return stored.ended(seconds(status.get("completionTime")) or now)
    if stored.since is None and status.get("ready"):
        return Activity(float(int(now)), stored.earlier)
    return stored


def overdue(job: RolloutJob, raw: Object, activity: Activity, waiting: str, now: float) -> Trouble | None:
    """The deadline that has passed, if one has.

    Args:
        job: its spec has the deadlines.
        raw: as stored.
        activity: its active periods.
        waiting: what it waits for while no worker is ready yet.
        now: wall-clock seconds.
    """
    active = job.spec.active_deadline_seconds
    if active is not None and activity.total(now) >= active:
        return Trouble(
            Reason.DEADLINE_EXCEEDED,
            f"active for {spell(activity.total(now))}, spec.activeDeadlineSeconds is {active}; "
            "a new RolloutJob with the same spec and output goes on from here",
        )
    left = _pre_running_left(job, raw, activity, now)
    if left is not None and left <= 0:
        return Trouble(
            Reason.PRE_RUNNING_DEADLINE_EXCEEDED,
            f"no worker ran within spec.preRunningDeadlineSeconds ({job.spec.pre_running_deadline_seconds}): {waiting}",
        )
    return None


def until_overdue(job: RolloutJob, raw: Object, activity: Activity, now: float) -> float | None:
    """Seconds until a deadline passes if nothing happens."""
    waits = [_pre_running_left(job, raw, activity, now)]
    active = job.spec.active_deadline_seconds
    if active is not None and activity.since is not None:
        waits.append(active - activity.total(now))
    return min((max(wait, 0.0) for wait in waits if wait is not None), default=None)


def _pre_running_left(job: RolloutJob, raw: Object, activity: Activity, now: float) -> float | None:
    limit = job.spec.pre_running_deadline_seconds
    if limit is None or activity.ran or job.spec.suspend:
        return None
    begun = [seconds(raw.get("metadata", {}).get("creationTimestamp"))]
    resumed = condition(raw, Type.SUSPENDED)
    if resumed.get("status") == "False":
        begun.append(seconds(resumed.get("lastTransitionTime")))
    elif resumed.get("reason") == Reason.SUSPENDED:
        begun.append(now)  # resumed just now
    return max((at for at in begun if at is not None), default=now) + limit - now
