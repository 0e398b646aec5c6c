"""An endpoint's API key: given as it is, or in a file that may be replaced while we run. Never shown."""

from __future__ import annotations

from pathlib import Path

from kubegym.core.errors import InputError, InvalidSpec


class ApiKey:
    """A key, or none.

    Args:
        source: the key itself; a Path is a file that holds it (a mounted Secret, replaced in place); None is no key.

    Raises:
        InvalidSpec: the key has characters that no header may have.
        InputError: the file cannot be read or is empty.
    """

    CHECK_SECONDS = 1.0
    """A file is read again when it was last read this long ago."""

    __slots__ = ("_path", "_read_at", "_value")

    def __init__(self, source: str | Path | None) -> None:
        self._path = source if isinstance(source, Path) else None
        self._read_at = float("-inf")
        self._value: str | None = None
        if self._path is not None:
            self._value = self._read()
        elif source:
            self._value = _checked(str(source))

    def current(self, now: float) -> str | None:
        """The key to send; ``now`` in seconds of a monotonic clock."""
        if self._path is not None and now - self._read_at >= self.CHECK_SECONDS:
            self._read_at = now
            self._value = self._read()
        return self._value

    def reread(self) -> bool:
        """Read the file now, as the endpoint refused the key. Whether another key came out."""
        if self._path is None:
            return False
        before, self._value = self._value, self._read()
        return self._value != before

    def redact(self, text: str) -> str:
        """The text without the key."""
        return text.replace(self._value, "***") if self._value else text

    def _read(self) -> str:
        assert self._path is not None
        try:
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise InputError(f"cannot read the API key file {self._path}: {cause}") from None
        if not text.strip():
            raise InputError(f"the API key file {self._path} is empty")
        return _checked(text)

    def __repr__(self) -> str:
        return f"ApiKey({str(self._path)!r})" if self._path else "ApiKey(***)" if self._value else "ApiKey(None)"


def _checked(text: str) -> str:
    key = text.strip()
    if not key.isascii() or any(ord(character) <= 0x20 or ord(character) == 0x7F for character in key):
        raise InvalidSpec("the API key has spaces, control characters or letters beyond ASCII")
    return key
