"""Facts lost in a long text: the prompt fills the context window, and the answer takes several of its lines."""

from __future__ import annotations

import re
from typing import Any

from kubegym import Environment, Rollout, Row, Verdict
from kubegym.verify.text import normalised


class Haystack(Environment):
    """A long ledger of who passed a box on to whom; the question is who has a box in the end."""

    version = "0.1.0"
    stateless_verify = True
    answer_key = "answer"

    class Task(Row):
        """A row. ``context_tokens`` is what the ledger and the answer need, at most; the run checks it."""

        context_tokens: int
        expected_answer: str
        names: tuple[str, ...]

        def model_post_init(self, _context: Any) -> None:
            """Refuse an answer that nobody can give. Raises ValueError."""
            if self.expected_answer not in self.names:
                raise ValueError("expected_answer is not among names")

    def verify(self, rollout: Rollout) -> Verdict:
        """1 if the last line of the final message names the right person, and no other one, else 0."""
        lines = rollout.final_text.strip().splitlines() or [""]
        words = set(re.findall(r"\w+", normalised(lines[-1])))
        named = [name for name in self.task.names if name.casefold() in words]
        answer = named[0] if len(named) == 1 else None
        return Verdict(float(answer == self.task.expected_answer), fields={"answer": answer})

    @classmethod
    def oracle(cls, task: Task) -> str:
        """The right name."""
        return f"I followed the box.\n{task.expected_answer}"

    @classmethod
    def cheats(cls, task: Task) -> dict[str, str]:
        """All names; the first of them; the right one beside another."""
        other = next(name for name in task.names if name != task.expected_answer)
        return {
            "everybody": ", ".join(task.names),
            "the first": task.names[0],
            "two of them": f"{task.expected_answer} or {other}",
        }
