"""Offloaded methods: real processes that compute, hang, die and answer."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from kubegym import offload
from kubegym.core.errors import AgentError, ToolFailed, VerifierError
from kubegym.core.messages import Turn
from kubegym.core.protocols import Assignment
from kubegym.core.trajectory import Rollout
from kubegym.resources import EnvironmentRuntime, LocalSession, load_environment
from kubegym.resources.limits import CpuTimeExceeded, ProcessDied, WallTimeExceeded
from kubegym.resources.offload import OffloadPool

APP = """
    import os, time
    from kubegym import Environment, Model, Row, ToolError, Verdict, VerifierError, offload, tool
    from .grading import grade

    class Local(Exception):
        def __init__(self, a, b):
            super().__init__(f"{a} {b}")

    class Heavy(Environment):
        class Config(Model):
            bonus: float = 0.0
        class Task(Row):
            kind: str = "fine"
            expected: int = 0

        @classmethod
        def setup(cls, config):
            return lambda: "cannot be pickled"

        def seed(self):
            self.seen = [self.rng.random()]
            self.drawn = self.rng.random()

        @staticmethod
        @offload
        def double(n):
            return 2 * n

        @classmethod
        @offload
        def name(cls):
            return cls.__name__

        @tool
        @offload(cpu_seconds=0.2)
        def work(self, n: int) -> dict:
            self.lost = True
            return self._do(n)

        @tool
        async def both(self) -> list:
            same = await self.again() == self.rng.random()
            return [await self.double(21), await self.name(), hasattr(self, "lost"), same]

        @offload
        def again(self):
            return self.rng.random()

        @offload(cpu_seconds=0.2)
        def respond(self, turn):
            return self._do(0)

        @offload(cpu_seconds=0.2)
        def verify(self, rollout):
            result = self._do(self.task.expected)
            return Verdict(grade(rollout.final_text) + self.config.bonus, fields=result)

        def _do(self, n):
            match self.task.kind:
                case "crash": raise ZeroDivisionError("by zero")
                case "custom": raise Local(1, 2)
                case "refuse": raise ToolError("no")
                case "trouble": raise VerifierError("down", reason="GraderDown", retryable=True)
                case "die": os._exit(3)
                case "kill": os.kill(os.getpid(), 9)
                case "spin":
                    while True: pass
                case "shared": return self.shared
                case "lambda": return lambda: 0
            return {"n": n, "pid": os.getpid(), "seen": len(self.seen)}
"""
GRADING = """
    def grade(text):
        return float(text == "right")
