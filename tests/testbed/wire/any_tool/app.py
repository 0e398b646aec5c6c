"""An environment that answers every tool, and has one of its own."""

from __future__ import annotations

from typing import Any

from kubegym import Environment, Rollout, Verdict, tool


class AnyTool(Environment):
    """Remembers which tools were called."""

    version = "1"
    stateless_verify = True

    def seed(self) -> None:
        """Nothing was called yet."""
        self.called: list[str] = []

    @tool
    def known(self, text: str) -> str:
        """Say it back."""
        return text

    @tool(catch_all=True)
    def any_tool(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Answer every other name."""
        self.called.append(name)
        return {"tool": name, "arguments": arguments}

    def verify(self, rollout: Rollout) -> Verdict:
        """The number of calls."""
        return Verdict(1.0)
