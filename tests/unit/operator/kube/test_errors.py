from __future__ import annotations

import orjson
import pytest

from kubegym_operator.kube.errors import (
    AlreadyExists,
    Cause,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    NotFound,
    TimedOut,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    error_from,
)


def status(reason: str, message: str = "m", **details: object) -> bytes:
    return orjson.dumps({"kind": "Status", "reason": reason, "message": message, "details": details})


@pytest.mark.parametrize(
    ("code", "body", "kind", "retryable"),
    [
        (400, status("BadRequest"), Invalid, False),
        (401, status("Unauthorized"), Unauthorized, True),
        (403, status("Forbidden"), Forbidden, False),
        (404, status("NotFound"), NotFound, False),
        (409, status("AlreadyExists"), AlreadyExists, False),
        (409, status("Conflict"), Conflict, True),
        (410, status("Expired"), Gone, True),
        (422, status("Invalid"), Invalid, False),
        (429, status("TooManyRequests"), TooManyRequests, True),
        (500, status("InternalError"), Unavailable, True),
        (500, status("", "failed to create typed patch object (a/b): .status.x: not declared"), Invalid, False),
        (503, status("ServiceUnavailable"), Unavailable, True),
        (504, status("Timeout"), TimedOut, True),
        (502, b"<html>bad gateway</html>", Unavailable, True),
        (418, b"", Invalid, False),
    ],
)
def test_an_answer_becomes_its_error(code: int, body: bytes, kind: type[KubeError], retryable: bool) -> None:
    error = error_from(code, body)
    assert type(error) is kind
    assert error.retryable is retryable
    assert error.status == code
    assert error.message


@pytest.mark.parametrize(
    ("code", "header", "details", "seconds"),
    [(429, "7", {}, 7.0), (429, None, {}, 1.0), (429, None, {"retryAfterSeconds": 3}, 3.0), (503, "30", {}, 30.0)],
)
def test_a_busy_server_says_for_how_long(
    code: int, header: str | None, details: dict[str, object], seconds: float
) -> None:
    error = error_from(code, status("TooManyRequests", **details), header)
    assert isinstance(error, TooManyRequests)
    assert error.retry_after == seconds


def test_what_is_wrong_is_told_by_field() -> None:
    causes = [{"reason": "FieldValueInvalid", "message": "must be positive", "field": "spec.replicas"}]
    error = error_from(422, status("Invalid", "bad", causes=causes))
    assert error.causes == (Cause("spec.replicas", "must be positive"),)
