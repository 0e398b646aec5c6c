"""Writes ``example.jsonl`` beside it: ``python data/generate.py``. The same rows every time."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OPENS, CLOSES, GRID = 9 * 60, 17 * 60, 15
NAMES = (
    "Design review", "Budget meeting", "Dentist", "Interview", "Yoga", "Lunch with Ana", "Stand-up", "Customer call",
    "Code review", "Piano lesson", "Team retro", "Car service", "Press briefing", "Book club", "Board update",
)  # fmt: skip
SYSTEM = (
    "You keep the user's calendar of one day. Answer with the whole calendar as a JSON list with one object an event: "
    "event_id (0 for the first event asked for, then 1, 2, ...), event_name, start_time (such as 10:30am), duration "
    "(minutes). Events must not overlap. All lie between {low} and {high}."
)
ASKS = ("Please add '{name}', {duration} minutes{rule}.", "I also need {duration} minutes for '{name}'{rule}.")
CHATTER = ("", " It is going to be a long day.", " Thanks, by the way!", " Tell me if that is too much.")


def rows(count: int = 10, seed: int = 20) -> Iterator[dict[str, Any]]:
    """Conversations in which four to six events are asked for. Each has a solution: the day they were drawn from."""
    rng = random.Random(seed)
    for _ in range(count):
        yield row(rng, rng.randint(4, 6))


def row(rng: random.Random, events: int) -> dict[str, Any]:
    """One conversation: every event but the last is confirmed by a calendar that holds what was asked for so far."""
    day = schedule(rng, events)
    low, high = time_text(OPENS), time_text(CLOSES)
    messages = [{"role": "system", "content": SYSTEM.format(low=low, high=high)}]
    expected: dict[str, dict[str, Any]] = {}
    calendar: list[dict[str, Any]] = []
    for number, (name, start, duration) in enumerate(day):
        constraint = rule(rng, start, duration)
        ask = ASKS[min(number, 1)].format(name=name, duration=duration, rule=f", {constraint}" if constraint else "")
        messages.append({"role": "user", "content": ask + rng.choice(CHATTER)})
        event = {"event_id": number, "event_name": name, "duration": duration}
        expected[str(number)] = {**event, "constraint": constraint, "min_time": low, "max_time": high}
        calendar.append({**event, "start_time": time_text(start)})
        if number < events - 1:
            messages.append({"role": "assistant", "content": json.dumps(calendar)})
    return {"responses_create_params": {"input": messages}, "exp_cal_state": expected}


def schedule(rng: random.Random, events: int) -> list[tuple[str, int, int]]:
    """Name, start and duration of events that do not overlap, in the order in which they are asked for."""
    slots = list(range(OPENS, CLOSES, GRID))
    while True:
        day = [(name, rng.choice(slots), GRID * rng.randint(2, 6)) for name in rng.sample(NAMES, events)]
        by_start = sorted(day, key=lambda event: event[1])
        following = [*(start for _, start, _ in by_start[1:]), CLOSES]
        if all(start + duration <= end for (_, start, duration), end in zip(by_start, following, strict=True)):
            return day


def rule(rng: random.Random, start: int, duration: int) -> str | None:
    """A constraint that the drawn time keeps."""
    end = start + duration
    early, late = max(OPENS, start - GRID * rng.randint(0, 4)), min(CLOSES, end + GRID * rng.randint(0, 4))
    return rng.choice(
        [
            None,
            f"before {time_text(late)}",
            f"after {time_text(early)}",
            f"between {time_text(early)} and {time_text(late)}",
            f"at {time_text(start)}",
        ]
    )


def time_text(time: int) -> str:
    """Minutes since midnight as ``10am`` or ``10:30am``."""
    hours, minute = divmod(time, 60)
    return f"{(hours - 1) % 12 + 1}{f':{minute:02d}' if minute else ''}{'am' if hours < 12 else 'pm'}"


def content() -> str:
    """The file's text."""
    return "".join(json.dumps(one) + "\n" for one in rows())


if __name__ == "__main__":
    Path(__file__).with_name("example.jsonl").write_text(content())
