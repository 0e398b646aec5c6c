"""Mathematics with Python at hand: a sandbox session that keeps its variables from call to call."""

from __future__ import annotations

import contextlib
import json
from contextlib import AsyncExitStack
from typing import Any, Literal

from kubegym import Environment, Model, Rollout, Row, Verdict, tool
from kubegym.sandbox import Execution, Limits, SandboxLost, SandboxSession
from kubegym.verify.numbers import close, number
from kubegym.verify.text import assistant_texts, boxed, peeled, undelimited

_PRELUDE = "import math\ntry:\n    import numpy\n    import numpy as np\nexcept ImportError:\n    pass\n"
_STATEMENTS = ("print", "import", "from", "def", "class", "if", "for", "while", "try", "with")


class MathWithCode(Environment):
    r"""A problem with one expected result, which is given in ``\boxed{}``; a Python session as a tool."""

    version = "0.1.0"
    stateless_verify = True
    answer_key = "extracted_answer"

    class Config(Model):
        """``max_execution_time``: seconds for a call. ``session_cpu_seconds``: CPU time for all calls of a session."""

        parity: Literal["nemo-gym"] | None = None
        max_execution_time: float = 10.0
        session_cpu_seconds: float = 60.0

    class Task(Row):
        """A row. ``solution`` is a program that prints the result, for the oracle."""

        expected_result: str
        solution: str = ""

        def model_post_init(self, _context: Any) -> None:
            """Refuse a row whose result is empty. Raises ValueError."""
            if not self.expected_result.strip():
                raise ValueError("expected_result is empty: no answer could be right")

    def __init__(self) -> None:
        self._open = AsyncExitStack()
        self._session: SandboxSession | None = None

    @tool
    async def execute_python(self, code: str) -> dict[str, Any]:
        """Execute Python code. Variables are kept for later calls; numpy is there as np. Print what you want to see.

        Args:
            code: The code.
        """
        try:
            session = self._session or await self._begin()
            done = await session.run(code)
        except SandboxLost as lost:
            if lost.retryable:
                raise
            session = await self._begin()  # an earlier call ended it, as os._exit does
            done = await session.run(code)
        value = None
        if done.ok and (expression := _last_expression(code)):
            again = await session.run("", value=f"str({expression})")
            value, done = again.value if again.has_value else None, done if again.stopped is None else again
        if done.stopped is not None or done.signal is not None:
            await self.close()
        return _told(done, value)

    async def _begin(self) -> SandboxSession:
        await self.close()
        limits = Limits(cpu_seconds=self.config.session_cpu_seconds, wall_seconds=self.config.max_execution_time)
        self._session = await self._open.enter_async_context(self.sandbox.session(limits=limits))
        await self._session.run(_PRELUDE)
        return self._session

    @tool
    async def end_session(self) -> dict[str, Any]:
        """End the Python session; the next call begins a new one."""
        await self.close()
        return _told(Execution(exit_code=0), None)

    async def close(self) -> None:
        """End the session's program."""
        self._session = None
        await self._open.aclose()

    def verify(self, rollout: Rollout) -> Verdict:
        """1 if the result in the last box is the expected one, as text or as a number; else 0."""
        lenient = self.config.parity is not None
        answer = boxed(rollout.final_text)
        if lenient:
            outputs = [item["output"] for item in rollout.output if item.get("type") == "function_call_output"]
            said = [*map(_printed, outputs), *assistant_texts(rollout.output)]
            answer = next((box for box in map(boxed, reversed(said)) if box), None)
        right = answer is not None and equal(answer, self.task.expected_result, lenient=lenient)
        return Verdict(float(right), fields={"extracted_answer": answer or None, "accuracy": right})

    @classmethod
    def oracle(cls, task: Task) -> list[Any]:
        """Run the solution, then box the result."""
        call = {"name": "execute_python", "arguments": {"code": task.solution or f"print({task.expected_result!r})"}}
        return [call, f"\\boxed{{{task.expected_result}}}"]

    @classmethod
    def cheats(cls, task: Task) -> dict[str, str | list[Any]]:
        """A box that code prints, and many boxes."""
        return {
            "a printed box": [{"name": "execute_python", "arguments": {"code": "print('\\\\boxed{1}')"}}, "See above."],
            "many boxes": " ".join(f"\\boxed{{{guess}}}" for guess in range(200)),
        }


def equal(answer: str, expected: str, *, lenient: bool = False) -> bool:
    """The same text, delimiters and spacing aside, or a number within 1e-6 of the expected one (``lenient``: of 1)."""
    given, right = (" ".join(peeled(undelimited(text)).split()) for text in (answer, expected))
    if given == right:
        return True
    if not lenient:
        wanted = number(right)
        return wanted is not None and close(number(given), wanted)
    with contextlib.suppress(ValueError, OverflowError):
        return abs(float(given) - float(right)) < 1e-6 * max(1.0, abs(float(right)))
    return False


def _told(done: Execution, value: Any) -> dict[str, Any]:
    error = None
    if done.stopped is not None:
        error = f"stopped by its limit: {done.stopped}; the session's variables are lost"
    elif not done.ok:
        error = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.exit_code}"
    return {
        "success": done.ok, "stdout": done.stdout, "stderr": done.stderr, "error_message": error, "result": value
    }  # fmt: skip


def _last_expression(code: str) -> str | None:
    """The last line, where it is an expression whose value a notebook would show."""
    line = code.strip().rpartition("\n")[2].strip()
    if not line or line.startswith(_STATEMENTS):
        return None
    try:
        compile(line, "line", "eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return line


def _printed(output: Any) -> str:
    """What a call printed: ``stdout`` of its output, or all of it."""
    try:
        told = json.loads(output)
    except (TypeError, ValueError):
        return str(output)
    return str(told.get("stdout") or "") if isinstance(told, dict) else str(output)
