"""Who holds a shard, and whether a local holder still lives."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kubegym.rollout.head import Holder

_LOCAL = "local"


_at_work: set[str] = set()
"""Ids of the holders of this process that still work."""
_serial = itertools.count(1)


@contextmanager
def local_holder() -> Iterator[Holder]:
    """A piece of this process's work as a holder, for as long as the block lasts.

    The id says host, boot, process id and start time, so that a reused pid is not mistaken, and a number, so that one
    run of a process (a notebook) is told from the next.
    """
    pid = os.getpid()
    identity = f"{_LOCAL}/{socket.gethostname()}/{_boot_id()}/{pid}/{_started(pid)}/{next(_serial)}"
    _at_work.add(identity)
    try:
        yield Holder(identity, str(pid))
    finally:
        _at_work.discard(identity)


def job_holder(uid: str, pod: str) -> Holder:
    """A RolloutJob as the holder, one of its pods as the worker."""
    return Holder(f"job/{uid}", pod)


def is_gone(holder: Holder) -> bool:
    """Whether a holder is of this machine and works no longer. False where that cannot be known."""
    kind, *rest = holder.id.split("/")
    if kind != _LOCAL or len(rest) != 5:
        return False
    host, boot, pid, started, _ = rest
    if host != socket.gethostname():
        return False
    if int(pid) == os.getpid() and boot == _boot_id() and started == _started(os.getpid()):
        return holder.id not in _at_work
    return boot != _boot_id() or _started(int(pid)) != started


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def _started(pid: int) -> str:
    """Start time of a process in clock ticks since boot; where /proc is missing, only whether it exists."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self").exists():
            return "gone"
        try:
            os.kill(pid, 0)
        except OSError:
            return "gone"
        return "alive"
    return "gone" if fields[0] == "Z" else fields[19]
