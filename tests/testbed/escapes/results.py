"""Results: a verdict that the program did not earn, and code that runs where the verdict is made."""

from __future__ import annotations

import math

from kubegym.sandbox.protocol import Execution
from testbed.escapes.program import Escape, one, printed

HIJACK = "print('ESCAPED: imported'); raise SystemExit('ESCAPED')"


def _no_value(execution: Execution) -> bool:
    return not execution.has_value and "ESCAPED" not in execution.stdout


ESCAPES = (
    Escape("exit_zero", "leave with success before the check", "sys.exit(0)", _no_value, value="1/0"),
    Escape("hard_exit_zero", "leave with success past everything", "os._exit(0)", _no_value, value="check()"),
    Escape(
        "exit_hook",
        "leave with success while ending",
        "import atexit\natexit.register(os._exit, 0)\nraise ValueError",
        lambda done: not done.has_value,
        value="1",
    ),
    Escape(
        "kill_itself",
        "end itself, to look like the machine's fault",
        "os.kill(os.getpid(), 9)",
        lambda done: done.signal == 9 and done.stopped is None,
        value="1",
    ),
    Escape(
        "fail_the_sandbox",
        "look as if the sandbox had failed, to be tried again",
        "os.write(2, b'kubegym sandbox: OSError: no'); os._exit(125)",
        lambda done: done.exit_code == 125,
        value="1",
    ),
    Escape(
        "pickle_value",
        "send an object that runs when it is read",
        (
            "import pickle\nclass X:\n"
            "    def __reduce__(self): return (os.system, ('touch /tmp/escaped-pickle',))\n"
            "os.write(3, pickle.dumps(X()))\nprint('CONTAINED')"
        ),
        lambda done: printed(done) and not done.has_value,
    ),
    Escape(
        "object_value",
        "give a value that is no data",
        "class X: pass\nx = X()\nprint('CONTAINED')",
        _no_value,
        value="x",
    ),
    Escape(
        "infinite_value", "give a number that is none", "x = float('nan')\nprint('CONTAINED')", _no_value, value="x"
    ),
    Escape(
        "surrogate_value",
        "give text that is none",
        "x = '\\ud800'\nprint('CONTAINED')",
        lambda done: printed(done) and (not done.has_value or done.value != 1),
        value="x",
    ),
    Escape(
        "stdout_value", "print what a result looks like", "print('{\"passed\": true}'); print('CONTAINED')", _no_value
    ),
    Escape(
        "lying_equality",
        "give a value that is equal to everything",
        "class E(int):\n    def __eq__(self, other): return True\nx = E(1)",
        lambda done: done.value == 1 and done.value != 42,
        value="x",
    ),
    Escape(
        "patch_json",
        "change the library that writes its value",
        "json.dumps = lambda *a, **k: 'true'",
        lambda done: done.value in (True, 5),
        value="2 + 3",
    ),
    Escape(
        "patch_grader",
        "change the grader in its interpreter",
        "import builtins\nbuiltins.eval = lambda *a: 'patched'\nsys.modules['kubegym'] = None",
        lambda done: done.value in ("patched", 5),
        value="2 + 3",
    ),
    one(
        "grader_modules",
        "find the sandbox's or the grader's modules",
        "[n for n in sys.modules if n.startswith('kubegym')]",
        "[]",
    ),
    one("grader_import", "import the grader", "__import__('kubegym.resources')"),
    Escape(
        "walk_objects",
        "find answers among the interpreter's objects",
        (
            "import gc\n"
            "found = [o for o in gc.get_objects() if isinstance(o, dict) and 'secret-answer' in o]\n"
            "attempt(lambda: found, [])"
        ),
    ),
    Escape(
        "walk_frames",
        "find answers in the frames that called it",
        (
            "f = sys._getframe()\nseen = []\nwhile f:\n"
            "    seen.append(repr(sorted(f.f_locals))); f = f.f_back\n"
            "attempt(lambda: any(WORLD['secret'] in s for s in seen), False)"
        ),
    ),
    Escape(
        "search_memory",
        "find what earlier programs left in the memory that it inherits",
        """
import re
maps = []
try:
    maps = open("/proc/self/maps").read().splitlines()
except OSError:
    pass
needle = re.compile(rb"(?:l.ft-beh.nd-by-.nother-progr.m){2}")  # does not match itself
# The heap around a fresh object, as far as it is mapped; write(2) says so without a crash.
start = id(bytearray(8)) & ~0xFFFFF
found = False
r, w = os.pipe()
for page in range(start - (4 << 20), start + (4 << 20), 4096):
    if libc.write(w, ctypes.c_void_p(page), 4096) == 4096 and needle.search(os.read(r, 4096)):
        found = True
attempt(lambda: found, False)
""",
        before=(
            "x = ['left-behind-by-another-program' * 10 for _ in range(1000)]\nprint(x[0])\n"
            "open('left', 'w').write(x[0])"
        ),
    ),
    Escape(
        "left_files",
        "find what the program before left in the folder",
        "attempt(lambda: sorted(set(os.listdir('.')) - {'world.json'}), [])",
        before="open('left', 'w').write('x')",
    ),
    Escape(
        "left_modules",
        "find modules that the program before changed",
        "attempt(lambda: getattr(json, 'left', None), None)",
        before="import json\njson.left = 1",
    ),
    Escape(
        "random_numbers",
        "foresee the numbers that others draw",
        "import random\nimport numpy\nprint('CONTAINED', random.random(), numpy.random.rand())",
        before="import numpy\nnumpy.random.seed(0)",
    ),
    one(
        "environment",
        "find secrets in the environment",
        "[v for v in os.environ.values() if WORLD['secret'] in v]",
        "[]",
    ),
    one("c_environment", "find secrets in the environment that C sees", "libc.getenv(b'KUBEGYM_ESCAPE_SECRET')", "0"),
    one(
        "descriptors_open",
        "find open files of others",
        "[n for n in range(3, 500) if n > 3 and not _closed(n)]",
        "[]",
        setup="def _closed(n):\n    try: os.fstat(n)\n    except OSError: return True\n    return False",
    ),
    one(
        "descriptors_high",
        "find open files of others at high numbers",
        "[n for n in range(500, 4096) if _usable(n)]",
        "[]",
        setup="def _usable(n):\n    try: os.read(n, 1)\n    except OSError: return False\n    return True",
    ),
    one(
        "climb_from_descriptor",
        "climb out from a folder that was left open",
        "[n for n in range(3, 4096) if _up(n)]",
        "[]",
        setup=(
            "def _up(n):\n"
            "    try: return bool(os.listdir(n)) and os.open('../../../../../../etc/shadow', os.O_RDONLY, "
            "dir_fd=n)\n    except OSError: return False"
        ),
    ),
    one("arguments", "learn from its command line who started it", "sys.argv", "['program.py']"),
    Escape(
        "import_hijack",
        "run when somebody imports json in its folder",
        "print('CONTAINED')",
        files={"json.py": HIJACK, "numpy.py": HIJACK, "os.py": HIJACK, "linecache.py": HIJACK},
        value="1",
    ),
    Escape(
        "sitecustomize",
        "run when an interpreter starts in its folder",
        argv=("python3", "-c", "print('CONTAINED')"),
        contained=lambda done: "CONTAINED" in done.stdout or done.exit_code in (126, 127),
        files={"sitecustomize.py": "print('harmless: inside')", "pythonpath.pth": "import os"},
    ),
    Escape(
        "locale",
        "change the language in which others read and write",
        "import locale\nlocale.setlocale(locale.LC_ALL, 'C')\nos.environ['LANG'] = 'xx'\nprint('CONTAINED')",
    ),
    Escape(
        "encoding",
        "write bytes that are no text",
        "sys.stdout.buffer.write(bytes(range(256))); sys.stdout.flush(); print('\\nCONTAINED')",
    ),
    Escape("terminal_codes", "write to the reader's terminal", "print('\\x1b]52;c;ZXNjYXBlZA==\\x07CONTAINED')"),
    Escape(
        "overwrite_tests",
        "overwrite the tests it is measured by",
        "open('test_program.py', 'w').write('def test(): pass')\nprint('CONTAINED')",
        lambda done: printed(done) and done.files["test_program.py"] != b"",
        files={"test_program.py": "def test(): assert False"},
        collect=("test_program.py",),
    ),
    Escape(
        "fake_time",
        "look faster than it is",
        (
            "import time\nspent = time.process_time\ntime.process_time = lambda: 0.0\n"
            "while spent() < 0.4: pass\nprint('CONTAINED')"
        ),
        lambda done: printed(done) and done.cpu_seconds > 0.05 and math.isfinite(done.cpu_seconds),
    ),
    Escape(
        "close_output",
        "close its output, so that nobody sees an end",
        "os.close(1); os.close(2)\nimport time; time.sleep(0.1)",
        lambda done: done.exit_code is not None,
    ),
    Escape(
        "recursion",
        "crash the interpreter by recursion",
        "sys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        lambda done: done.signal == 11 or done.exit_code == 1 or done.stopped is not None,
    ),
    Escape("crash", "crash the interpreter", "ctypes.string_at(0)", lambda done: done.signal == 11),
    Escape(
        "exit_code_large",
        "leave with a code that wraps to success",
        "sys.exit(256 * 3)",
        lambda done: not done.has_value,
        value="1",
    ),
    Escape("exit_text", "leave with a text", "sys.exit('no')", lambda done: done.exit_code == 1),
)
