"""The fork server: an interpreter with the chosen libraries loaded, which forks wardens, and nothing else.

Its caller starts it with one socket. It says what it has, then answers each request for a warden by forking one, whose
socket came with the request. It ends when its caller does, and its wardens with it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.machinery
import json
import os
import select
import signal
import socket
import stat
import sys
import warnings
from collections.abc import Collection
from typing import Any, NoReturn

from kubegym.sandbox import kernel, proc, scratch
from kubegym.sandbox.child import Place
from kubegym.sandbox.places import readable_rules, uid_base
from kubegym.sandbox.warden import Warden

PREFIX = "kubegym-sandbox-"
_KEPT_FROM = 600
_CAPABILITIES_KEPT: frozenset[int] = frozenset({0, 1, 2, 3, 5, 6, 7, 19})
"""CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, KILL, SETGID, SETUID, SYS_PTRACE: to give folders away, to look at
programs of other users and to end them."""


def main(descriptor: int) -> NoReturn:
    """Serve the caller at the other end of ``descriptor``."""
    control = socket.socket(fileno=descriptor)
    setup = json.loads(_received(control))
    try:
        place, names = _prepare(setup)
    except Exception as error:
        control.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        sys.exit(1)
    base = _address_space()
    control.send(json.dumps({"folder": place.scratch, "uid": place.uid, "base_bytes": base}).encode())
    gc.collect()
    gc.freeze()
    try:
        _serve(control, place, names, base)
    finally:
        with contextlib.suppress(OSError):
            _remove(place.scratch)
    os._exit(0)


def _received(control: socket.socket) -> bytes:
    head = control.recv(8)
    size = int.from_bytes(head, "big")
    data = b""
    while len(data) < size:
        data += control.recv(size - len(data))
    return data


def _prepare(setup: dict[str, Any]) -> tuple[Place, dict[int, str]]:
    """Load libraries and open what children may read."""
    if os.geteuid() == 0:
        kernel.drop_bounding_set(_CAPABILITIES_KEPT)
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.pop("PYTHONPATH", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in (*setup["libraries"], *_COMMON.split()):
            importlib.import_module(name)
    rules = readable_rules(setup["readable"], setup["abi"])
    kept = _imports_for_children(rules.libraries)
    program = kernel.Program(bytes.fromhex(setup["filter"])) if setup["filter"] else None
    _remove_stale(setup["folder"])
    folder = f"{setup['folder']}/{PREFIX}{os.getpid()}-{os.urandom(8).hex()}"
    os.mkdir(folder, 0o711)
    os.chmod(folder, 0o711)  # whatever the umask is
    uid = uid_base(os.getpid()) if os.geteuid() == 0 else None
    place = Place(uid, folder, rules.opened, setup["abi"], program, setup["listen"], kept)
    return place, {int(number): name for number, name in setup["names"].items()}


_COMMON = """
    array bisect cmath collections copy datetime decimal fractions functools heapq inspect io itertools linecache math
    numbers operator queue random re statistics string struct textwrap threading time traceback typing unicodedata
"""
"""Modules that programs use most: loaded once, for all of them."""


def _imports_for_children(libraries: dict[str, str]) -> tuple[int, ...]:
    """Let children import the standard library and the chosen libraries, and find nothing else."""
    standard = [path for path in sys.path if _is_standard(path)]
    sys.path[:] = standard
    kept: list[int] = []
    for index, path in enumerate(standard):
        if not _reachable(path):  # by another user, as for an interpreter below /root: children hold it open
            high = _KEPT_FROM + len(kept)
            descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY)
            os.dup2(descriptor, high, inheritable=False)
            os.close(descriptor)
            kept.append(high)
            sys.path[index] = f"/proc/self/fd/{high}"
            _move_packages(path, sys.path[index])
    sys.path_importer_cache.clear()
    sys.meta_path.append(_Chosen(libraries))
    with contextlib.suppress(ImportError):
        importlib.import_module("this_module_is_nowhere")  # every finder has listed its folder now
    return tuple(kept)


def _move_packages(old: str, new: str) -> None:
    for module in list(sys.modules.values()):
        paths = getattr(module, "__path__", None)
        if isinstance(paths, list):
            paths[:] = [new + path[len(old) :] if path.startswith(old + "/") else path for path in paths]


class _Chosen:
    """Finds the chosen libraries where they lie, without their neighbours."""

    def __init__(self, folders: dict[str, str]) -> None:
        self._folders = folders

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        folder = self._folders.get(name)
        return None if folder is None else importlib.machinery.PathFinder.find_spec(name, [folder], target)


def _is_standard(path: str) -> bool:
    return bool(path) and path.startswith(os.path.dirname(os.__file__)) and "site-packages" not in path


def _reachable(path: str) -> bool:
    """Whether any user may go there and list it."""
    if os.geteuid() != 0:
        return True
    while path != "/":
        if not os.stat(path).st_mode & stat.S_IXOTH:
            return False
        path = os.path.dirname(path)
    return True


def _remove_stale(base: str) -> None:
    """Folders of fork servers that were killed."""
    for name in os.listdir(base):
        pid = name[len(PREFIX) :].partition("-")[0] if name.startswith(PREFIX) else ""
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            with contextlib.suppress(OSError):
                if os.lstat(f"{base}/{name}").st_uid == os.geteuid():
                    _remove(f"{base}/{name}")


def _remove(folder: str) -> None:
    """A folder and all in it. Raises OSError."""
    scratch.empty(folder)
    os.rmdir(folder)


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _serve(control: socket.socket, place: Place, names: dict[int, str], base: int) -> None:
    """Fork a warden for each socket that comes in; take away those that ended."""
    wardens: dict[int, int] = {}
    number = 0
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor in wardens:
                poll.unregister(descriptor)
                os.close(descriptor)
                _reap(wardens.pop(descriptor), wardens.values())
                continue
            message, received, _, _ = socket.recv_fds(control, 1, 1)
            if not message:
                return _end(wardens)
            number += 1
            pid = os.fork()
            if pid == 0:
                control.close()
                for other in wardens:
                    os.close(other)
                _warden(socket.socket(fileno=received[0]), place, number, names, base)
            os.close(received[0])
            handle = os.pidfd_open(pid)
            wardens[handle] = pid
            poll.register(handle, select.POLLIN)


def _warden(control: socket.socket, place: Place, number: int, names: dict[int, str], base: int) -> NoReturn:
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    uid = None if place.uid is None else place.uid + number % 256
    folder = f"{place.scratch}/{number}"
    mine = Place(uid, folder, place.rules, place.abi, place.program, place.listen, place.kept)
    try:
        Warden(control, mine, names, base).serve()
    except BaseException as error:
        sys.stderr.write(f"kubegym sandbox: {type(error).__name__}: {error}\n")
    finally:
        os._exit(1)


def _reap(pid: int, others: Collection[int]) -> None:
    """Take a warden that ended away, and what it left to us if it was killed: the program, and its children."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    while orphans := [child for child in proc.children(os.getpid()) if child not in others]:
        for orphan in orphans:
            with contextlib.suppress(OSError):
                os.kill(orphan, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(orphan, 0)


def _end(wardens: dict[int, int]) -> None:
    """The caller is gone: every warden sees that, too, and ends its program first."""
    left = set(wardens.values())
    while left:
        _reap(left.pop(), left)


if __name__ == "__main__":
    main(int(sys.argv[1]))
