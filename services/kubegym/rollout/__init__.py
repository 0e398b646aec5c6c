"""The rollout engine: plan, claim, work, commit; groups; reading a run back.

``BatchRun`` collects a plan (a laptop's run, a Job's pod); ``Worker`` with a ``StreamPool`` collects tasks that come
while it goes on (a trainer's). Both over any ``Episodes`` and any ``ObjectStore``.
"""

from kubegym.rollout.errors import FailureBudgetExceeded, Fenced, IncompleteRun
from kubegym.rollout.groups import Group, GroupPolicy
from kubegym.rollout.head import Compression, Holder
from kubegym.rollout.holder import job_holder, local_holder
from kubegym.rollout.isolate import ChildSpec, Quarantine
from kubegym.rollout.job import BatchRun, Draft, Opened, open_plan, open_retry
from kubegym.rollout.manifest import Manifest
from kubegym.rollout.metrics import WorkerMetrics
from kubegym.rollout.plan import Plan, Wanted
from kubegym.rollout.pool import StreamPool, TaskRow, TaskSource
from kubegym.rollout.reader import NoSuchRun, StoredRun, read_run
from kubegym.rollout.shard import StoreAccess
from kubegym.rollout.worker import Progress, Worker, WorkerSettings

__all__ = [
    "BatchRun",
    "ChildSpec",
    "Compression",
    "Draft",
    "FailureBudgetExceeded",
    "Fenced",
    "Group",
    "GroupPolicy",
    "Holder",
    "IncompleteRun",
    "Manifest",
    "NoSuchRun",
    "Opened",
    "Plan",
    "Progress",
    "Quarantine",
    "StoreAccess",
    "StoredRun",
    "StreamPool",
    "TaskRow",
    "TaskSource",
    "Wanted",
    "Worker",
    "WorkerMetrics",
    "WorkerSettings",
    "job_holder",
    "local_holder",
    "open_plan",
    "open_retry",
    "read_run",
]
