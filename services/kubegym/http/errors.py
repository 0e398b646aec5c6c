"""Errors of HTTP exchanges; clients turn them into the failure of what they were doing.

::

    KubeGymError
    └── HttpError                    an exchange broke
        ├── ConnectFailed            name resolution, refused, TLS
        │   └── ConnectTimeout       no connection in time
        ├── ReadTimeout              the whole reply did not come in time
        ├── ConnectionLost           closed before the reply was whole; says whether any of it had come
        └── ProtocolError            not HTTP/1.1
            └── BodyTooLarge         more bytes than the client accepts
"""

from __future__ import annotations

from kubegym.core.errors import KubeGymError


class HttpError(KubeGymError):
    """An HTTP exchange broke."""

    reason = "HttpError"
    retryable = True


class ConnectFailed(HttpError):
    """No connection: name resolution, refused, unreachable, TLS."""

    reason = "ConnectFailed"


class ConnectTimeout(ConnectFailed):
    """No connection within the connect timeout."""

    reason = "ConnectTimeout"


class ReadTimeout(HttpError):
    """The whole reply did not come in time. The connection is closed, so the server may stop working on it."""

    reason = "ReadTimeout"


class ConnectionLost(HttpError):
    """The connection ended before the reply was whole.

    Attributes:
        before_reply: no byte of the reply had come.
    """

    reason = "ConnectionLost"

    def __init__(self, message: str, *, before_reply: bool) -> None:
        super().__init__(message)
        self.before_reply = before_reply


class ProtocolError(HttpError):
    """What came is not an HTTP/1.1 response."""

    reason = "ProtocolError"


class BodyTooLarge(ProtocolError):
    """The reply's body is larger than the client accepts."""

    reason = "BodyTooLarge"
    retryable = False
