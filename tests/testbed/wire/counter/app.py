"""A counter for one rollout, and every way in which a session can go well or wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Literal

from kubegym import Done, Environment, Message, Rollout, Row, ToolError, Turn, Verdict, VerifierError, tool


class Counter(Environment):
    """The counter starts at ``initial_count`` and must end at ``expected_count``; ``turns`` messages are answered."""

    version = "1"

    class Task(Row):
        """A row. ``verdict`` says how ``verify`` ends."""

        initial_count: int = 0
        expected_count: int = 0
        turns: int = 0
        verdict: Literal["score", "components", "decline", "crash", "busy"] = "score"

    def seed(self) -> None:
        """Start the counter."""
        self.count = self.task.initial_count

    @tool
    def increment_counter(self, count: int) -> dict[str, Any]:
        """Increase the counter by a number."""
        self.count += count
        return {"success": True, "note": None}

    @tool
    def get_counter_value(self) -> str:
        """Read the counter."""
        return str(self.count)

    @tool
    def refuse(self) -> str:
        """Refuse, in words for the model."""
        raise ToolError("the counter is locked")

    @tool
    def crash(self) -> str:
        """Fail as code fails."""
        self.count += 1
        raise RuntimeError("no such table")

    @tool
    async def wait(self, seconds: float) -> str:
        """Answer late."""
        await asyncio.sleep(seconds)
        return "late"

    @tool
    async def wait_for(self, path: str) -> str:
        """Answer when a file is there."""
        while not Path(path).exists():  # noqa: ASYNC110, ASYNC240 - whoever makes it tells nobody
            await asyncio.sleep(0.02)
        return "there"

    @tool
    def repeat(self, text: str, times: int) -> str:
        """Answer at length."""
        return text * times

    @tool
    def measure(self, text: str) -> int:
        """Count the characters of a text."""
        return len(text)

    def respond(self, turn: Turn) -> Message | Done:
        """Ask again until the row's turns are over."""
        return Done() if turn.index >= self.task.turns else Message.user(f"again {turn.index + 1}")

    def verify(self, rollout: Rollout) -> Verdict:
        """1 if the counter stands at ``expected_count``."""
        right = float(self.count == self.task.expected_count)
        fields = {"final_value": self.count, "note": None}
        match self.task.verdict:
            case "decline":
                return Verdict(None, fields=fields)
            case "crash":
                raise RuntimeError("no such table")
            case "busy":
                raise VerifierError("the grader is away", retryable=True)
            case "components":
                return Verdict(right, components={"right": right, "polite": 0.5}, fields=fields)
            case _:
                return Verdict(right, fields=fields)
