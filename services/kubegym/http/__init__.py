"""The HTTP/1.1 client of the hot path, shared by all that call servers."""

from kubegym.http.client import HttpClient, Url
from kubegym.http.connection import Origin, Response
from kubegym.http.errors import (
    BodyTooLarge,
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    HttpError,
    ProtocolError,
    ReadTimeout,
)
from kubegym.http.streamed import StreamedReply

__all__ = [
    "BodyTooLarge",
    "ConnectFailed",
    "ConnectTimeout",
    "ConnectionLost",
    "HttpClient",
    "HttpError",
    "Origin",
    "ProtocolError",
    "ReadTimeout",
    "Response",
    "StreamedReply",
    "Url",
]
