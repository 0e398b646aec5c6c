"""Two datasets written with fhaviary: word problems with a calculator, and locked boxes with keys in them."""

from __future__ import annotations

import ast
import operator
import random
from typing import Any

from aviary.core import Environment, Message, Messages, TaskDataset, Tool, ToolRequestMessage

Call = tuple[str, dict[str, Any]]
_SIGNS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_GOODS = ("apples", "pears", "candles", "marbles", "stamps", "nails")
_COLOURS = ("red", "green", "blue", "yellow", "black", "white", "brown", "grey")


class _World(Environment[None]):
    """Runs the calls of a step in order; each tool answers with a text, and tells its reward by ``earn``."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.state = None
        self._earned = 0.0
        self._done = False

    async def step(self, action: Message) -> tuple[Messages, float, bool, bool]:
        """See fhaviary."""
        if not isinstance(action, ToolRequestMessage) or not action.tool_calls:
            return self.default_no_tool_calls_response
        self._earned = 0.0
        answers = await self.exec_tool_calls(action, concurrency=False, handle_tool_exc=True)
        return list(answers), self._earned, self._done, False

    async def reset(self) -> tuple[Messages, list[Tool]]:
        """See fhaviary."""
        return [Message(content=self.task)], self.tools

    def earn(self, reward: float) -> None:
        """End the episode with a reward."""
        self._earned, self._done = reward, True

    def solution(self) -> list[Call]:
        """The calls that earn the reward."""
        raise NotImplementedError


class Sums(_World):
    """A word problem in two steps, in the manner of GSM8K."""

    def __init__(self, rng: random.Random) -> None:
        goods, boxes, each, taken = rng.choice(_GOODS), rng.randint(3, 40), rng.randint(3, 60), rng.randint(2, 9)
        self.expression, self.answer = f"{boxes} * {each} - {taken}", boxes * each - taken
        super().__init__(
            f"A shop gets {boxes} boxes with {each} {goods} each, and sells {taken} {goods} on the first day. "
            f"How many {goods} are left? Use the calculator, then submit the answer."
        )
        self.tools = [Tool.from_function(self.calculator), Tool.from_function(self.submit_answer)]

    def calculator(self, expr: str) -> str:
        """Calculate an arithmetic expression.

        Args:
            expr: The expression, such as 3 * (4 + 5).
        """
        try:
            return f"{_value(ast.parse(expr.strip(), mode='eval').body):g}"
        except (ValueError, SyntaxError, ZeroDivisionError, OverflowError, RecursionError, MemoryError) as error:
            return f"That cannot be calculated: {error}"

    def submit_answer(self, answer: str) -> str:
        """Submit the answer, which ends the task.

        Args:
            answer: The number.
        """
        try:
            right = float(answer.replace(",", "")) == self.answer
        except ValueError:
            right = False
        self.earn(float(right))
        return "The answer is in."

    def solution(self) -> list[Call]:
        """See ``_World``."""
        return [("calculator", {"expr": self.expression}), ("submit_answer", {"answer": str(self.answer)})]


class Locks(_World):
    """Boxes in a row, each but the first locked; every box holds the key of another, the last one a word."""

    def __init__(self, rng: random.Random) -> None:
        self.order = rng.sample(_COLOURS, rng.randint(3, 5))
        self.word = "".join(rng.choices("bcdfghklmnprstvwz", k=6))
        self.keys: set[str] = {self.order[0]}
        super().__init__(
            f"There are boxes of these colours: {', '.join(sorted(self.order))}. The {self.order[0]} one is open, the "
            "others are locked, and their keys are in boxes. One box holds a word: find it and say it."
        )
        self.tools = [Tool.from_function(self.open_box), Tool.from_function(self.say_word)]

    def open_box(self, colour: str) -> str:
        """Open a box and take what is in it.

        Args:
            colour: The box's colour.
        """
        if colour not in self.order:
            return f"There is no {colour} box."
        if colour not in self.keys:
            return f"The {colour} box is locked."
        following = self.order[self.order.index(colour) + 1 :]
        if not following:
            return f"In the {colour} box is a word: {self.word}"
        self.keys.add(following[0])
        return f"In the {colour} box is the key of the {following[0]} box."

    def say_word(self, word: str) -> str:
        """Say the word, which ends the task.

        Args:
            word: The word.
        """
        self.earn(float(word.strip().lower() == self.word))
        return "You have said it."

    def solution(self) -> list[Call]:
        """See ``_World``."""
        return [*(("open_box", {"colour": colour}) for colour in self.order), ("say_word", {"word": self.word})]


class SumsDataset(TaskDataset[Sums]):
    """As many word problems as anybody likes."""

    def get_new_env_by_idx(self, idx: int) -> Sums:
        """The problem of an index: always the same."""
        return Sums(random.Random(f"sums {idx}"))


class LocksDataset(TaskDataset[Locks]):
    """As many rows of boxes."""

    def get_new_env_by_idx(self, idx: int) -> Locks:
        """The boxes of an index: always the same."""
        return Locks(random.Random(f"locks {idx}"))


BUILT_IN: dict[str, type[TaskDataset[Any]]] = {"sums": SumsDataset, "locks": LocksDataset}


def _value(node: ast.expr) -> float:
    """What an expression is worth. Raises ValueError for anything but numbers and the four signs."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and (sign := _SIGNS.get(type(node.op))) is not None:
        return float(sign(_value(node.left), _value(node.right)))
    raise ValueError("only numbers, + - * / and brackets")
