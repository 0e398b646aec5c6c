"""Errors of the API server and how they are told apart.

``reason`` is the word of Kubernetes' own ``Status``::

    KubeError
    ├── NotFound            no such object
    │   └── KindNotServed   no such kind: its CRD is not installed
    ├── AlreadyExists       a create came too late
    ├── Conflict            the object has changed since, or is another one of that name
    ├── Gone                a version or a list's continuation is too old
    ├── Forbidden           RBAC, a quota, an admission policy, or a namespace that is ending
    ├── Unauthorized        credentials are missing or have expired
    ├── Invalid             the object says something that cannot be; ``causes`` name the fields
    ├── TooManyRequests     the server asks to wait ``retry_after`` seconds
    ├── TimedOut            no answer in time; a write may have happened
    └── Unavailable         no connection, or 5xx

``retryable`` says whether the same request may succeed later without anybody changing something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from kubegym.core.errors import KubeGymError


class Cause(NamedTuple):
    """One thing that is wrong with an object: which field, and what."""

    field: str
    message: str


class KubeError(KubeGymError):
    """A request that the API server did not fulfil.

    Attributes:
        status: HTTP status; None where there was no answer.
        causes: the fields that are to blame.
    """

    reason = "ApiError"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        retryable: bool | None = None,
        status: int | None = None,
        causes: Sequence[Cause] = (),
    ) -> None:
        super().__init__(message, reason=reason, retryable=retryable)
        self.status = status
        self.causes = tuple(causes)


class NotFound(KubeError):
    """No such object."""

    reason = "NotFound"


class KindNotServed(NotFound):
    """The API server does not know the kind."""

    reason = "KindNotServed"


class AlreadyExists(KubeError):
    """An object of that name exists."""

    reason = "AlreadyExists"


class Conflict(KubeError):
    """The object is not the one, or not in the version, that the request means."""

    reason = "Conflict"
    retryable = True


class Gone(KubeError):
    """What the request refers to is too old for the server to remember."""

    reason = "Expired"
    retryable = True


class Forbidden(KubeError):
    """Not allowed to us, or to anybody: RBAC, quota, admission, a namespace that is ending."""

    reason = "Forbidden"


class Unauthorized(KubeError):
    """The server does not know who asks."""

    reason = "Unauthorized"
    retryable = True


class Invalid(KubeError):
    """The object is not valid, or not understood."""

    reason = "Invalid"


class TooManyRequests(KubeError):
    """The server is busy.

    Attributes:
        retry_after: seconds it asks to wait.
    """

    reason = "TooManyRequests"
    retryable = True

    def __init__(self, message: str, *, retry_after: float = 1.0, status: int | None = 429) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after


class TimedOut(KubeError):
    """No answer in time. A write may have happened or not."""

    reason = "Timeout"
    retryable = True


class Unavailable(KubeError):
    """No connection to the server, or it is in trouble itself."""

    reason = "ServiceUnavailable"
    retryable = True


_BY_STATUS: Mapping[int, type[KubeError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    415: Invalid,
    422: Invalid,
    504: TimedOut,
}


def error_from(status: int, body: bytes, retry_after: str | None = None) -> KubeError:
    """The error that an answer with an HTTP status of 400 or more means."""
    try:
        answer: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        answer = {"message": body.decode(errors="replace").strip()[:500]}
    details = answer.get("details") or {}
    message = answer.get("message") or f"HTTP {status}"
    causes = [Cause(c.get("field", ""), c.get("message", "")) for c in details.get("causes") or ()]
    if status == 429 or (status >= 500 and retry_after is not None):
        seconds = details.get("retryAfterSeconds") or retry_after or "1"
        return TooManyRequests(message, retry_after=_seconds(str(seconds)), status=status)
    if answer.get("reason") == "AlreadyExists":
        return AlreadyExists(message, status=status)
    if status == 500 and "failed to create typed patch object" in message:
        return Invalid(message, status=status, causes=causes)  # an apply that the schema does not know; said as 500
    kind = _BY_STATUS.get(status, Unavailable if status >= 500 else Invalid)
    return kind(message, status=status, causes=causes)


def _seconds(text: str) -> float:
    """A Retry-After in seconds; one second for a date, which no API server sends."""
    return float(text) if text.isdigit() else 1.0
