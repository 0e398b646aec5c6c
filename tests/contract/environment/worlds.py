"""Environments of the contract suite: each hook in its sync and async form, well behaved and not.

They live in a module of their own so that another process can import them.
"""

from __future__ import annotations

import asyncio
import math
import sys
from typing import Any, ClassVar

from kubegym import Done, Environment, Message, Model, Rollout, Row, ToolError, Turn, Verdict, VerifierError, tool
from kubegym.core.errors import ModelError


class Counter(Environment):
    """A counter with state, a bounded argument and a refusal."""

    class Config(Model):
        step: int = 1

    class Task(Row):
        initial: int
        expected: int

    def seed(self) -> list[Message]:
        self.value = self.task.initial
        return [Message.user(f"The counter is at {self.value}.")]

    @tool
    def increment(self, count: int) -> dict[str, int]:
        """Add to the counter."""
        if count < 0:
            raise ToolError("count must not be negative")
        self.value += count * self.config.step
        return {"value": self.value}

    @tool(parallel=True)
    async def read(self) -> int:
        """Read the counter."""
        await asyncio.sleep(0)
        return self.value

    def verify(self, rollout: Rollout) -> Verdict:
        return Verdict(
            float(self.value == self.task.expected), fields={"value": self.value, "text": rollout.final_text}
        )


class Stateless(Environment):
    """Needs its ``__init__``, not its ``seed``."""

    stateless_verify = True

    def __init__(self) -> None:
        self.wanted = self.task.expected

    def verify(self, rollout: Rollout) -> Verdict:
        return Verdict(float(rollout.final_text == self.wanted))


class Guess(Environment):
    """Several turns."""

    async def respond(self, turn: Turn) -> Message | Done:
        return Done() if turn.text == "stop" else Message.user(f"{turn.index}: not {turn.text}")

    async def verify(self, rollout: Rollout) -> Verdict:
        return Verdict(None)


class Everything(Environment):
    """A catch-all, results of every kind."""

    RESULTS: ClassVar[dict[str, Any]] = {
        "text": "plain",
        "json": '"quoted"',
        "none": None,
        "number": 2**70,
        "nested": {"a": [1, {"b": None}]},
        "unicode": "a\ud800b",
        "model": Counter.Config(step=3),
    }

    @tool(catch_all=True)
    def anything(self, name: str, arguments: dict[str, Any]) -> Any:
        return self.RESULTS.get(name, {"name": name, "arguments": arguments})

    def verify(self, rollout: Rollout) -> Verdict:
        return Verdict(1.0)


class Trouble(Environment):
    """Goes wrong as its row says; ``kind`` names how."""

    class Task(Row):
        kind: str = "fine"

    def seed(self) -> None:
        if self.task.kind == "seed":
            raise KeyError("lost")

    @tool
    async def act(self) -> Any:
        """Do something that fails."""
        return await self._trouble()

    async def respond(self, turn: Turn) -> Any:
        return await self._trouble()

    async def verify(self, rollout: Rollout) -> Any:
        return await self._trouble()

    def close(self) -> None:
        if self.task.kind == "close":
            raise RuntimeError("cannot close")

    async def _trouble(self) -> Any:
        match self.task.kind:
            case "crash":
                raise ZeroDivisionError("by zero")
            case "refused":
                raise ConnectionRefusedError("connection refused")
            case "timeout":
                raise TimeoutError("upstream")
            case "file":
                raise FileNotFoundError("no such file")
            case "exit":
                sys.exit(7)
            case "cancel":
                raise asyncio.CancelledError
            case "hang":
                await asyncio.sleep(1e9)
            case "number":
                return 1.0
            case "nan":
                return Verdict(math.nan)
            case "keyword":
                return Verdict(1.0, reason="x")  # type: ignore[call-arg]
            case "reserved":
                return Verdict(1.0, fields={"response": 1})
            case "fields":
                return Verdict(1.0, fields={"x": object()})
            case "trouble":
                raise VerifierError("the grader is down", reason="GraderDown", retryable=True)
            case "model":
                raise ModelError("no judge", reason="EndpointUnreachable", retryable=True)
            case "huge":
                return "x" * 10_000_000
            case "bytes":
                return b"bytes"
        return None


class Judged(Environment):
    """Asks a judge."""

    async def verify(self, rollout: Rollout) -> Verdict:
        answer = await self.models.judge(f"Right? {rollout.final_text}", temperature=0.0)
        return Verdict(float(answer.text == "yes"))


class Drawn(Environment):
    """Shows its random numbers."""

    @tool
    def draw(self) -> list[int]:
        """Draw a number for the rollout and one for the task."""
        return [self.rng.randrange(10**9), self.task_rng.randrange(10**9)]

    def verify(self, rollout: Rollout) -> Verdict:
        return Verdict(0.0)
