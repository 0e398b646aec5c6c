"""Kueue: the labels that hand a workload to a queue (rule 5)."""

from __future__ import annotations

from typing import Final

from kubegym.core.spec.common import Queue

QUEUE_NAME: Final = "kueue.x-k8s.io/queue-name"
PRIORITY_CLASS: Final = "kueue.x-k8s.io/priority-class"


def queue_labels(queue: Queue | None) -> dict[str, str]:
    """The labels of a Job, Deployment or LeaderWorkerSet in a queue; none without."""
    if queue is None:
        return {}
    priority = {} if queue.priority_class is None else {PRIORITY_CLASS: queue.priority_class}
    return {QUEUE_NAME: queue.name, **priority}
