"""What a queue of Kueue says to whoever waits for it: that there is none, or none that admits anything."""

from __future__ import annotations

from typing import Final

from kubegym_operator.api.reasons import Reason
from kubegym_operator.plan.actions import Object
from kubegym_operator.plan.failures import Trouble
from kubegym_operator.plan.objects import condition, namespace_of
from kubegym_operator.plan.snapshot import Cluster
from kubegym_operator.plan.times import seconds

REFERENCE_GRACE: Final = 60.0
"""Seconds in which what a new object refers to may still be applied after it."""

QUEUE_EVERY: Final = 30.0
"""Seconds between two looks at what no watch shows: the queue of something that waits, a kind that is missing."""


def queue_trouble(raw: Object, queue: str, cluster: Cluster, now: float) -> Trouble | None:
    """Why an object that waits for its queue gets no quota, beyond that there is none left.

    Args:
        raw: the object, as stored.
        queue: the queue's name in ``spec.queue``.
        cluster: what is installed, and the queue as it was found.
        now: wall-clock seconds.
    """
    if not cluster.kueue:
        return Trouble(
            Reason.KUEUE_NOT_INSTALLED,
            f"spec.queue is {queue}, and Kueue (kueue.x-k8s.io) is not installed: install it, or leave spec.queue out",
        )
    namespace = namespace_of(raw)
    if cluster.local_queue is None:
        created = seconds(raw["metadata"].get("creationTimestamp")) or 0.0
        return Trouble(
            Reason.QUEUE_NOT_FOUND,
            f"there is no LocalQueue {queue} in namespace {namespace}: create it, or name one of "
            f"`kubectl get localqueues -n {namespace}` in spec.queue.name",
            waits=now - created < REFERENCE_GRACE,
        )
    active = condition(cluster.local_queue, "Active")
    if active.get("status") == "False":
        said = active.get("message") or active.get("reason")
        return Trouble(Reason.QUOTA_PENDING, f"LocalQueue {queue} is not active: {said}", waits=True)
    return None


def waits_for_quota(trouble: Trouble | None) -> bool:
    """Whether it is only quota that is missing."""
    return trouble is not None and trouble.reason == Reason.QUOTA_PENDING
