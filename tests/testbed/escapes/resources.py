"""Resources: memory, processor, disk, output and descriptors, to the machine's end."""

from __future__ import annotations

from kubegym.sandbox.protocol import Execution
from testbed.escapes.program import TREE, WAITING, Escape, one, printed, stopped

MEBI = 1 << 20


def _held(execution: Execution) -> bool:
    """A limit ended it, or it met the limit as an error of its own."""
    return "ESCAPED" not in execution.stdout and (execution.stopped is not None or "CONTAINED" in execution.stdout)


ESCAPES = (
    one("memory", "take 10 GB of memory", "len(bytearray(10 << 30))"),
    one("memory_in_pieces", "take memory piece by piece", "[bytearray(1 << 20) for _ in range(10_000)] and 1"),
    one("memory_mapped", "map memory that is its own", "__import__('mmap').mmap(-1, 10 << 30)"),
    one("memory_shared", "map memory that is shared", "__import__('mmap').mmap(-1, 10 << 30, 1)"),
    one(
        "memory_of_file",
        "map a sparse file of 10 GB",
        "os.ftruncate(os.open('sparse', os.O_CREAT | os.O_RDWR), 10 << 30)",
    ),
    one(
        "memory_in_threads",
        "take memory in stacks",
        (
            "[__import__('threading').Thread(target=__import__('time').sleep, args=(600,), "
            "daemon=True).start() for _ in range(5000)] and 1"
        ),
        setup="import threading\nthreading.stack_size(64 << 20)",
    ),
    Escape(
        "memory_of_children",
        "take in eight children what one may not have",
        """
import time
for _ in range(8):
    if os.fork() == 0:
        data = bytearray(100 << 20)
        for i in range(0, len(data), 4096): data[i] = 1
        time.sleep(600)
        os._exit(0)
for _ in range(8): os.wait()
print("ESCAPED: all of them had their memory")
""",
        lambda done: done.stopped == "memory" and "ESCAPED" not in done.stdout,
        limits=TREE,
    ),
    Escape(
        "memory_shared_of_children",
        "take shared memory in children",
        """
import mmap, time
for _ in range(8):
    if os.fork() == 0:
        data = mmap.mmap(-1, 100 << 20)
        for i in range(0, len(data), 4096): data[i] = 1
        time.sleep(600)
        os._exit(0)
for _ in range(8): os.wait()
print("ESCAPED: all of them had their memory")
""",
        lambda done: done.stopped == "memory" and "ESCAPED" not in done.stdout,
        limits=TREE,
    ),
    Escape(
        "memory_of_program",
        "take memory in a program that is not Python's warm one",
        argv=(
            "sh",
            "-c",
            "head -c 3000000000 /dev/zero | tail -c 1500000000 >/dev/null && echo ESCAPED || echo CONTAINED",
        ),
        contained=_held,
        limits=TREE,
    ),
    Escape("loop", "compute for ever", "while True: pass", stopped("cpu")),
    Escape(
        "loop_ignores_signals",
        "compute for ever, deaf to the first signal",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        stopped("cpu"),
    ),
    Escape("loop_in_c", "compute for ever inside one call", "sum(range(10**15))", stopped("cpu")),
    Escape(
        "regular_expression",
        "compute for ever in a regular expression",
        "import re\nre.match(r'(a+)+$', 'a' * 64 + 'b')",
        stopped("cpu"),
    ),
    Escape(
        "big_number",
        "compute for ever in one multiplication",
        "x = 10 ** (10 ** 9)\nprint('ESCAPED')",
        _held and (lambda done: "ESCAPED" not in done.stdout),
    ),
    Escape(
        "loop_in_children",
        "share out among children what one may not compute",
        """
import time
for _ in range(6):
    if os.fork() == 0:
        while True: pass
time.sleep(60)
""",
        stopped("cpu", "wall"),
        limits=TREE,
    ),
    Escape("sleep", "wait for ever", "import time\ntime.sleep(10**6)", stopped("wall"), limits=WAITING),
    Escape("read_stdin", "wait for input that never comes", "attempt(lambda: sys.stdin.read(), '')"),
    Escape(
        "one_large_file",
        "fill the disk with one file",
        "f = open('f', 'wb')\nattempt(lambda: [f.write(bytes(1 << 20)) for _ in range(1000)] and f.flush())",
        _held,
    ),
    Escape(
        "many_files",
        "fill the disk with many files",
        (
            "import time\nfor i in range(1000):\n    open(f'f{i}', 'wb').write(bytes(1 << 20))\n"
            "time.sleep(600)\nprint('ESCAPED')"
        ),
        stopped("disk"),
    ),
    Escape(
        "many_empty_files",
        "use the file system up with empty files",
        "import time\nfor i in range(200_000):\n    open(f'f{i}', 'w').close()\ntime.sleep(600)\nprint('ESCAPED')",
        stopped("disk", "cpu"),
    ),
    Escape(
        "many_folders",
        "use the file system up with folders",
        "import time\nfor i in range(200_000):\n    os.mkdir(f'd{i}')\ntime.sleep(600)\nprint('ESCAPED')",
        stopped("disk", "cpu"),
    ),
    Escape(
        "nameless_files",
        "fill the disk with files that have no name any more",
        (
            "import time\nkept = []\nfor i in range(100):\n"
            "    f = open('f', 'wb'); os.remove('f'); kept.append(f)\n"
            "    f.write(bytes(8 << 20)); f.flush()\ntime.sleep(600)\nprint('ESCAPED')"
        ),
        stopped("disk"),
    ),
    one(
        "allocate",
        "reserve disk without writing",
        "os.posix_fallocate(os.open('f', os.O_CREAT | os.O_RDWR), 0, 10 << 30)",
    ),
    Escape(
        "deep_folders",
        "make folders so deep that nobody can remove them",
        "for i in range(450):\n    os.mkdir('d'); os.chdir('d')\nprint('CONTAINED if the folder goes')",
    ),
    Escape(
        "closed_folders",
        "leave folders that nobody may enter",
        (
            "os.mkdir('closed'); os.mkdir('closed/inner'); os.umask(0)\nos.mkdir('none', 0)\n"
            "print('CONTAINED if the folder goes')"
        ),
    ),
    Escape(
        "odd_names",
        "leave names that are no text",
        (
            "open(b'\\xff\\xfe\\n', 'w').close(); os.mkdir(b'-rf'); os.mkdir(b'..\\x01')\n"
            "print('CONTAINED if the folder goes')"
        ),
    ),
    Escape(
        "output_flood", "drown the caller in output", "while True: sys.stdout.write('x' * 65536)", stopped("output")
    ),
    Escape(
        "output_flood_stderr",
        "drown the caller in errors",
        "while True: sys.stderr.write('x' * 65536)",
        stopped("output"),
    ),
    Escape(
        "output_flood_value", "drown the caller in results", "while True: os.write(3, b'x' * 65536)", stopped("output")
    ),
    Escape(
        "output_1_gb",
        "print 1 GB",
        "for _ in range(1024): sys.stdout.write('x' * (1 << 20))\nprint('ESCAPED')",
        stopped("output"),
    ),
    Escape(
        "large_value",
        "give a value that is larger than allowed",
        "x = 'x' * (8 << 20)",
        lambda done: not done.has_value,
        value="x",
    ),
    Escape(
        "deep_value",
        "give a value so deep that reading it overflows",
        "os.write(3, b'[' * 500_000)\nprint('CONTAINED')",
        lambda done: printed(done) and not done.has_value,
    ),
    Escape(
        "descriptors",
        "open files until the machine has none left",
        "n = []\nattempt(lambda: [n.append(os.open('/dev/null', 0)) for _ in range(5000)] and len(n))",
    ),
    Escape(
        "pipes",
        "hold memory in pipes",
        "n = []\nattempt(lambda: [n.append(os.pipe()) for _ in range(5000)] and len(n))",
    ),
    Escape(
        "larger_pipe",
        "make a pipe larger",
        "import fcntl\nr, w = os.pipe()\nattempt(lambda: fcntl.fcntl(w, 1031, 1 << 20))",
    ),
    Escape(
        "refusals",
        "keep the warden busy with refused calls",
        "import ctypes\nfor _ in range(10**7): libc.syscall(41, 2, 1, 0)\nprint('ESCAPED')",
        stopped("refusals"),
    ),
    Escape(
        "timers",
        "hold the kernel's timers",
        "import signal\nfor _ in range(100_000): call(222, 0, None, (ctypes.c_char * 8)())\nprint('ESCAPED')",
        lambda done: done.exit_code != 0 or done.stopped is not None,
    ),
)
