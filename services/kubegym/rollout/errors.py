"""Errors of the rollout engine.

::

    KubeGymError                 core.errors
    ├── Fenced                   another claimed the shard; what was not committed is theirs to do
    ├── IncompleteRun            a manifest was asked for while rollouts are missing
    └── RunFailed                core.errors
        └── FailureBudgetExceeded    too large a share of rollouts failed; the run was halted
"""

from __future__ import annotations

from kubegym.core.errors import KubeGymError, RunFailed


class Fenced(KubeGymError):
    """The head was taken by a later epoch: stop, nothing that was not committed counts."""

    reason = "Fenced"
    retryable = True


class IncompleteRun(KubeGymError):
    """Planned rollouts have no result yet."""

    reason = "IncompleteRun"
    retryable = True


class FailureBudgetExceeded(RunFailed):
    """The share of failed rollouts passed ``maxFailedRolloutFraction`` (condition RewardIntegrity)."""

    reason = "RolloutFailureBudgetExceeded"
