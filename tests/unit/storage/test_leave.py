"""A program that ends while a native thread still cleans up in Python waits for it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading

from kubegym.storage.leave import _in_python

# A thread that `threading` does not know, as those of native libraries; what it does last, the exit must not cut off.
PROGRAM = """
    import _thread, threading, time
    from kubegym.storage.leave import wait_at_exit

    started = threading.Event()

    def handing_over():
        started.set()
        for _ in range(100):
            time.sleep(0.001)
        print("out of Python", flush=True)

    wait_at_exit()
    _thread.start_new_thread(handing_over, ())
    started.wait()
"""


def test_the_exit_waits_for_threads_that_are_still_in_python() -> None:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(PROGRAM)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "out of Python\n"), done.stderr


def test_threads_of_the_program_are_not_waited_for() -> None:
    leave = threading.Event()
    before = _in_python() - threading.active_count()
    thread = threading.Thread(target=leave.wait, daemon=True)
    thread.start()
    try:
        assert _in_python() - threading.active_count() == before
    finally:
        leave.set()
        thread.join()
