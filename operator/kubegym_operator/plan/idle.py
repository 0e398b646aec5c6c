"""When something rests: suspended, or idle for long enough (rule 6).

Idle begins when the last active job stopped referring to it, a request ends it, and so does a job: the moment that
counts is the latest of ``status.idleSince``, ``status.lastRequestTime`` and the creation.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubegym.core.spec.common import IdlePolicy
from kubegym_operator.api.reasons import Reason
from kubegym_operator.plan.actions import Object
from kubegym_operator.plan.objects import status_of
from kubegym_operator.plan.times import seconds, spell


@dataclass(frozen=True, slots=True)
class Rest:
    """Whether something rests.

    Attributes:
        rests: nothing of it is wanted now.
        reason: why, ``Idle`` or ``Suspended``; meaningless while it does not rest.
        message: the same for a person.
        idle_since: wall-clock seconds since when no active job refers to it; None while one does.
        again_after: seconds until it becomes idle if nothing happens.
    """

    rests: bool
    reason: str = ""
    message: str = ""
    idle_since: float | None = None
    again_after: float | None = None


def resting(
    raw: Object,
    *,
    suspend: bool,
    policy: IdlePolicy | None,
    active: bool,
    last_request: float | None,
    now: float,
) -> Rest:
    """Whether an environment or a model server rests.

    Args:
        raw: as stored, with ``status.idleSince``.
        suspend: ``spec.suspend``.
        policy: ``spec.idlePolicy``.
        active: whether an active RolloutJob refers to it.
        last_request: wall-clock seconds of the last request, where that is known.
        now: wall-clock seconds.
    """
    since = None if active else _idle_since(raw, now)
    if suspend:
        return Rest(True, Reason.SUSPENDED, "spec.suspend is true", idle_since=since)
    after = policy.scale_to_zero_after_seconds if policy is not None else None
    if after is None or since is None:
        return Rest(False, idle_since=since)
    left = max(since, last_request or 0.0) + after - now
    if left > 0:
        return Rest(False, idle_since=since, again_after=left)
    return Rest(True, Reason.IDLE, f"no RolloutJob needed it for {spell(after)}; the next one wakes it", since)


def _idle_since(raw: Object, now: float) -> float:
    stored = seconds(status_of(raw).get("idleSince"))
    if stored is not None:
        return stored
    if not status_of(raw).get("conditions"):  # nobody has looked at it yet
        return seconds(raw.get("metadata", {}).get("creationTimestamp")) or now
    return float(int(now))
