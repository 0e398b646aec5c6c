"""``chmod`` on the program's own files: compilers need it, and a filter cannot see which file is meant.

The warden does it in the program's place. It reads the path once, walks to the file itself without following a link,
and gives rights to the owner alone, so that what the program changes meanwhile changes nothing.
"""

from __future__ import annotations

import errno
import os

AT_FDCWD = (1 << 32) - 100
_MOST = 4096


def chmod_for(pid: int, scratch: str, address: int, mode: int) -> int:
    """Change the mode of a file below the working folder; 0 or the errno that the program gets.

    Args:
        pid: the thread that asks.
        scratch: the program's folder.
        address: of the path, in its memory.
        mode: what it asks for; rights of others are left out, setuid and its like refused.
    """
    if mode & 0o7000:
        return errno.EPERM
    try:
        path = os.path.join(os.fsencode(os.readlink(f"/proc/{pid}/cwd")), _text(pid, address))
        inside = os.path.relpath(os.path.normpath(path), os.fsencode(scratch))
        parts = inside.split(b"/")
        if parts[0] in (b"..", b"."):
            return errno.EPERM
        current = os.open(scratch, os.O_PATH | os.O_DIRECTORY)
        for part in parts:
            below = os.open(part, os.O_PATH | os.O_NOFOLLOW, dir_fd=current)
            os.close(current)
            current = below
        try:
            os.chmod(f"/proc/self/fd/{current}", mode & 0o700)
        finally:
            os.close(current)
    except OSError as error:
        return error.errno or errno.EPERM
    except (OverflowError, ValueError):  # an address or a path that cannot be one
        return errno.EFAULT
    return 0


def _text(pid: int, address: int) -> bytes:
    """A C string in a process's memory. Raises OSError."""
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        found = b""
        while b"\0" not in found and len(found) < _MOST:  # never past the page that it ends in
            start = address + len(found)
            found += os.pread(memory, 4096 - start % 4096, start)
    finally:
        os.close(memory)
    return found.partition(b"\0")[0]
