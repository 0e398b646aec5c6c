"""Errors of the operator itself.

Those of the API server are in ``kube/errors.py``, those of builders in ``build/errors.py``::

    OperatorError
    ├── Fenced       the lease was renewed too long ago: nothing is written
    ├── LeaseLost    another operator holds the lease: this process ends
    └── Refused      the API server refused children for what they say; ``refusals`` say which and why
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kubegym.core.errors import KubeGymError


class OperatorError(KubeGymError):
    """Base of the operator's own errors."""

    reason = "OperatorError"


class Fenced(OperatorError):
    """Another operator may be at work by now."""

    reason = "Fenced"
    retryable = True


class LeaseLost(OperatorError):
    """This process does not lead any more, and cannot again."""

    reason = "LeaseLost"


class Refusal(NamedTuple):
    """A child that the API server refused: what it is, and the server's error (a ``KubeError``)."""

    kind: str
    name: str
    error: KubeGymError


class Refused(OperatorError):
    """Children that cannot be as they were planned: a quota, an admission policy, a bad pod template, a name in use.

    What else was planned for children is done; the status is not written, since it knows nothing of this.
    """

    reason = "Refused"

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        first = refusals[0]
        more = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
        super().__init__(f"{first.kind} {first.name}: {first.error.message}{more}", reason=first.error.reason)
        self.refusals = tuple(refusals)
