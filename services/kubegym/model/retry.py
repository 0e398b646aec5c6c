"""Which failed model calls are tried again, how often, and what an HTTP status means."""

from __future__ import annotations

import random
from email.utils import parsedate_to_datetime

from kubegym.core.errors import ModelError
from kubegym.core.retry import Backoff
from kubegym.model.errors import (
    ContextWindowExceeded,
    ModelNotFound,
    ModelOverloaded,
    ModelRejectedRequest,
    ModelReplyInvalid,
    ModelTimeout,
    ModelUnauthorized,
    ModelUnavailable,
)

FAULTS = Backoff()
"""For refused and lost connections, 502 to 504, aborted generations: about 8 s in all."""

OVERLOAD = Backoff(attempts=40, base=0.5, maximum=30.0)
"""For 429 and 503: about 10 minutes in all, long enough for an engine that loads new weights. Does not count as the
rollout's own time (DESIGN section 7)."""

_OVERFLOW_MARKS = ("context length", "context_length", "exceed_context_size", "maximum context", "max_tokens")


class Tries:
    """Bounds the tries of one call: overload and faults are counted apart, each kind of fault has its own limit."""

    __slots__ = ("_faults", "_faults_backoff", "_overload_backoff", "_overloads", "_rng")

    def __init__(self, faults: Backoff, overload: Backoff, rng: random.Random) -> None:
        self._faults_backoff = faults
        self._overload_backoff = overload
        self._rng = rng
        self._faults = 0
        self._overloads = 0

    @property
    def made(self) -> int:
        """Failed tries so far."""
        return self._faults + self._overloads

    def pause(self, error: ModelError) -> float | None:
        """Seconds to wait before the next try; None when this was the last."""
        if isinstance(error, ModelOverloaded):
            self._overloads += 1
            if self._overloads >= self._overload_backoff.attempts:
                return None
            return self._overload_backoff.delay(self._overloads, self._rng, error.retry_after)
        self._faults += 1
        if self._faults >= _tries(error, self._faults_backoff.attempts):
            return None
        return self._faults_backoff.delay(self._faults, self._rng, error.retry_after)


def _tries(error: ModelError, attempts: int) -> int:
    if isinstance(error, ModelReplyInvalid):
        # A page of a proxy passes; JSON that is no completion is most likely what this endpoint always says.
        return min(attempts, 3 if error.retryable else 2)
    if not error.retryable:
        return 1
    if isinstance(error, ModelTimeout):
        return min(attempts, 2)
    # 500 is a crash as often as a hiccup (contract section 6: three tries).
    return min(attempts, 3) if error.status == 500 else attempts


def status_error(status: int, text: str, where: str, limit: object = None) -> ModelError:
    """The error for a reply that is not 2xx.

    Args:
        status: HTTP status.
        text: the body.
        where: what was asked, for the message.
        limit: ``max_tokens`` of the request: below 1 it is the caller's mistake, not a conversation that grew too long.
    """
    message = f"{where} answered {status}: {excerpt(text)}"
    if status == 429 or status == 503 or status == 529:
        return ModelOverloaded(message, status=status)
    if status >= 500 or status in (408, 425):
        return ModelUnavailable(message, status=status)
    if status in (401, 403):
        return ModelUnauthorized(message, status=status)
    if status == 404:
        return ModelNotFound(message, status=status)
    if status == 400 and not (isinstance(limit, int) and limit < 1):
        lowered = text.lower()
        if any(mark in lowered for mark in _OVERFLOW_MARKS):
            return ContextWindowExceeded(message, status=status)
    if 300 <= status < 400:
        message += " (redirects are not followed: give the URL they lead to)"
    return ModelRejectedRequest(message, status=status)


def excerpt(text: str, length: int = 200) -> str:
    """The beginning of a body, on one line."""
    line = " ".join(text[: 4 * length].split())
    return (line if len(line) <= length else line[:length] + "...") or "(empty body)"


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header asks for (a number, or an HTTP date against ``now``); None if unreadable."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if seconds < float("inf") else None
