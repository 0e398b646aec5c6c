"""Which exceptions mean that something a hook talks to is in trouble."""

from __future__ import annotations

import errno
import json
import socket
import ssl
import sys
from types import ModuleType, SimpleNamespace
from urllib.error import HTTPError, URLError

import pytest

from kubegym.resources.hooks import crash_text, is_unavailability


class RequestException(OSError):
    """Shaped like requests' base error."""


class InvalidUrl(RequestException, ValueError):
    """Shaped like requests' error for a malformed URL."""


def with_status(status: int) -> Exception:
    """Shaped like httpx.HTTPStatusError and requests.HTTPError."""
    error = RuntimeError("status")
    error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "unavailable"),
    [
        (ConnectionResetError("reset"), True),
        (TimeoutError(), True),
        (socket.gaierror(socket.EAI_AGAIN, "again"), True),
        (ssl.SSLError(1, "handshake"), True),
        (URLError("refused"), True),
        (RequestException("no connection"), True),
        (OSError(errno.ENOSPC, "disk full"), True),
        (OSError(errno.EMFILE, "too many open files"), True),
        (OSError(errno.ENAMETOOLONG, "too long"), False),
        (OSError(errno.E2BIG, "too many arguments"), False),
        (FileNotFoundError(errno.ENOENT, "none"), False),
        (InvalidUrl("htp:/"), False),
        (HTTPError("http://x", 503, "busy", None, None), True),  # type: ignore[arg-type]
        (HTTPError("http://x", 404, "none", None, None), False),  # type: ignore[arg-type]
        (with_status(429), True),
        (with_status(500), False),
        (json.JSONDecodeError("bad", "", 0), False),
        (ValueError("bad"), False),
    ],
)
def test_unavailability(error: Exception, unavailable: bool) -> None:
    assert is_unavailability(error) is unavailable


def test_the_errors_of_clients_that_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    httpx = ModuleType("httpx")
    httpx.TransportError = type("TransportError", (Exception,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "httpx", httpx)
    assert is_unavailability(httpx.TransportError("broken pipe"))
    assert not is_unavailability(Exception("other"))


def test_crash_text() -> None:
    assert crash_text("verify", ValueError("x")) == "verify: ValueError: x"
    with pytest.raises(ValueError, match="Expecting") as caught:
        json.loads("{")
    text = crash_text("verify", caught.value)
    assert text.startswith("verify: JSONDecodeError: Expecting property name")
    assert "decoder.py:" in text
