"""One small environment for each capability that agents need: seven variants, made by seed, as hard as wanted."""

from __future__ import annotations

from typing import Any

from kubegym import Done, Environment, Message, Rollout, Row, ToolError, Turn, Verdict, tool

from .variants import VARIANTS, user_reply


class Capabilities(Environment):
    """Seven small worlds, one for each capability; ``variants.py`` makes their tasks and says what is right."""

    version = "0.1.0"
    answer_key = "answer"

    class Task(Row):
        """A row."""

        variant: str
        difficulty: int
        payload: dict[str, Any]

        def model_post_init(self, _context: Any) -> None:
            """Refuse an unknown variant, or a payload that lacks something. Raises ValueError."""
            if self.variant not in VARIANTS:
                raise ValueError(f"variant {self.variant!r} is none of {', '.join(VARIANTS)}")
            missing = [name for name in VARIANTS[self.variant].needs if name not in self.payload]
            if missing:
                raise ValueError(f"the payload of a row of {self.variant} lacks {', '.join(missing)}")

    def seed(self) -> None:
        """Begin with nothing asked, nothing booked, and the list as the row has it."""
        self.asked: list[str] = []
        self.questions = 0
        self.booked: dict[str, Any] | None = None
        self.items: dict[str, int] = dict(self.task.payload.get("start", {}))

    @tool(parallel=True)
    def look_up(self, key: str) -> str:
        """Read the entry of a key.

        Args:
            key: The key, exactly as it was told.
        """
        entries: dict[str, str] = self.task.payload.get("entries", {})
        if key not in entries:
            raise ToolError(f"there is no entry {key!r}")
        return entries[key]

    @tool
    def book(self, day: str, time: str, people: int) -> str:
        """Book a table. It is final.

        Args:
            day: The day of the week.
            time: The time, such as 18:30.
            people: For how many people.
        """
        if self.booked is not None:
            raise ToolError("a table is booked already")
        self.booked = {"day": day.strip().lower(), "time": time.strip(), "people": people}
        return "booked"

    @tool
    def set_item(self, name: str, count: int) -> str:
        """Put an item on the list, or change its count; 0 takes it off.

        Args:
            name: The item.
            count: How many.
        """
        self.items[name.strip().lower()] = count
        return f"{name}: {count}"

    def respond(self, turn: Turn) -> Message | Done:
        """The user answers questions about the booking; all else ends with the policy's first message."""
        if self.task.variant != "proactive-asking" or self.booked is not None:
            return Done()
        self.questions += 1
        reply, asked = user_reply(turn.text, self.task.payload)
        self.asked += asked
        return Message.user(reply) if self.questions <= self.task.payload["patience"] else Done()

    def verify(self, rollout: Rollout) -> Verdict:
        """1 for what the variant wants, else 0."""
        answer, right = VARIANTS[self.task.variant].check(self, rollout)
        return Verdict(float(right), fields={"answer": answer}, metrics={"questions": self.questions})

    @classmethod
    def oracle(cls, task: Task) -> list[Any]:
        """What the variant's payload says is right."""
        return VARIANTS[task.variant].oracle(task.payload)

    @classmethod
    def cheats(cls, task: Task) -> dict[str, list[Any]]:
        """The obvious wrong ways of the variant, by name."""
        return VARIANTS[task.variant].cheats(task.payload)
