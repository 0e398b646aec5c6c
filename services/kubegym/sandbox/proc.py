"""What /proc says of a program's processes, for the warden that watches over them."""

from __future__ import annotations

import contextlib
import os
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def _read(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def children(parent: int) -> list[int]:
    """Process ids of a process's own children; zombies too."""
    return _by_parent().get(parent, [])


def _by_parent() -> dict[int, list[int]]:
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat(int(name))
            if fields:
                parents.setdefault(int(fields[1]), []).append(int(name))
    return parents


def descendants(root: int) -> list[int]:
    """Process ids below a process, parents before children; zombies too."""
    parents = _by_parent()
    found, waiting = [], [root]
    while waiting:
        below = parents.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/pid/stat from the state on, which is the third; none for who is gone."""
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def state(pid: int) -> str:
    """One letter, Z for a zombie; nothing for who is gone."""
    fields = _stat(pid)
    return fields[0].decode() if fields else ""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of those of its children that it has waited for."""
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) / _TICKS if fields else 0.0


def threads(pid: int) -> int:
    """Threads of the process that a process or thread id belongs to."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def memory_bytes(pid: int) -> int:
    """Memory that goes with a process: private and shared pages without a file, each divided by who has it."""
    found = 0
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith((b"Pss_Anon:", b"Pss_Shmem:")):
            found += int(line.split()[1]) << 10
    if found:
        return found
    fields = _read(f"/proc/{pid}/statm").split()  # closed to us: an upper bound
    return int(fields[1]) * _PAGE if fields else 0


def queued_seconds(pid: int) -> float:
    """The longest that a thread of a process was ready to run and had no processor; 0 where the kernel is silent."""
    with contextlib.suppress(OSError):
        return max(map(thread_queued_seconds, map(int, os.listdir(f"/proc/{pid}/task"))), default=0.0)
    return 0.0


def thread_queued_seconds(thread: int) -> float:
    """How long a thread was ready to run and had no processor; 0 where the kernel is silent."""
    with contextlib.suppress(OSError):
        fields = _read(f"/proc/{thread}/schedstat").split()
        return int(fields[1]) / 1e9 if len(fields) > 1 else 0.0
    return 0.0
