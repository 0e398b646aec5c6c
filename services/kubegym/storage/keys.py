"""Object keys: what may be one, the same for every store."""

from __future__ import annotations

import re

from kubegym.storage.errors import InvalidKey

TEMPORARY_PREFIX = ".kubegym-tmp-"
"""File names that begin so are unfinished writes of a local folder: never keys, never listed."""

_KEY_BYTES = 900  # S3 allows 1,024 with the root's prefix
_PART_BYTES = 200  # file systems allow 255 in a name
_PART = rf"(?!\.{{1,2}}(?:/|\Z))(?!{re.escape(TEMPORARY_PREFIX)})[^/\\\x00-\x1f\x7f]+"
_KEY = re.compile(rf"{_PART}(?:/{_PART})*\Z")


def check_key(key: str) -> str:
    """The key, if every store can hold it: relative, parts between ``/``, none empty, ``.`` or ``..``, no backslash.

    Raises:
        InvalidKey: with the key in the message.
    """
    if _KEY.match(key) is None:
        raise InvalidKey(
            f"{key!r} is not an object key: it must be relative, with no empty part, '.', '..', backslash or control "
            f"character, and no part may begin with {TEMPORARY_PREFIX!r}"
        )
    if len(key) > _PART_BYTES // 4:  # UTF-8 takes at most 4 bytes a character; most keys need no counting
        encoded = key.encode("utf-8", "surrogatepass")
        if len(encoded) > _KEY_BYTES or max(map(len, encoded.split(b"/"))) > _PART_BYTES:
            raise InvalidKey(f"{key!r} is too long for an object key: {_KEY_BYTES} bytes, {_PART_BYTES} in a part")
    return key


def check_prefix(prefix: str) -> str:
    """A prefix as a folder's path without its last ``/``; empty for the root. Raises InvalidKey."""
    folder = prefix.removesuffix("/")
    return check_key(folder) if folder else ""
