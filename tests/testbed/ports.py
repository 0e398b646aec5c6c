"""A port that stays one's own while nobody listens on it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_port() -> Iterator[int]:
    """A port of 127.0.0.1 that no other process is given while the block runs.

    Connections to it are refused, until a server listens there by its number; when that has ended, another may.
    """
    with socket.socket() as keeping:
        keeping.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: then they may share it
        keeping.bind(("127.0.0.1", 0))
        yield keeping.getsockname()[1]
