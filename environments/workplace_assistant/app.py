"""An office assistant: 27 tools over five databases, judged by the state it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal

from kubegym import Environment, Model, Rollout, Row, Verdict, read_file

from .desk import SEARCHED, WRITES, Desk
from .desk.tables import Base, load


class Call(Row):
    """A tool call of the ground truth; ``arguments`` is JSON text."""

    name: str
    arguments: str

    def model_post_init(self, _context: Any) -> None:
        """Refuse arguments that are no object. Raises ValueError."""
        if not isinstance(json.loads(self.arguments), dict):
            raise ValueError(f"arguments of {self.name} must be the JSON text of an object")


class WorkplaceAssistant(Desk, Environment):
    """Requests of an office worker; right is what leaves the databases as the ground truth does."""

    version = "0.1.0"
    stateless_verify = True

    class Config(Model):
        """Where the tables are, as CSV (a path beside this file, or a URI), and whose rules judge."""

        emails: str = "data/emails.csv"
        events: str = "data/events.csv"
        visits: str = "data/visits.csv"
        tasks: str = "data/tasks.csv"
        customers: str = "data/customers.csv"
        directory: str = "data/directory.csv"
        parity: Literal["nemo-gym"] | None = None

    class Task(Row):
        """A row. ``id``, ``category`` and ``environment_name`` are kept, not read."""

        ground_truth: list[Call]

    @classmethod
    async def setup(cls, config: Config) -> dict[str, Base]:
        """Load the tables."""
        names = ("emails", "events", "visits", "tasks", "customers", "directory")
        tables = {
            name: load(await read_file(getattr(config, name), __file__), SEARCHED.get(name, ())) for name in names
        }
        return {**tables, "plots": Base(("plot_id", "file_path"), {}, {})}

    def seed(self) -> None:
        """Begin with the tables as they were loaded."""
        self.open(self.shared)

    def verify(self, rollout: Rollout) -> Verdict:
        """1 if the rollout's calls leave the same tables as those of the ground truth, else 0."""
        made = self.played((call.name, _arguments(call.arguments)) for call in rollout.tool_calls)
        wanted = self.played((call.name, json.loads(call.arguments)) for call in self.task.ground_truth)
        different = [
            name for name, table in made.tables.items() if self.state(table) != self.state(wanted.tables[name])
        ]
        return Verdict(float(not different), fields={"different_tables": different})

    def played(self, calls: Iterable[tuple[str, Any]]) -> Desk:
        """A fresh desk after some calls."""
        desk = Desk()
        desk.open(self.shared)
        for name, arguments in calls:
            desk.replay(name, arguments)
        return desk

    def state(self, table: Any) -> Any:
        """What is compared of a table: every changed row; without parity new rows by their content, in any order."""
        changed = table.difference()
        if self.config.parity:
            return changed
        return {key: row for key, row in changed.items() if key in table.base.rows}, table.added()

    @classmethod
    def oracle(cls, task: Task) -> list[Any]:
        """The ground truth, then a word."""
        calls = [{"name": call.name, "arguments": json.loads(call.arguments)} for call in task.ground_truth]
        return [*calls, "Done."]

    @classmethod
    def cheats(cls, task: Task) -> dict[str, list[Any]]:
        """All but the last change; every change twice; words alone."""
        calls = [{"name": call.name, "arguments": json.loads(call.arguments)} for call in task.ground_truth]
        writes = [call for call in calls if call["name"] in WRITES]
        adds = [call for call in writes if "create" in call["name"] or "send" in call["name"] or "add" in call["name"]]
        return {
            "half of it": [*writes[:-1], "All done."],
            "said, not done": ["I have done all that you asked for."],
            **({"twice": [*writes, *adds, "Done."]} if adds else {}),
        }


def _arguments(text: str) -> Any:
    """The arguments that the policy wrote, if they are JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None
