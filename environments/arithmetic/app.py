"""Integer arithmetic: from memory, with a calculator, in dependent steps, and a guessing game."""

from __future__ import annotations

import re
from typing import Any, Literal

from kubegym import Done, Environment, Message, Model, Rollout, Row, ToolError, Turn, Verdict, tool

LARGEST = 10**15
"""Operands beyond this are refused: repeated products must not become numbers that take seconds to write down."""

_NUMBER = re.compile(r"(?<![\d.])[-\u2212]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
_EXPRESSION = re.compile(r"(\d+)([-+*])(\d+)(?:\*(\d+))?")
_TOOL_OF = {"+": "add", "-": "subtract", "*": "multiply"}


def last_integer(text: str) -> int | None:
    """The last number of a text if it is an integer: ``14`` in ``7+7 = 14.``, none in ``about 14.5``."""
    numbers = _NUMBER.findall(text)
    if not numbers or "." in numbers[-1] or len(numbers[-1]) > 20:
        return None
    return int(numbers[-1].replace("\u2212", "-").replace(",", ""))


class Arithmetic(Environment):
    """Four kinds of tasks: ``direct``, ``tool``, ``chain`` and ``guess``."""

    version = "0.1.0"
    stateless_verify = True

    class Config(Model):
        """Settings of the environment."""

        max_guesses: int = 6

    class Task(Row):
        """A row. ``secret`` belongs to ``guess``; ``expression`` and ``expected_answer`` to the other kinds."""

        kind: Literal["direct", "tool", "chain", "guess"]
        expression: str = ""
        expected_answer: int | None = None
        secret: int | None = None

        def model_post_init(self, _context: Any) -> None:
            """Check that the row has what its kind needs. Raises ValueError."""
            needed = "secret" if self.kind == "guess" else "expected_answer"
            if getattr(self, needed) is None:
                raise ValueError(f"a row of kind {self.kind} needs {needed}")

    @tool(parallel=True)
    def add(self, a: int, b: int) -> int:
        """Add two integers."""
        _check_size(a, b)
        return a + b

    @tool(parallel=True)
    def subtract(self, a: int, b: int) -> int:
        """Subtract b from a."""
        _check_size(a, b)
        return a - b

    @tool(parallel=True)
    def multiply(self, a: int, b: int) -> int:
        """Multiply two integers."""
        _check_size(a, b)
        return a * b

    def respond(self, turn: Turn) -> Message | Done:
        """Answer a guess with ``higher`` or ``lower``; every other kind ends with its first message."""
        if self.task.kind != "guess":
            return Done()
        guess = last_integer(turn.text)
        if guess == self.task.secret or turn.index + 1 >= self.config.max_guesses:
            return Done()
        if guess is None:
            return Message.user("Answer with a number.")
        return Message.user("higher" if self.task.secret > guess else "lower")

    def verify(self, rollout: Rollout) -> Verdict:
        """1 for the right answer, or the secret found within the allowed guesses; else 0."""
        if self.task.kind != "guess":
            answer = last_integer(rollout.final_text)
            return Verdict(float(answer == self.task.expected_answer), fields={"answer": answer})
        guesses = [last_integer(text) for text in _assistant_texts(rollout)][: self.config.max_guesses]
        found = self.task.secret in guesses
        fields = {"answer": guesses[-1] if guesses else None, "guesses": len(guesses)}
        return Verdict(float(found), fields=fields)

    @classmethod
    def oracle(cls, task: Task) -> list[Any]:
        """Answer perfectly: at once, by the tools, or by halving the range."""
        if task.kind == "guess":
            return _bisect(task.secret)
        answer = str(task.expected_answer)
        if task.kind == "direct":
            return [answer]
        match = _EXPRESSION.fullmatch(task.expression)
        if match is None:
            raise ValueError(f"{task.expression!r} is not a+b, a-b, a*b, a+b*c or a-b*c")
        first, sign, second, third = match.groups()
        calls = []
        if third is not None:
            calls.append(_call("multiply", second, third))
            second = int(second) * int(third)
        calls.append(_call(_TOOL_OF[sign], first, second))
        return [*calls, answer]


def _check_size(*numbers: int) -> None:
    if any(abs(number) > LARGEST for number in numbers):
        raise ToolError(f"numbers must lie between -{LARGEST} and {LARGEST}")


def _assistant_texts(rollout: Rollout) -> list[str]:
    """The text of each assistant message, in order."""
    texts: list[str] = []
    for item in rollout.output:
        if item.get("role") == "assistant" and item.get("type", "message") == "message":
            content = item.get("content") or ""
            texts.append(content if isinstance(content, str) else "".join(part.get("text") or "" for part in content))
    return texts


def _call(name: str, a: Any, b: Any) -> dict[str, Any]:
    return {"name": name, "arguments": {"a": int(a), "b": int(b)}}


def _bisect(secret: int | None, low: int = 1, high: int = 63) -> list[Any]:
    """Guesses that halve the range until they meet the secret."""
    if secret is None or not low <= secret <= high:
        raise ValueError(f"the secret must lie between {low} and {high}, not {secret}")
    guesses: list[Any] = []
    while True:
        guess = (low + high) // 2
        guesses.append(str(guess))
        if guess == secret:
            return guesses
        low, high = (guess + 1, high) if secret > guess else (low, guess - 1)
