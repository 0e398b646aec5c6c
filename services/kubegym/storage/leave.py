"""Let the threads of a native library come out of Python before the interpreter is taken down.

obstore's threads hand over a result while they hold the GIL. The event loop may see the result, end, and let the
program end, too, before that thread has got the GIL back to clean up; it would then be torn off in the middle of native
code, which aborts the process (PyO3/pyo3-async-runtimes#40): a finished program with exit code 134 or 139.
"""

from __future__ import annotations

import atexit
import ctypes
import threading
import time

_LONGEST_SECONDS = 5.0  # a thread that long in Python is not on its way out
_PAUSE_SECONDS = 0.001  # without the GIL, so that others can have it


def wait_at_exit() -> None:
    """From now on the program waits for such threads when it ends; some microseconds, as a rule."""
    atexit.register(_wait)


def _wait() -> None:
    deadline = time.monotonic() + _LONGEST_SECONDS
    while _in_python() > threading.active_count() and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)


def _in_python() -> int:
    """Threads that have a state in this interpreter. Native ones have it only while they are in Python."""
    python = ctypes.pythonapi  # keeps the GIL: the list does not change while it is gone through
    python.PyInterpreterState_Get.restype = ctypes.c_void_p
    for walk in (python.PyInterpreterState_ThreadHead, python.PyThreadState_Next):
        walk.restype = ctypes.c_void_p
        walk.argtypes = [ctypes.c_void_p]
    count = 0
    state = python.PyInterpreterState_ThreadHead(python.PyInterpreterState_Get())
    while state:
        count += 1
        state = python.PyThreadState_Next(state)
    return count
