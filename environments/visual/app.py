"""Numbers in pictures: one picture in the task, or one in every room, which a tool shows."""

from __future__ import annotations

from typing import Any, Literal

from kubegym import Environment, Image, Rollout, Row, ToolError, Verdict, tool
from kubegym.verify.numbers import last_number

from .picture import COLOURS, png

Colour = Literal["red", "green", "blue", "purple", "orange", "brown", "black", "grey"]


class Visual(Environment):
    """The sum of some numbers, each in a box of another colour; only who sees the pictures can know them."""

    version = "0.1.0"
    stateless_verify = True
    images = True
    answer_key = "answer"

    class Task(Row):
        """A row. ``rooms`` has the boxes that ``look`` shows; a picture in the task stands in its input."""

        expected_answer: int
        rooms: dict[str, list[tuple[Colour, int]]] = {}  # noqa: RUF012 - rows are frozen

        def model_post_init(self, _context: Any) -> None:
            """Check that the pictures can be drawn. Raises ValueError."""
            for room, boxes in self.rooms.items():
                if not boxes or len(boxes) > 30 or any(not 0 <= number <= 999 for _, number in boxes):
                    raise ValueError(f"rooms.{room}: must have 1 to 30 boxes with numbers from 0 to 999")

    @tool(parallel=True)
    def look(self, room: str) -> list[str | Image]:
        """Look into a room.

        Args:
            room: the room's name.
        """
        boxes = self.task.rooms.get(room.strip().lower())
        if boxes is None:
            raise ToolError(f"there is no {room!r}; there is: {', '.join(self.task.rooms) or 'no room at all'}")
        return [f"This is the {room.strip().lower()}.", Image.of(png(boxes))]

    def verify(self, rollout: Rollout) -> Verdict:
        """1 if the last number of the final message is the expected one, else 0."""
        answer = last_number(rollout.final_text)
        fields = {"answer": int(answer) if answer is not None and answer.is_integer() else answer}
        return Verdict(float(answer == self.task.expected_answer), fields=fields)

    @classmethod
    def oracle(cls, task: Task) -> list[Any]:
        """Look into every room, then answer."""
        looks = [{"name": "look", "arguments": {"room": room}} for room in task.rooms]
        return [*looks, str(task.expected_answer)]

    @classmethod
    def cheats(cls, task: Task) -> dict[str, str]:
        """The likeliest number; every colour's name in place of a number."""
        return {"the middle": "549", "colours": ", ".join(COLOURS)}
