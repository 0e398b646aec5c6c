"""Processes: more of them than allowed, others' lives, and lives longer than the program's."""

from __future__ import annotations

from kubegym.sandbox.protocol import Execution
from testbed.escapes.program import TREE, WAITING, Escape, one, printed


def _few(execution: Execution) -> bool:
    """It printed how many it got, and stayed within what it was allowed (a race of two aside)."""
    counts = [int(word) for word in execution.stdout.split() if word.isdigit()]
    return bool(counts) and max(counts) <= 10 and "ESCAPED" not in execution.stdout


ESCAPES = (
    one("fork", "start a process, without leave", "os.fork()"),
    one("vfork", "start a process with vfork", "call(58)"),
    one("posix_spawn", "start a program beside it", 'os.posix_spawn("/bin/true", ["true"], {})'),
    one("subprocess", "start a shell", 'subprocess.run(["sh", "-c", "echo"], check=True)', setup="import subprocess"),
    one(
        "multiprocessing",
        "start a process with the library",
        "p.start()",
        setup="import multiprocessing\np = multiprocessing.get_context('fork').Process(target=print)",
    ),
    one("kill_all", "end every process that it can", "os.kill(-1, 9)", "None"),
    one("kill_parent", "end its warden", "os.kill(os.getppid(), 9)"),
    one("stop_parent", "stop its warden", "os.kill(os.getppid(), 19)"),
    one("kill_caller", "end the caller", 'os.kill(WORLD["caller"], 9)'),
    one("kill_victim", "end a process of the same user", 'os.kill(WORLD["victim"], 9)'),
    one("probe_victim", "learn whether a process lives", 'os.kill(WORLD["victim"], 0)'),
    one("kill_init", "end the first process", "os.kill(1, 15)"),
    Escape(
        "kill_group",
        "end its process group, which wardens and neighbours share",
        "os.killpg(os.getpgid(os.getppid()), 9)",
        lambda done: done.signal == 9,  # itself it may end; whether anybody else is gone the world tells
    ),
    one(
        "queue_signal",
        "send a signal with a value to its warden",
        "call(129, os.getppid(), 10, (ctypes.c_char * 128)())",
    ),
    one("thread_signal", "send a signal to a thread of its warden", "call(234, os.getppid(), os.getppid(), 9)"),
    Escape(
        "signal_by_owner",
        "let the kernel send signals to another process in its name",
        "import fcntl\nr, w = os.pipe()\nattempt(lambda: fcntl.fcntl(r, fcntl.F_SETOWN, WORLD['victim']))",
    ),
    one("setsid", "leave its session, so that nobody ends it with it", "os.setsid()"),
    Escape(
        "fork_bomb",
        "double itself until the machine stands still",
        """
import time
n = 0
for _ in range(2000):
    try:
        if os.fork() == 0:
            time.sleep(600); os._exit(0)
        n += 1
    except OSError:
        break
print(n, flush=True)
os._exit(0)
""",
        _few,
        limits=TREE,
    ),
    Escape(
        "fork_bomb_in_shell",
        "double itself in a shell",
        argv=("bash", "-c", "b() { b | b & }; b; sleep 1; echo CONTAINED"),
        contained=lambda done: (
            "ESCAPED" not in done.stdout and (done.exit_code is not None or done.stopped is not None)
        ),
        limits=TREE,
    ),
    Escape(
        "fork_bomb_by_children",
        "let each child start the next, and end",
        """
import time
end = time.monotonic() + 1.5
while time.monotonic() < end:
    try:
        if os.fork():
            os._exit(0)
    except OSError:
        time.sleep(0.01)
""",
        lambda done: "ESCAPED" not in done.stdout,
        limits=TREE,
    ),
    Escape(
        "thread_bomb",
        "start threads until the machine stands still",
        """
import threading, time
n = 0
for _ in range(3000):
    try:
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        n += 1
    except RuntimeError:
        break
print("ESCAPED" if n > 40 else "CONTAINED", n, flush=True)
os._exit(0)
""",
    ),
    Escape(
        "thread_bomb_small_stacks",
        "start many threads with tiny stacks",
        """
import threading, time
threading.stack_size(32768)
n = 0
for _ in range(3000):
    try:
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        n += 1
    except RuntimeError:
        break
print("ESCAPED" if n > 40 else "CONTAINED", n, flush=True)
os._exit(0)
""",
    ),
    Escape(
        "thread_bomb_in_children",
        "start threads in every child",
        """
import threading, time
for _ in range(6):
    if os.fork() == 0:
        n = 0
        for _ in range(100):
            try:
                threading.Thread(target=time.sleep, args=(600,), daemon=True).start(); n += 1
            except RuntimeError:
                break
        print("ESCAPED" if n > 12 else "CONTAINED", n, flush=True)
        os._exit(0)
while True:
    try: os.wait()
    except ChildProcessError: break
""",
        limits=TREE,
    ),
    Escape(
        "daemon",
        "leave a process behind that outlives the program",
        """
import time
if os.fork() == 0:
    if os.fork() == 0:
        os.execv("/bin/sleep", [WORLD["daemon"], "300"])
    os._exit(0)
os.wait()
time.sleep(0.2)
print("CONTAINED if nobody is left")
""",
        limits=TREE,
    ),
    Escape(
        "daemon_ignores_signals",
        "leave a process behind that ignores every signal it can",
        """
import signal, time
if os.fork() == 0:
    for n in range(1, 32):
        try: signal.signal(n, signal.SIG_IGN)
        except OSError: pass
    os.execv("/bin/sleep", [WORLD["daemon"], "300"])
time.sleep(0.2)
print("CONTAINED if nobody is left")
""",
        limits=TREE,
    ),
    Escape(
        "daemon_group",
        "leave a process behind in a group of its own",
        """
import time
if os.fork() == 0:
    os.setpgid(0, 0)
    os.execv("/bin/sleep", [WORLD["daemon"], "300"])
time.sleep(0.2)
print("CONTAINED if nobody is left")
""",
        limits=TREE,
    ),
    Escape(
        "stopped_child",
        "leave a stopped process behind, which cannot end",
        """
import signal, time
if os.fork() == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
    os.execv("/bin/sleep", [WORLD["daemon"], "300"])
time.sleep(0.2)
print("CONTAINED if nobody is left")
""",
        limits=TREE,
    ),
    Escape(
        "stop_itself",
        "stop instead of ending, so that nobody waits long enough",
        "import signal\nos.kill(os.getpid(), signal.SIGSTOP)\nprint('ESCAPED')",
        lambda done: done.stopped == "wall",
        limits=WAITING,
    ),
    Escape(
        "zombies",
        "leave children that nobody takes away",
        """
import time
for _ in range(200):
    try:
        if os.fork() == 0: os._exit(0)
    except OSError:
        break
print("CONTAINED", flush=True)
""",
        printed,
        limits=TREE,
    ),
)
