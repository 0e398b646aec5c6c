"""What programs may read, and which users they become."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from kubegym.sandbox import kernel

SYSTEM: Final = (
    "/bin",
    "/lib",
    "/lib32",
    "/lib64",
    "/sbin",
    "/usr",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
)
DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

_FROM: Final = 700
"""Descriptors of what is readable lie above those that a child puts its streams at."""

_FIRST_UID: Final = 1 << 30
_LOW_UID: Final = 61_184


@dataclass(frozen=True, slots=True)
class Readable:
    """Open folders and files with their Landlock rights, and where each chosen library lies."""

    opened: tuple[tuple[int, int], ...]
    libraries: dict[str, str]


def readable_rules(extra: Sequence[str], abi: int) -> Readable:
    """Open the system, the standard library and every library that is loaded, without what lies beside them.

    Other packages beside these stay closed: an environment installed there holds the answers.
    """
    site = _site_folders()
    libraries = _loaded_below(site)
    paths = [*SYSTEM, os.path.dirname(os.__file__), *extra]
    closed = {os.path.realpath(folder) for folder in site}
    allowed = [each for path in paths if os.path.exists(path) for each in _without(os.path.realpath(path), closed)]
    for name, folder in libraries.items():
        beside = [f"{folder}/{name}", f"{folder}/{name}.libs", f"{folder}/{name}.py"]
        allowed += [each for each in beside if os.path.exists(each)]
    opened = [_opened(path, kernel.READ) for path in dict.fromkeys(allowed)]
    opened += [_opened(path, kernel.READ_FILE | kernel.WRITE_FILE) for path in DEVICES if os.path.exists(path)]
    return Readable(tuple((at, kernel.rights_of(rights, abi)) for at, rights in opened), libraries)


def _opened(path: str, rights: int) -> tuple[int, int]:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FROM)
    os.close(descriptor)
    return high, rights if os.path.isdir(path) else rights & ~kernel.READ_DIR


def _site_folders() -> list[str]:
    """Folders of ``sys.path`` with packages that are not the standard library's."""
    standard = os.path.dirname(os.__file__)
    inside = (f"{standard}/site-packages", f"{standard}/dist-packages")
    return [
        path
        for path in sys.path
        if os.path.isdir(path) and (path.startswith(inside) or not (path + "/").startswith(standard + "/"))
    ]


def _loaded_below(site: Sequence[str]) -> dict[str, str]:
    """Top-level packages that were loaded from these folders; ours is not among them."""
    found = {}
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        file = getattr(module, "__file__", None)
        if top in found or top in ("kubegym", "pyseccomp", "__main__") or not file:
            continue
        for folder in site:
            if file.startswith(f"{folder}/{top}"):
                found[top] = folder
    return found


def _without(path: str, closed: set[str]) -> Iterator[str]:
    """A folder, or where it holds closed ones, all that it holds but them."""
    if path in closed:
        return
    if not any(each.startswith(path + "/") for each in closed):
        yield path
        return
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if not entry.is_symlink():
            yield from _without(entry.path, closed)


def uid_base(pid: int) -> int:
    """The first of 256 users that nobody else has, one a warden; where those are not mapped, lower ones."""
    wanted = _FIRST_UID + pid * 256
    with open("/proc/self/uid_map") as file:
        for line in file:
            first, _, size = map(int, line.split())
            if first <= wanted and wanted + 256 <= first + size:
                return wanted
    return _LOW_UID
