"""Names of sessions that nobody can make up: who owns the session and which it is, signed.

All replicas and processes of a server share a secret, so that each can read who owns a session that it does not have.
A token says ``base64url(kind, session id, owner, allowed tools, HMAC-SHA256)``. The id's 128 random bits make it
unguessable even for who knows the secret; the signature keeps a caller from naming an owner of its own choice, to which
requests would be forwarded.
"""

from __future__ import annotations

import hmac
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson

from kubegym.core.errors import InputError

SECRET_FILE_VARIABLE = "KUBEGYM_SESSION_SECRET_FILE"
SECRET_VARIABLE = "KUBEGYM_SESSION_SECRET"
SHORTEST_SECRET = 16
"""Bytes."""

COOKIE = b"kubegym-session"

Kind = Literal[b"s", b"m"]
"""``s``: a session's cookie. ``m``: a token for its tools over MCP, which is no cookie."""

_ID_BYTES = 16
_MAC_BYTES = 32


class Forged(ValueError):
    """A token that this server's secret has not signed."""


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says.

    Attributes:
        owner: ``host:port`` of the process that has the session.
        session: its id.
        tools: the tools it may call; None for all.
    """

    owner: str
    session: bytes
    tools: frozenset[str] | None = None


class Tokens:
    """Issues and reads tokens.

    Args:
        secret: shared by all processes of a server.
        owner: ``host:port`` under which the others reach this one.
    """

    __slots__ = ("_secret", "_suffix")

    def __init__(self, secret: bytes, owner: str) -> None:
        address = owner.encode()
        if not 0 < len(address) < 256:
            raise ValueError(f"an owner is HOST:PORT, not {owner!r}")
        self._secret = secret
        self._suffix = bytes([len(address)]) + address

    @staticmethod
    def new_session() -> bytes:
        """A fresh id."""
        return os.urandom(_ID_BYTES)

    def issue(self, session: bytes, kind: Kind = b"s", tools: Sequence[str] | None = None) -> bytes:
        """The token of a session that this process owns."""
        payload = kind + session + self._suffix
        if tools is not None:
            payload += orjson.dumps(list(tools))
        return _text(payload + self._mac(payload))

    def read(self, value: bytes, kind: Kind = b"s") -> Token:
        """What a token says. Raises Forged."""
        try:
            data = urlsafe_b64decode(value + b"=" * (-len(value) % 4))
        except ValueError:
            raise Forged("not a token") from None
        payload, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
        # One spelling for each token: base64 has others for the same bytes.
        if not hmac.compare_digest(mac, self._mac(payload)) or _text(data) != value or payload[:1] != kind:
            raise Forged("not a token of this server")
        start = 2 + _ID_BYTES
        end = start + payload[start - 1]
        allowed = payload[end:]
        return Token(
            payload[start:end].decode(), payload[1 : start - 1], frozenset(orjson.loads(allowed)) if allowed else None
        )

    def _mac(self, payload: bytes) -> bytes:
        return hmac.digest(self._secret, payload, "sha256")


def session_secret(environ: Mapping[str, str]) -> bytes | None:
    """The secret that replicas share, from a file or a variable; None where neither is set.

    Raises:
        InputError: it cannot be read, or is too short to keep anybody out.
    """
    path = environ.get(SECRET_FILE_VARIABLE)
    if path:
        try:
            secret = Path(path).read_bytes().strip()
        except OSError as error:
            raise InputError(f"{SECRET_FILE_VARIABLE}: {error}") from error
        source = path
    elif SECRET_VARIABLE in environ:
        secret, source = environ[SECRET_VARIABLE].strip().encode(), SECRET_VARIABLE
    else:
        return None
    if len(secret) < SHORTEST_SECRET:
        raise InputError(f"the session secret of {source} has {len(secret)} bytes; give at least {SHORTEST_SECRET}")
    return secret


def set_cookie(value: bytes) -> tuple[bytes, bytes]:
    """The header that sets a session's cookie."""
    return b"set-cookie", b"%b=%b; Path=/; HttpOnly" % (COOKIE, value)


def cookie_value(header: bytes | None) -> bytes | None:
    """The token in a ``Cookie`` header; None where there is none of ours."""
    if header is None:
        return None
    for piece in header.split(b";"):
        name, equals, value = piece.strip().partition(b"=")
        if equals and name == COOKIE:
            return value
    return None


def _text(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")
