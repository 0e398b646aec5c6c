"""Standard streams that cannot end a run: a closed terminal or a broken pipe costs output, never rollouts."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, TextIO


class LossyStream(io.TextIOBase):
    """Writes to a stream until that fails, then nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream
        self._encoding = stream.encoding or "utf-8"
        self._terminal = stream.isatty()
        self._descriptor = stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute in typeshed
        """The stream's."""
        return self._encoding

    def write(self, text: str) -> int:
        """Write, or lose the text."""
        if self._stream is not None:
            try:
                self._stream.write(text)
            except (OSError, ValueError):
                self._lose()
        return len(text)

    def flush(self) -> None:
        """Flush, or lose what is buffered."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._lose()

    def isatty(self) -> bool:
        """Whether it is a terminal that still listens."""
        return self._terminal and self._stream is not None

    def fileno(self) -> int:
        """The stream's descriptor."""
        return self._descriptor

    def writable(self) -> bool:
        """Always."""
        return True

    def _lose(self) -> None:
        self._stream = None
        with contextlib.suppress(OSError):  # what the interpreter flushes at its end goes nowhere, too
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._descriptor)
            os.close(null)


def secure_standard_streams() -> None:
    """Make stdout and stderr lossy, and fill closed descriptors, so that no file of a run becomes "stdout"."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream: Any = getattr(sys, name)
        if stream is None:
            stream = open(descriptor, "w", closefd=False)  # noqa: SIM115 - lives as long as the process
        if not isinstance(stream, LossyStream):
            setattr(sys, name, LossyStream(stream))
