"""A program's working folder: how much is in it, and making it empty again, whatever the program left there.

Nothing here follows a link, and no depth of folders ends it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from itertools import count


def usage(folder: str, most_files: int) -> tuple[int, int]:
    """Bytes on disk and entries below a folder; counting ends above ``most_files``."""
    total = files = 0
    folders = [folder]
    while folders and files <= most_files:
        try:
            entries = os.scandir(folders.pop())
        except OSError:  # gone meanwhile, or closed to us: its own entry was counted
            continue
        with entries:
            for entry in entries:
                files += 1
                if files > most_files:
                    break
                with contextlib.suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
    return total, files


def hidden_usage(pid: int) -> int:
    """Bytes of files that a process holds open and that have no name any more."""
    total, seen = 0, set()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found = os.stat(f"/proc/{pid}/fd/{name}")
                if stat.S_ISREG(found.st_mode) and found.st_nlink == 0 and found.st_ino not in seen:
                    seen.add(found.st_ino)
                    total += found.st_blocks * 512
    return total


def empty(folder: str) -> None:
    """Remove everything in a folder. No process of the program may be left.

    Folders are pulled up to the top before they are emptied, so that paths stay short however deep the program went.
    Raises OSError for what cannot be removed.
    """
    secret = os.urandom(8).hex()  # none of its own names
    names = (f"{folder}/{secret}-{number}" for number in count())
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        with os.scandir(current) as found:
            entries = list(found)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.path, 0o700)  # to move a folder is to write into it
                pulled = next(names)
                os.rename(entry.path, pulled)
                waiting.append(pulled)
            else:
                os.unlink(entry.path)
        if current != folder:
            os.rmdir(current)


def collect(folder: str, path: str, most: int) -> int | None:
    """A descriptor of a regular file below a folder, no larger than ``most``; None where there is none."""
    descriptor = -1
    try:
        current = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        *folders, name = path.split("/")
        for each in folders:
            below = os.open(each, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=current)
            os.close(current)
            current = below
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=current)
        finally:
            os.close(current)
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_size <= most:
            return descriptor
    except OSError:
        pass
    if descriptor >= 0:
        os.close(descriptor)
    return None
