"""Time limits of an environment's hooks, and what exceeding one means.

CPU time is the policy's or the author's doing and repeats itself; wall time may be the machine's (DESIGN 3.2). So every
overrun says which of the two it was::

    Overrun
    ├── CpuTimeExceeded    the code computed for too long        <Stage>Timeout, never retried
    └── WallTimeExceeded   it waited, or got no processor        <Stage>Starved, retried
    ProcessDied            the process of an offloaded method ended without an answer
    RemoteError            what such a method raised, where pickle cannot carry it
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Limits of one session's hooks, in seconds unless said otherwise.

    Attributes:
        sync_seconds: CPU time of a sync hook, or of one uninterrupted step of an async one, inline on the event loop.
        tool_seconds: wall time of an async tool; waits for a busy model do not count, here and below.
        verify_seconds: wall time of an async ``verify``.
        hook_seconds: wall time of an async ``seed`` or ``respond``.
        close_seconds: wall time of an async ``close``.
        setup_seconds: wall time of an async ``setup``, once a process.
        output_characters: longer tool outputs are cut, and say so.
    """

    sync_seconds: float = 10.0
    tool_seconds: float = 120.0
    verify_seconds: float = 300.0
    hook_seconds: float = 300.0
    close_seconds: float = 30.0
    setup_seconds: float = 1800.0
    output_characters: int = 1_000_000


class Overrun(Exception):
    """A hook took too long; the text says which, how long and of what."""


class CpuTimeExceeded(Overrun):
    """It computed for longer than it may."""


class WallTimeExceeded(Overrun):
    """It took too long without computing: it waited, slept, or the machine gave it no processor."""


class ProcessDied(Exception):
    """The child process that ran an offloaded method ended without an answer."""


class RemoteError(Exception):
    """An exception of an offloaded method that pickle cannot carry; the text names its type and message."""
