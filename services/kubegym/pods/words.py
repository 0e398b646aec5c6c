"""Last words: the container's termination message, which the operator reads from the pod's status."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

log = logging.getLogger("kubegym.pods")

MOST_BYTES = 4096
"""What Kubernetes keeps of a termination message."""

_MESSAGE_CHARACTERS = 1500


def say(path: Path, words: Mapping[str, Any]) -> None:
    """Leave JSON words. Where there is no such file and no folder to make it in, nobody wants to know."""
    body = orjson.dumps(dict(words))
    if len(body) > MOST_BYTES:
        raise ValueError(f"last words of {len(body)} bytes are more than Kubernetes keeps")
    with contextlib.suppress(OSError):
        path.write_bytes(body)


def say_why(path: Path, reason: str, message: str) -> None:
    """Leave the reason for an end, in the word of a condition, and a message that is cut where it is long."""
    cut = message if len(message) <= _MESSAGE_CHARACTERS else f"{message[: _MESSAGE_CHARACTERS - 1]}…"
    while len(body := orjson.dumps({"reason": reason, "message": cut})) > MOST_BYTES:
        cut = cut[: len(cut) * MOST_BYTES // (len(body) + 1)]
    say(path, {"reason": reason, "message": cut})
