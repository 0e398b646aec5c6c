"""Scheduling over a conversation: every event in its window, none over another."""

from __future__ import annotations

import json
from typing import Any, Literal

from kubegym import Environment, Model, Rollout, Row, Verdict

from .schedule import Expected, first_list, first_plain_list, is_kept, minutes, overlap, solve, time_text


class Calendar(Environment):
    """The user asks for events one after the other; the answer is the whole calendar as a JSON list."""

    version = "0.1.0"
    stateless_verify = True

    class Config(Model):
        """Settings: ``parity: nemo-gym`` verifies exactly as NeMo Gym does."""

        parity: Literal["nemo-gym"] | None = None

    class Task(Row):
        """A row: the events that the calendar has to hold, by their id."""

        exp_cal_state: dict[str, Expected]

    def verify(self, rollout: Rollout) -> Verdict:
        """1 if the calendar in the last message keeps every event's duration, window and constraint, else 0."""
        problem = self.problem(last_text(rollout)) if self.config.parity else self.honest_problem(rollout.final_text)
        return Verdict(float(problem is None), fields={"problem": problem})

    def problem(self, text: str) -> str | None:
        """What NeMo Gym's verifier finds wrong, or None."""
        if "<think>" in text:
            return "think_found"
        if not self.task.exp_cal_state:
            return None
        return self.wrong(first_plain_list(text) or [])

    def honest_problem(self, text: str) -> str | None:
        """The same without what earns a reward for nothing: an empty calendar has to be said, events stand once."""
        if "<think>" in text:
            return "think_found"
        events = first_list(text)
        if not self.task.exp_cal_state:
            return None if events == [] else "events_of_nobody"
        ids = [str(event.get("event_id")) for event in events or () if isinstance(event, dict)]
        return "event_twice" if len(set(ids)) < len(ids) else self.wrong(events or [])

    def wrong(self, events: list[Any]) -> str | None:
        """What is wrong with the events of a calendar, or None."""
        if not events:
            return "no_json_list"
        expected = self.task.exp_cal_state
        try:
            by_id = {str(event["event_id"]): event for event in events}
            if len(by_id) != len(expected):
                return "different_number_of_events"
            spans = [(minutes(event["start_time"]), event["duration"], event) for event in events]
            if overlap(spans):
                return "conflicting_events"
            kept = all(is_kept(by_id[name], one) for name, one in expected.items())
        except (KeyError, TypeError, ValueError, AttributeError):
            return "malformed"  # the policy wrote it so
        return None if kept else "constraint_violated"

    @classmethod
    def oracle(cls, task: Task) -> str:
        """A calendar that keeps everything, found by search."""
        starts = solve(list(task.exp_cal_state.values()))
        events = [
            {
                "event_id": one.event_id,
                "event_name": one.event_name,
                "start_time": time_text(starts[position]),
                "duration": one.duration,
            }
            for position, one in enumerate(task.exp_cal_state.values())
        ]
        return f"Here is your calendar:\n{json.dumps(events)}"

    @classmethod
    def cheats(cls, task: Task) -> dict[str, str]:
        """Every event at its earliest; a list of nothing; the events one on top of the other in copies."""
        early = [
            {"event_id": one.event_id, "start_time": one.min_time, "duration": one.duration}
            for one in task.exp_cal_state.values()
        ]
        return {
            "all at once": json.dumps(early),
            "empty list": "[]",
            "no time": json.dumps([{**one, "duration": 0} for one in early]),
        }


def last_text(rollout: Rollout) -> str:
    """The first text part of the last output item; nothing where that is no message."""
    content = rollout.output[-1].get("content") if rollout.output else None
    if isinstance(content, str):
        return content
    return next((part["text"] for part in content or () if isinstance(part.get("text"), str)), "")
