"""How a pod ends, and what it says about it.

::

    KubeGymError                 core.errors
    ├── NotFinished              the finaliser came while rollouts are missing
    ├── Fenced                   rollout.errors; another worker took a shard of ours
    └── ...                      everything of core, storage, rollout

The exit codes are the Job's ``podFailurePolicy``: 11 ends the job, 12 and 143 cost nothing, 1 counts against
``backoffLimit``.
"""

from __future__ import annotations

from kubegym.core.errors import InputError, KubeGymError, StoreError
from kubegym.rollout import FailureBudgetExceeded, Fenced
from kubegym.storage import StoreDenied, StoreFull

DONE = 0
FAILED = 1
CANNOT_SUCCEED = 11
FENCED = 12
TERMINATED = 143

_HOPELESS_MODEL = frozenset({"ModelUnauthorized", "ModelNotFound"})


class NotFinished(KubeGymError):
    """Planned rollouts have no result yet, or more is asked for than was planned."""

    reason = "IncompleteRun"
    retryable = True


def exit_code(error: KubeGymError, *, began: bool = False) -> int:
    """The exit code for an error that ended the process.

    Args:
        error: what it was.
        began: whether the store had let us work before: credentials that it refuses then were good, and are being
            replaced, perhaps; a new pod will know.
    """
    if isinstance(error, Fenced):
        return FENCED
    if isinstance(error, StoreDenied):
        return FAILED if began else CANNOT_SUCCEED
    if isinstance(error, InputError | FailureBudgetExceeded | NotFinished) or error.reason in _HOPELESS_MODEL:
        return CANNOT_SUCCEED
    if isinstance(error, StoreError) and not error.retryable and not isinstance(error, StoreFull):
        return CANNOT_SUCCEED  # no such bucket, a damaged record
    return FAILED
