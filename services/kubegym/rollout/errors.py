"""Errors of the rollout engine.

::

    KubeGymError                 core.errors
    ├── Fenced                   another claimed the shard; what was not committed is theirs to do
    ├── IncompleteRun            a manifest was asked for while rollouts are missing
    ├── StoreError               core.errors
    │   └── CorruptRecord        a plan, head or manifest is not as it was written
    └── RunFailed                core.errors
        └── FailureBudgetExceeded    too large a share of rollouts failed; the run was halted
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kubegym.core.errors import KubeGymError, RunFailed, StoreError


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


class CorruptRecord(StoreError):
    """A plan, head or manifest cannot be read: damaged, or written by another version of KubeGym."""

    reason = "CorruptRecord"
    retryable = False


@contextmanager
def reading(record: str) -> Iterator[None]:
    """Raise CorruptRecord for whatever goes wrong while a stored record is parsed in the block."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CorruptRecord(
            f"the stored {record} is damaged, or of another version of kubegym ({type(error).__name__}: {error}); "
            "it is left as it is. Use another output, or put the file back."
        ) from error
