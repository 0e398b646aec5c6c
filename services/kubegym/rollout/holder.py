"""Who holds a shard, and whether a local holder still lives."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from kubegym.rollout.head import Holder

_LOCAL = "local"


def local_holder() -> Holder:
    """This process as a holder: host, boot, process id and start time, so that a reused pid is not mistaken."""
    pid = os.getpid()
    return Holder(f"{_LOCAL}/{socket.gethostname()}/{_boot_id()}/{pid}/{_started(pid)}", str(pid))


def job_holder(uid: str, pod: str) -> Holder:
    """A RolloutJob as the holder, one of its pods as the worker."""
    return Holder(f"job/{uid}", pod)


def is_gone(holder: Holder) -> bool:
    """Whether a holder is a process of this machine that no longer runs. False where that cannot be known."""
    kind, *rest = holder.id.split("/")
    if kind != _LOCAL or len(rest) != 4:
        return False
    host, boot, pid, started = rest
    if host != socket.gethostname():
        return False
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
