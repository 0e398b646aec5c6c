"""State across tool calls: a counter that belongs to one rollout."""

from __future__ import annotations

from typing import Any

from kubegym import Environment, Rollout, Row, Verdict, tool


class Counter(Environment):
    """The counter starts at the row's ``initial_count`` and must end at its ``expected_count``."""

    version = "0.1.0"

    class Task(Row):
        """A row."""

        initial_count: int
        expected_count: int

    def seed(self) -> None:
        """Start the counter."""
        self.count: int = self.task.initial_count

    @tool
    def increment_counter(self, count: int) -> dict[str, bool]:
        """Increase the counter.

        Args:
            count: By how much.
        """
        self.count += count
        return {"success": True}

    @tool
    def get_counter_value(self) -> dict[str, int]:
        """Read the counter."""
        return {"count": self.count}

    def verify(self, rollout: Rollout) -> Verdict:
        """1 if the counter stands at ``expected_count``, else 0; what the model says does not matter."""
        return Verdict(float(self.count == self.task.expected_count), fields={"final_count": self.count})

    @classmethod
    def oracle(cls, task: Task) -> list[Any]:
        """Add what is missing, look, and say it."""
        return [
            {"name": "increment_counter", "arguments": {"count": task.expected_count - task.initial_count}},
            {"name": "get_counter_value", "arguments": {}},
            f"The counter stands at {task.expected_count}.",
        ]