"""


@pytest.fixture
async def heavy(folder: Any) -> AsyncIterator[EnvironmentRuntime]:
    loaded = load_environment(folder(APP, "heavy", grading=GRADING))
    runtime = EnvironmentRuntime(loaded.cls, {"bonus": 0.5})
    await runtime.start()
    yield runtime
    await runtime.close()


async def session(runtime: EnvironmentRuntime, **row: Any) -> LocalSession:
    row["responses_create_params"] = {"input": "?"}
    opened = runtime.session(Assignment("e", row, "task", 0, 0, "0-0-0"))
    await opened.seed()
    return opened


def rollout(text: str) -> Rollout:
    return Rollout([], [{"type": "message", "role": "assistant", "content": text}], "completed", {})


async def test_a_verdict_from_another_process(heavy: EnvironmentRuntime) -> None:
    verdict = await (await session(heavy, expected=7)).verify(rollout("right"))
    assert verdict.reward == 1.5
    assert (verdict.fields["n"], verdict.fields["seen"]) == (7, 1)
    assert verdict.fields["pid"] != os.getpid()


async def test_functions_classmethods_and_random_state(heavy: EnvironmentRuntime) -> None:
    opened = await session(heavy)
    assert await opened.call_tool("work", {"n": 1}) != ""
    assert await opened.call_tool("both", {}) == '[42,"Heavy",false,true]'


FAILURES = [
    ("crash", "ToolCrashed", "VerifierCrashed"),
    ("custom", "ToolCrashed", "VerifierCrashed"),
    ("die", "ToolCrashed", "VerifierCrashed"),
    ("kill", "ToolCrashed", "VerifierCrashed"),
    ("spin", "ToolTimeout", "VerifierTimeout"),
    ("shared", "ToolCrashed", "VerifierCrashed"),
    ("lambda", "ToolCrashed", "VerifierCrashed"),
]


@pytest.mark.parametrize(("kind", "tool", "verifier"), FAILURES, ids=[row[0] for row in FAILURES])
async def test_failures(heavy: EnvironmentRuntime, kind: str, tool: str, verifier: str) -> None:
    opened = await session(heavy, kind=kind)
    with pytest.raises(ToolFailed) as broken:
        await opened.call_tool("work", {"n": 1})
    assert (broken.value.reason, broken.value.retryable) in ended(tool)
    with pytest.raises(VerifierError) as unscored:
        await opened.verify(rollout("right"))
    assert (unscored.value.reason, unscored.value.retryable) in ended(verifier)


def ended(reason: str) -> list[tuple[str, bool]]:
    """A failure of that reason; what computes for ever may get no processor on a busy machine, and then it says so."""
    starved = [(reason.replace("Timeout", "Starved"), True)] if reason.endswith("Timeout") else []
    return [(reason, False), *starved]


async def test_errors_cross_the_process_border(heavy: EnvironmentRuntime) -> None:
    assert await (await session(heavy, kind="refuse")).call_tool("work", {"n": 1}) == "no"
    with pytest.raises(VerifierError, match="down") as trouble:
        await (await session(heavy, kind="trouble")).verify(rollout(""))
    assert (trouble.value.reason, trouble.value.retryable) == ("GraderDown", True)
    with pytest.raises(AgentError, match=r"ZeroDivisionError: by zero \(.*app.py:\d+ in _do\)"):
        await (await session(heavy, kind="crash")).respond(Turn(0, "", []))
    with pytest.raises(ToolFailed, match="Local: 1 2"):
        await (await session(heavy, kind="custom")).call_tool("work", {"n": 1})
    with pytest.raises(ToolFailed, match=r"self\.shared is not available in an @offload method"):
        await (await session(heavy, kind="shared")).call_tool("work", {"n": 1})
    with pytest.raises(ToolFailed, match="signal SIGKILL"):
        await (await session(heavy, kind="kill")).call_tool("work", {"n": 1})


async def test_waiting_is_not_computing() -> None:
    pool = OffloadPool(1)
    with pytest.raises(WallTimeExceeded, match="computed for less than"):
        await pool.run("time", "sleep", (600,), {}, 0.05)
    pool.close()


@pytest.fixture
def crowded() -> Iterator[str]:
    """Code that computes for ever on one processor, on which six others do so, too."""
    core = min(os.sched_getaffinity(0))
    compute = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    rivals = [subprocess.Popen([sys.executable, "-c", compute], start_new_session=True) for _ in range(6)]
    yield compute
    for rival in rivals:
        rival.kill()
        rival.wait()


async def test_starving_is_not_waiting(crowded: str) -> None:
    """It gets less than a quarter of the processor, and is stopped for what it computed all the same."""
    pool = OffloadPool(1)
    with pytest.raises(CpuTimeExceeded):
        await pool.run("builtins", "exec", (crowded,), {}, 0.2)
    pool.close()


async def test_cancelling_kills_the_process_and_frees_its_place() -> None:
    pool = OffloadPool(1)
    task = asyncio.ensure_future(pool.run("time", "sleep", (600,), {}, 600.0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await pool.run("operator", "add", (1, 2), {}, 5.0) == 3
    pool.close()


async def test_a_process_that_died_idle_is_replaced() -> None:
    pool = OffloadPool(1)
    with pytest.raises(ProcessDied, match="exit code 5"):
        await pool.run("os", "_exit", (5,), {}, 5.0)
    assert await pool.run("operator", "add", (1, 2), {}, 5.0) == 3
    process = pool._idle.get_nowait()
    process._popen.kill()
    process._popen.wait()
    pool._idle.put(process)
    assert await pool.run("operator", "add", (2, 2), {}, 5.0) == 4
    pool.close()


async def test_what_cannot_be_offloaded_says_so() -> None:
    @offload
    def inner() -> None: ...

    with pytest.raises(TypeError, match="define it in a module"):
        await inner()
    pool = OffloadPool(1)
    with pytest.raises(TypeError, match="cannot send add its arguments"):
        await pool.run("operator", "add", (lambda: 0,), {}, 1.0)
    with pytest.raises(ModuleNotFoundError):
        await pool.run("no_such_module", "add", (), {}, 1.0)
    pool.close()
    with pytest.raises(TypeError, match="is async"):

        @offload
        async def work() -> None: ...
