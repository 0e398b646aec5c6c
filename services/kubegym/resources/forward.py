"""Requests that reached another process than the one that has their session.

Behind a plain Service, or a port that several processes share, a connection may end anywhere. The token says who owns
the session; the request goes there, one hop and no further.
"""

from __future__ import annotations

from urllib.parse import quote

from kubegym.core.errors import AgentError
from kubegym.core.wire import DEADLINE_HEADER, FAILURE_HEADER, PARTS_HEADER, TASK_HEADER, WIRE_HEADER
from kubegym.http import BodyTooLarge, HttpClient, HttpError, ReadTimeout, Url
from kubegym.http.server import Reply, Request
from kubegym.resources.sessions import session_lost

FORWARDED_HEADER = b"x-kubegym-forwarded"
"""On a request that one process of a server sends to another: do not send it on."""

MOST_BODY = 256 << 20

_REQUEST_HEADERS = (
    *(b"cookie", b"content-type", b"accept", WIRE_HEADER, DEADLINE_HEADER, TASK_HEADER),
    *(b"x-nemo-gym-session-token", b"mcp-protocol-version"),
)
_REPLY_HEADERS = frozenset({b"set-cookie", b"retry-after", FAILURE_HEADER, PARTS_HEADER})
_REPEATABLE = frozenset({"/verify", "/step", "/close"})
_MOST_OWNERS = 1024


class Forwarder:
    """Sends requests to the owners of their sessions.

    Args:
        seconds: an owner may take for a reply.
        http: connections; by default its own.
    """

    def __init__(self, seconds: float = 3600.0, http: HttpClient | None = None) -> None:
        self._seconds = seconds
        self._http = http or HttpClient(max_body=MOST_BODY)
        self._urls: dict[str, Url] = {}
        self.forwarded = 0

    async def forward(self, owner: str, request: Request) -> Reply:
        """The owner's reply.

        Raises:
            AgentError: "SessionLost", the owner is gone; "SessionUnavailable", it does not answer in time.
        """
        if FORWARDED_HEADER in request.headers:
            raise session_lost("the request was forwarded to a process that does not have its session")
        self.forwarded += 1
        lines = [b"%b: %b\r\n" % (name, request.headers[name]) for name in _REQUEST_HEADERS if name in request.headers]
        lines.append(FORWARDED_HEADER + b": 1\r\n")
        url = self._url(owner) / quote(request.path[1:], safe="")
        try:
            response = await self._http.request(
                request.method.encode(),
                url,
                b"".join(lines),
                request.body,
                self._seconds,
                repeatable=request.path in _REPEATABLE,
            )
        except (ReadTimeout, BodyTooLarge) as error:
            raise AgentError(error.message, reason="SessionUnavailable", retryable=True) from error
        except HttpError as error:
            raise session_lost(f"the process that has the session is gone: {error.message}") from error
        headers = [(name.lower(), value) for name, value in response.headers if name.lower() in _REPLY_HEADERS]
        kind = response.header(b"content-type") or b"application/octet-stream"
        return Reply(response.body, response.status, kind, headers)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    def _url(self, owner: str) -> Url:
        url = self._urls.get(owner)
        if url is None:
            if len(self._urls) >= _MOST_OWNERS:  # owners change with every restart of a pod
                self._urls.clear()
            url = self._urls[owner] = Url(f"http://{owner}")
        return url
