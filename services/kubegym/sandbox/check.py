"""What this machine or pod can enforce, and what it is refused for."""

from __future__ import annotations

import contextlib
import enum
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kubegym.sandbox import kernel
from kubegym.sandbox.errors import SandboxUnavailable
from kubegym.sandbox.filters import compile_filter

LEAST_LANDLOCK: Final = 6
"""The first version that keeps signals and abstract sockets inside (Linux 6.12)."""


_UNLIMITED: Final = 1 << 60
"""What version 1 of control groups says for no limit is above this."""


class Wall(enum.StrEnum):
    """A wall that a machine may lack. Each has to be named to be missing."""

    LANDLOCK = "landlock"
    """Files outside, TCP, signals to others, abstract sockets."""
    SECCOMP = "seccomp"
    """System calls."""
    LISTENER = "listener"
    """The warden hears of refused calls, and counts new processes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of ``kubegym sandbox check``: a wall, or something around it, and what is there of it."""

    name: str
    holds: bool
    text: str
    needed: bool = False


@dataclass(frozen=True, slots=True)
class Enforced:
    """The walls that stand here, and all findings."""

    walls: frozenset[Wall]
    findings: tuple[Finding, ...]


def require(without: frozenset[Wall]) -> Enforced:
    """What this machine enforces. Raises SandboxUnavailable if a wall is missing that is not in ``without``."""
    enforced = examine()
    missing = [found for found in enforced.findings if found.needed and not found.holds and found.name not in without]
    if missing:
        lines = "\n".join(f"  {found.name}: {found.text}" for found in missing)
        names = ",".join(found.name for found in missing)
        raise SandboxUnavailable(
            f"this machine cannot contain untrusted code:\n{lines}\n"
            f"Run it elsewhere, or allow these walls to be missing: {names}; docs/sandbox.md says what then holds."
        )
    return enforced


@functools.cache
def examine() -> Enforced:
    """Look at the kernel, at this process and at what is around it. Changes nothing here."""
    walls = [_landlock(), *_seccomp()]
    stand = frozenset(Wall(found.name) for found in walls if found.holds)
    return Enforced(stand, (*walls, _user(), *_around()))


def _landlock() -> Finding:
    abi = kernel.landlock_abi()
    text = f"Landlock version {abi}" if abi else "this kernel has no Landlock, or it is switched off"
    if 0 < abi < LEAST_LANDLOCK:
        text += f"; {LEAST_LANDLOCK} is needed (Linux 6.12), below it signals and abstract sockets reach outside"
    return Finding(Wall.LANDLOCK, abi >= LEAST_LANDLOCK, text, needed=True)


def _seccomp() -> list[Finding]:
    try:
        size = len(compile_filter()) // 8
    except SandboxUnavailable as error:
        return [Finding(wall, False, error.message, needed=True) for wall in (Wall.SECCOMP, Wall.LISTENER)]
    loads, problem = _in_child(listen=False)
    listens, why = _in_child(listen=True)
    return [
        Finding(
            Wall.SECCOMP,
            loads,
            f"a filter of {size} instructions, made by libseccomp" if loads else problem,
            needed=True,
        ),
        Finding(
            Wall.LISTENER, listens, "refused calls are heard of, new processes counted" if listens else why, needed=True
        ),
    ]


def _in_child(*, listen: bool) -> tuple[bool, str]:
    """Whether a filter loads here, tried in a child, since it stays for good."""
    program = kernel.Program(compile_filter(listen=listen))
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
            program.load(listen=listen)
        except BaseException as error:
            os.write(writing, str(error).encode())
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        problem = pipe.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    return status == 0, problem or "the filter does not load"


def _user() -> Finding:
    if os.geteuid() == 0:
        return Finding("user", True, "root here: each place has a user of its own, without capabilities")
    return Finding("user", True, f"user {os.geteuid()}, the same for all programs: Landlock keeps them apart")


def _around() -> list[Finding]:
    """Limits around the process, which a container gives: they hold where ours end."""
    found = []
    for name, files in (
        ("pids limit", ("pids.max", "pids/pids.max")),
        ("memory limit", ("memory.max", "memory/memory.limit_in_bytes")),
    ):
        value = _cgroup(*files)
        found.append(Finding(name, value is not None, value or "none around this process"))
    token = Path("/var/run/secrets/kubernetes.io/serviceaccount/token").exists()
    found.append(Finding("no token", not token, "a Kubernetes token is mounted here" if token else "none is mounted"))
    unconfined = _status("Seccomp") == "0"
    found.append(
        Finding("container's filter", not unconfined, "none around this process" if unconfined else "there is one")
    )
    return found


def _cgroup(file: str, older: str) -> str | None:
    """A limit of our control group: ``file`` of version 2, or ``older`` of version 1; None for none."""
    own: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), path)
    controller, _, name = older.partition("/")
    for place in (
        f"/sys/fs/cgroup{own.get('', '')}/{file}",
        f"/sys/fs/cgroup/{file}",
        f"/sys/fs/cgroup/{controller}{own.get(controller, '')}/{name}",
        f"/sys/fs/cgroup/{older}",
    ):
        with contextlib.suppress(OSError):
            value = Path(place).read_text().strip()
            return value if value.isdigit() and int(value) < _UNLIMITED else None
    return None


def _status(field: str) -> str:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return value.strip()
    return ""
