"""The seccomp filter, made once by libseccomp and loaded by every child as the kernel's own bytes."""

from __future__ import annotations

import errno
import functools
import tempfile
from typing import Any

from kubegym.sandbox import syscalls
from kubegym.sandbox.errors import SandboxUnavailable

_ADDRESS_BITS = (1 << 64) - 1


@functools.cache
def compile_filter(*, listen: bool = True, processes: bool = False) -> bytes:
    """The filter as BPF.

    Args:
        listen: what is not allowed waits for the warden's answer, who counts new processes and notes what was refused.
            Without, the filter refuses by itself, and nobody learns of it.
        processes: without ``listen``: whether new processes are allowed at all, uncounted.

    Raises:
        SandboxUnavailable: no pyseccomp, or no libseccomp.
    """
    seccomp = _library()
    made = seccomp.SyscallFilter(seccomp.NOTIFY if listen else seccomp.ERRNO(errno.EPERM))
    made.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    made.set_attr(seccomp.Attr.CTL_OPTIMIZE, 2)  # a binary tree of call numbers instead of a list
    for name in syscalls.ALLOWED:
        _add(seccomp, made, seccomp.ALLOW, name)
    for name in syscalls.ABSENT:  # libraries that meet ENOSYS take an older call, which the filter can judge
        _add(seccomp, made, seccomp.ERRNO(errno.ENOSYS), name)
    for name, argument, values in syscalls.ALLOWED_WITH:
        for value in values:
            # All of them but addresses are 32 bits for the kernel, whatever stands above.
            bits = _ADDRESS_BITS if name in syscalls.ADDRESSES else 0xFFFFFFFF
            _add(seccomp, made, seccomp.ALLOW, name, seccomp.Arg(argument, seccomp.MASKED_EQ, bits, value))
    if listen:
        own = seccomp.Arg(0, seccomp.EQ, syscalls.LISTENER_DESCRIPTOR)
        _add(seccomp, made, seccomp.ALLOW, "sendmsg", own)
    else:
        _add_uncounted(seccomp, made, processes)
    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read()


@functools.cache
def syscall_names() -> dict[int, str]:
    """Names by number on this machine, of the calls that the warden may hear of."""
    seccomp = _library()
    arguments = (name for name, _, _ in syscalls.ALLOWED_WITH)
    numbers = {name: _number(seccomp, name) for name in (*syscalls.REFUSED, *syscalls.COUNTED, *arguments)}
    return {number: name for name, number in numbers.items() if number is not None}


def _add_uncounted(seccomp: Any, made: Any, processes: bool) -> None:
    judged = syscalls.CLONE_THREAD | syscalls.NEW_NAMESPACES
    kinds = [syscalls.CLONE_THREAD, *([0] if processes else [])]
    for kind in kinds:
        _add(seccomp, made, seccomp.ALLOW, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, judged, kind))
    for name in ("fork", "vfork") if processes else ():
        _add(seccomp, made, seccomp.ALLOW, name)


def _add(seccomp: Any, made: Any, action: int, name: str, *arguments: Any) -> None:
    number = _number(seccomp, name)
    if number is not None:  # not every architecture has every call, nor every libseccomp every name
        made.add_rule(action, number, *arguments)


def _number(seccomp: Any, name: str) -> int | None:
    number = int(seccomp.resolve_syscall(seccomp.Arch.NATIVE, name))
    return number if number >= 0 else None


def _library() -> Any:
    try:
        import pyseccomp
    except (ImportError, RuntimeError) as error:
        raise SandboxUnavailable(f"the sandbox needs kubegym[sandbox] and the system's libseccomp2: {error}") from error
    return pyseccomp
