"""The cookies of one session, carried as NeMo Gym's agents carry them (contract 1.7).

A server may use any cookies, and may change them at every reply: what a reply sets replaces what was there under that
name, what it does not mention stays. So a foreign server's unhandled exception, whose reply sets none, keeps the
session, and a load balancer's cookie, which is set only once, keeps the replica. Domain, path and lifetime say nothing
within one rollout with one server; a cookie that is set to be expired is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime

MOST_COOKIES = 64
"""A server that invents new names at each reply does not make the jar grow: the oldest go."""

MOST_BYTES = 64 << 10
"""Of one cookie; servers refuse far shorter header lines."""


class CookieJar:
    """Names and values, as bytes, exactly as they came."""

    __slots__ = ("_line", "_pairs")

    def __init__(self, header: bytes = b"") -> None:
        """Begin with the cookies of a request's ``Cookie`` header."""
        self._pairs: dict[bytes, bytes] = {}
        self._line: bytes | None = b""
        for piece in header.split(b";") if header else ():
            name, equals, value = piece.strip().partition(b"=")
            if equals and name:
                self._keep(name, value)

    def __bool__(self) -> bool:
        return bool(self._pairs)

    @property
    def pairs(self) -> dict[bytes, bytes]:
        """Values by name."""
        return dict(self._pairs)

    def take(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep what a reply sets."""
        for name, value in headers:
            if len(name) == 10 and name.lower() == b"set-cookie":
                self._set(value)

    def line(self) -> bytes:
        """The ``Cookie`` header line with its CRLF; empty without cookies."""
        if self._line is None:
            pairs = b"; ".join(b"%b=%b" % pair for pair in self._pairs.items())
            self._line = b"Cookie: %b\r\n" % pairs if pairs else b""
        return self._line

    def set_headers(self) -> list[tuple[bytes, bytes]]:
        """``Set-Cookie`` headers that hand these cookies to a caller."""
        return [(b"set-cookie", b"%b=%b; Path=/; HttpOnly" % pair) for pair in self._pairs.items()]

    def _set(self, value: bytes) -> None:
        pair, _, attributes = value.partition(b";")
        name, equals, content = pair.partition(b"=")
        name = name.strip()
        if not equals or not name or len(pair) > MOST_BYTES:
            return
        if attributes and _expired(attributes):
            if self._pairs.pop(name, None) is not None:
                self._line = None
            return
        self._keep(name, content.strip())

    def _keep(self, name: bytes, value: bytes) -> None:
        if self._pairs.get(name) == value:
            return
        if name not in self._pairs and len(self._pairs) >= MOST_COOKIES:
            del self._pairs[next(iter(self._pairs))]
        self._pairs[name] = value
        self._line = None


def _expired(attributes: bytes) -> bool:
    """Whether a cookie's attributes say that it is to be forgotten; Max-Age decides over Expires (RFC 6265)."""
    if b"=" not in attributes:
        return False
    named: dict[bytes, bytes] = {}
    for attribute in attributes.split(b";"):
        name, _, value = attribute.partition(b"=")
        named[name.strip().lower()] = value.strip()
    age = named.get(b"max-age")
    if age is not None and age.lstrip(b"-").isdigit():
        return int(age) <= 0
    date = named.get(b"expires")
    if date is None:
        return False
    try:
        return parsedate_to_datetime(date.decode("latin-1").replace("-", " ")).timestamp() <= time.time()
    except (ValueError, TypeError, OverflowError):
        return False
