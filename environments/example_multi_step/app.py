"""Several dependent tool calls: look up each synonym's value, then report the values in order."""

from __future__ import annotations

import json
from typing import Any

from kubegym import Environment, Rollout, Row, Verdict, tool


class MultiStep(Environment):
    """The model must call ``get_synonym_value`` for each synonym and ``extract_synonym_values`` with all values."""

    version = "0.1.0"
    stateless_verify = True

    class Task(Row):
        """A row. The minefield is the original term, whose value must not be reported."""

        id: int
        expected_synonym_values: list[int]
        expected_synonyms: list[str]
        minefield_label: str
        minefield_label_value: int

        def model_post_init(self, _context: Any) -> None:
            """Refuse a row without values: the overlap is a share of them. Raises ValueError."""
            if not self.expected_synonym_values:
                raise ValueError("expected_synonym_values is empty")

    @tool(parallel=True)
    def get_synonym_value(self, synonym: str) -> dict[str, int]:
        """Get the value of a synonym.

        Args:
            synonym: The synonym.
        """
        return {"synonym_value": value_of(synonym)}

    @tool
    def extract_synonym_values(self, synonym_values: list[int]) -> dict[str, bool]:
        """Report the values of all synonyms, in the order of the synonyms.

        Args:
            synonym_values: The values, in order.
        """
        return {"success": True}

    def verify(self, rollout: Rollout) -> Verdict:
        """1 if the last report has exactly the expected values in the expected order, else 0."""
        expected = self.task.expected_synonym_values
        reported = last_report(rollout)
        accuracy = reported == expected
        set_overlap = len(set(reported) & set(expected)) / len(expected)
        return Verdict(
            float(accuracy),
            fields={
                "parsed_synonym_values": reported,
                "accuracy": accuracy,
                "set_overlap": set_overlap,
                "original_term_minefield_hit": self.task.minefield_label_value in reported,
                "order_instruction_following_failure": not accuracy and set_overlap == 1.0,
            },
        )

    @classmethod
    def oracle(cls, task: Task) -> list[Any]:
        """Look up every synonym, then report."""
        lookups = [
            {"name": "get_synonym_value", "arguments": {"synonym": synonym}} for synonym in task.expected_synonyms
        ]
        report = {
            "name": "extract_synonym_values",
            "arguments": {"synonym_values": [value_of(synonym) for synonym in task.expected_synonyms]},
        }
        return [*lookups, report, "Done."]


def value_of(synonym: str) -> int:
    """A word's value: the sum of its character codes."""
    return sum(map(ord, synonym))


def last_report(rollout: Rollout) -> list[int]:
    """The values of the last ``extract_synonym_values`` call; none where it was not called, or called wrongly."""
    reports = [call for call in rollout.tool_calls if call.name == "extract_synonym_values"]
    if not reports:
        return []
    try:
        arguments = json.loads(reports[-1].arguments)
    except ValueError:
        return []
    values = arguments.get("synonym_values") if isinstance(arguments, dict) else None
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        return []
    return values
