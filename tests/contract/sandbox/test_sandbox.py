"""What every sandbox does with honest programs, and with limits."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from kubegym.sandbox import Limits, Sandbox
from kubegym.sandbox.errors import InvalidExecution, SandboxLost
from testbed.required import unavailable


async def test_a_program(sandbox: Sandbox) -> None:
    done = await sandbox.run(
        "import sys, numpy as np\nprint(np.arange(int(input())).sum())\nprint('err', file=sys.stderr)", stdin="5\n"
    )
    assert (done.stdout, done.stderr, done.exit_code, done.ok) == ("10\n", "err\n", 0, True)
    assert (done.has_value, done.stopped, done.signal, done.cut, done.refused) == (False, None, None, False, ())


async def test_a_value_is_data(sandbox: Sandbox) -> None:
    done = await sandbox.run("def f(x): return {'twice': [x, x]}", value="f(3)")
    assert (done.value, done.has_value) == ({"twice": [3, 3]}, True)
    assert not (await sandbox.run("x = object()", value="x")).has_value
    assert not (await sandbox.run("import sys; sys.exit(0)", value="1")).has_value


async def test_files_go_in_and_come_out(sandbox: Sandbox) -> None:
    done = await sandbox.run(
        "import pkg.mod\nopen('out.bin', 'wb').write(pkg.mod.DATA + open('in.bin', 'rb').read())",
        files={"pkg/mod.py": "DATA = b'\\x00'", "in.bin": b"\xff"},
        collect=["out.bin", "absent"],
    )
    assert done.files == {"out.bin": b"\x00\xff"}, done.stderr


async def test_a_traceback_names_the_line(sandbox: Sandbox) -> None:
    done = await sandbox.run("x = 1\nraise ValueError('no')")
    assert done.exit_code == 1
    assert 'File "program.py", line 2' in done.stderr
    assert "raise ValueError('no')" in done.stderr
    assert "child.py" not in done.stderr


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("import sys; sys.exit(3)", 3), ("import sys; sys.exit('words')", 1), ("import os; os._exit(9)", 9), ("1 +", 1)],
)
async def test_exit_codes(sandbox: Sandbox, code: str, exit_code: int) -> None:
    assert (await sandbox.run(code)).exit_code == exit_code


async def test_exit_as_an_interpreter_does_it(sandbox: Sandbox) -> None:
    code = "import atexit, threading, time\natexit.register(print, 'hook')\n"
    code += "threading.Thread(target=lambda: (time.sleep(0.05), print('thread'))).start()\nprint('main')"
    assert (await sandbox.run(code)).stdout == "main\nthread\nhook\n"


async def test_large_input_and_output(sandbox: Sandbox) -> None:
    text = "x" * 3_000_000
    done = await sandbox.run(
        "import sys\nsys.stdout.write(sys.stdin.read())", stdin=text, limits=Limits(output_bytes=4 << 20)
    )
    assert done.stdout == text
    done = await sandbox.run(
        "import sys\nsys.stdout.write(sys.stdin.read())", stdin=text, limits=Limits(output_bytes=1000)
    )
    assert (done.stdout, done.cut, done.exit_code) == ("x" * 1000, True, 0)


async def test_fresh_every_time(sandbox: Sandbox) -> None:
    await sandbox.run("import json, os\njson.left = 1\nopen('left', 'w').close()\nos.environ['LEFT'] = '1'")
    code = "import json, os\nprint(hasattr(json, 'left'), os.listdir('.'), 'LEFT' in os.environ)"
    assert {(await sandbox.run(code)).stdout for _ in range(4)} == {"False [] False\n"}


async def test_random_numbers_differ(sandbox: Sandbox) -> None:
    code = "import random, numpy\nprint(random.random(), numpy.random.rand(), numpy.random.default_rng().random())"
    drawn = [(await sandbox.run(code)).stdout.split() for _ in range(3)]
    assert [len(set(column)) for column in zip(*drawn, strict=True)] == [3, 3, 3]


async def test_many_at_once(sandbox: Sandbox) -> None:
    done = await asyncio.gather(*(sandbox.run(f"print({n} * {n})") for n in range(20)))
    assert [each.stdout for each in done] == [f"{n * n}\n" for n in range(20)]


@pytest.mark.parametrize(
    ("code", "limits", "stopped"),
    [
        ("while True: pass", Limits(cpu_seconds=0.2), "cpu"),
        ("import time; time.sleep(60)", Limits(wall_seconds=0.2), "wall"),
        ("while True: print('x' * 100_000)", Limits(output_bytes=1000), "output"),
        (
            "for n in range(100): open(str(n), 'wb').write(bytes(1 << 20))\nimport time; time.sleep(600)",
            Limits(disk_bytes=5 << 20, wall_seconds=120),
            "disk",
        ),
    ],
)
async def test_limits(sandbox: Sandbox, code: str, limits: Limits, stopped: str) -> None:
    done = await sandbox.run(code, limits=limits)
    assert (done.stopped, done.ok) == (stopped, False), done


async def test_limits_that_the_program_meets_itself(sandbox: Sandbox) -> None:
    done = await sandbox.run("bytearray(600 << 20)", limits=Limits(memory_bytes=100 << 20))
    assert "MemoryError" in done.stderr
    done = await sandbox.run("open('f', 'wb').write(bytes(2 << 20))", limits=Limits(file_bytes=1 << 20))
    assert "File too large" in done.stderr
    done = await sandbox.run("import os; os.fork()")
    assert "Operation not permitted" in done.stderr
    assert done.refused == ("clone",)


async def test_processes_by_leave(sandbox: Sandbox) -> None:
    code = "import subprocess\nprint(subprocess.run(['echo', 'from a shell'], capture_output=True, text=True).stdout)"
    done = await sandbox.run(code, limits=Limits(processes=4))
    assert done.stdout == "from a shell\n\n", done.stderr


async def test_another_program(sandbox: Sandbox) -> None:
    done = await sandbox.run(argv=["sh", "-c", "cat; echo $0 >&2; exit 7"], stdin="in", limits=Limits(processes=2))
    assert (done.stdout, done.stderr, done.exit_code) == ("in", "sh\n", 7)
    assert (await sandbox.run(argv=["no-such-program"])).exit_code == 127


async def test_a_compiler(sandbox: Sandbox) -> None:
    if shutil.which("cc") is None:
        unavailable("no C compiler here")
    source = '#include <stdio.h>\nint main(void) { puts("compiled"); return 0; }\n'
    done = await sandbox.run(
        argv=["sh", "-c", "cc -o p p.c && ./p"], files={"p.c": source}, limits=Limits(processes=16)
    )
    assert done.stdout == "compiled\n", done


async def test_what_cannot_be_run(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidExecution, match="relative path"):
        await sandbox.run("1", files={"/etc/passwd": "x"})
    with pytest.raises(InvalidExecution, match="code or argv"):
        await sandbox.run()


async def test_a_session_keeps_its_globals(sandbox: Sandbox) -> None:
    async with sandbox.session(files={"data": "7"}) as session:
        await session.run("x = int(open('data').read())")
        done = await session.run("x += 1\nprint('now', x)", value="x")
        assert (done.stdout, done.value, done.exit_code) == ("now 8\n", 8, 0)
        done = await session.run("raise ValueError")
        assert (done.exit_code, done.stderr.splitlines()[-1]) == (1, "ValueError")
        assert (await session.run("", value="x")).value == 8


async def test_a_session_that_was_stopped_says_so(sandbox: Sandbox) -> None:
    async with sandbox.session(limits=Limits(wall_seconds=0.5)) as session:
        assert (await session.run("import time; time.sleep(60)")).stopped == "wall"
        with pytest.raises(SandboxLost) as raised:
            await session.run("1")
        assert not raised.value.retryable


async def test_a_session_lasts_longer_than_a_call_may(sandbox: Sandbox) -> None:
    async with sandbox.session(limits=Limits(wall_seconds=1.0)) as session:
        await session.run("x = 1")
        assert (await sandbox.run("import time; time.sleep(1.5)")).ok
        assert (await session.run("", value="x")).value == 1


async def test_a_session_that_ended_itself(sandbox: Sandbox) -> None:
    async with sandbox.session() as session:
        done = await session.run("import os; os._exit(5)")
        assert (done.exit_code, done.stopped) == (5, None)


async def test_sessions_do_not_meet(sandbox: Sandbox) -> None:
    async with sandbox.session() as one, sandbox.session() as two:
        await one.run("x = 1")
        assert (await two.run("", value="'x' in globals()")).value is False
        assert (await one.run("", value="x")).value == 1
        flood = await one.run("import sys\nfor _ in range(40): sys.stdout.write('y' * (1 << 20))")
        assert flood.stopped == "output"
        assert (await two.run("", value="1 + 1")).value == 2
