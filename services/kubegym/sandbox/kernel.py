"""The kernel calls that Python has no name for: Landlock, seccomp with its listener, prctl.

Everything here runs in the forked child between ``fork`` and the untrusted code, or in its warden: it allocates little,
imports nothing when called, and raises OSError.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from typing import Final, NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_prctl = _libc.prctl

_MACHINE = os.uname().machine
_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}.get(_MACHINE, -1)
_LANDLOCK_CREATE_RULESET: Final = 444  # the same on every architecture, as all system calls since 424
_LANDLOCK_ADD_RULE: Final = 445
_LANDLOCK_RESTRICT_SELF: Final = 446

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_CAPBSET_DROP: Final = 24
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38

_SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_FILTER_FLAG_NEW_LISTENER: Final = 1 << 3
_NOTIFICATION: Final = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
_ANSWER: Final = struct.Struct("=QqiI")  # struct seccomp_notif_resp
_NOTIF_RECV: Final = 0xC0502100  # SECCOMP_IOCTL_NOTIF_RECV of include/uapi/linux/seccomp.h
_NOTIF_SEND: Final = 0xC0182101
_FLAG_CONTINUE: Final = 1

_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1
_RULESET: Final = struct.Struct("=QQQ")  # struct landlock_ruleset_attr: files, network, scopes
_PATH_BENEATH: Final = struct.Struct("=Qi")  # packed: struct landlock_path_beneath_attr

# LANDLOCK_ACCESS_FS_*
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = (1 << bit for bit in range(13, 16))
ALL_FILES: Final = (1 << 16) - 1
ALL_TCP: Final = 3  # bind, connect
ALL_SCOPES: Final = 3  # abstract Unix sockets, signals

READ: Final = READ_FILE | READ_DIR | EXECUTE
SCRATCH: Final = READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SYM | REFER | TRUNCATE


_SINCE: Final = ((2, REFER), (3, TRUNCATE), (5, IOCTL_DEV))


def rights_of(rights: int, abi: int) -> int:
    """Of these rights on files, the ones that a version of Landlock knows."""
    for since, right in _SINCE:
        if abi < since:
            rights &= ~right
    return rights


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def prctl(option: int, value: int = 0) -> None:
    """``prctl(option, value, 0, 0, 0)``."""
    zero = ctypes.c_ulong(0)
    _checked(_prctl(option, ctypes.c_ulong(value), zero, zero, zero), f"prctl {option}")


def landlock_abi() -> int:
    """The version of Landlock that this kernel has; 0 for none, or where it is switched off."""
    found = _syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_CREATE_RULESET_VERSION))
    return max(0, int(found))


def landlock_ruleset(abi: int) -> int:
    """A descriptor of an empty ruleset that handles all that this version of Landlock can refuse.

    Files from version 1, moving between folders from 2, truncation from 3, TCP from 4, ioctl on devices from 5, signals
    and abstract sockets from 6.
    """
    attributes = _RULESET.pack(rights_of(ALL_FILES, abi), ALL_TCP if abi >= 4 else 0, ALL_SCOPES if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    made = _syscall(_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint(0))
    return int(_checked(made, "landlock_create_ruleset"))


def landlock_allow(ruleset: int, path: int, rights: int) -> None:
    """Allow rights below an open folder, or on an open file."""
    rule = _PATH_BENEATH.pack(rights, path)
    _checked(_syscall(_LANDLOCK_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, ctypes.c_uint(0)), "landlock_add_rule")


def landlock_restrict_self(ruleset: int) -> None:
    """Put this thread and its children behind the ruleset. Needs no_new_privs."""
    _checked(_syscall(_LANDLOCK_RESTRICT_SELF, ruleset, ctypes.c_uint(0)), "landlock_restrict_self")


class Program:
    """A seccomp filter as the kernel takes it (``struct sock_fprog``), kept for many children."""

    def __init__(self, bpf: bytes) -> None:
        self._code = ctypes.create_string_buffer(bpf, len(bpf))
        self._fprog = ctypes.create_string_buffer(struct.pack("@HP", len(bpf) // 8, ctypes.addressof(self._code)))

    def load(self, *, listen: bool) -> int:
        """Put this thread and its children behind the filter; the listener's descriptor, or -1 without one."""
        if _SECCOMP < 0:
            raise OSError(errno.ENOSYS, f"seccomp: not known for {_MACHINE}")
        flags = _SECCOMP_FILTER_FLAG_NEW_LISTENER if listen else 0
        made = _syscall(_SECCOMP, ctypes.c_uint(_SECCOMP_SET_MODE_FILTER), ctypes.c_uint(flags), self._fprog)
        _checked(made, "seccomp")
        return int(made) if listen else -1


class Notification(NamedTuple):
    """A system call that waits for the warden's answer."""

    id: int
    pid: int
    number: int
    arguments: tuple[int, ...]


def receive(listener: int) -> Notification | None:
    """The next waiting call; None when whoever made it is gone."""
    buffer = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _NOTIF_RECV, buffer, True)
    except OSError:  # ENOENT: killed meanwhile
        return None
    id_, pid, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
    return Notification(id_, pid, number, tuple(arguments))


GO_ON: Final = -1
"""An answer: the kernel makes the call."""


def answer(listener: int, notification: Notification, verdict: int) -> None:
    """Answer a waiting call: ``GO_ON``, an errno, or 0 where the call was made in its place. Nobody there: nothing."""
    go_on = verdict == GO_ON
    reply = bytearray(_ANSWER.pack(notification.id, 0, 0 if go_on else -verdict, _FLAG_CONTINUE if go_on else 0))
    try:
        fcntl.ioctl(listener, _NOTIF_SEND, reply)
    except OSError:
        return


def drop_bounding_set(keep: frozenset[int] = frozenset()) -> None:
    """Take from this process, for good, the capabilities that a later exec could give it."""
    for capability in range(64):
        if capability not in keep:
            try:
                prctl(PR_CAPBSET_DROP, capability)
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.EPERM):  # no such capability; or not ours to drop
                    return
                raise
