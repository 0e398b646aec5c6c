"""Times, windows and constraints of a day, in minutes since midnight."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from kubegym import Row

GRID = 15
"""Minutes between two starts that the search tries."""

_PLAIN_LIST = re.compile(r"\[(?:[^\[\]{]|\{[^}]*\})*\]")
_CONSTRAINT = re.compile(r"(before|after|at) (.+)|between (.+?) and (.+)")


class Expected(Row):
    """An event that has to be in the calendar.

    Attributes:
        duration: minutes.
        constraint: ``before T``, ``after T``, ``between T and T``, ``at T``, or none.
        min_time: nothing starts before.
        max_time: nothing ends after.
    """

    event_id: int | str
    event_name: str = ""
    duration: int
    constraint: str | None = None
    min_time: str
    max_time: str

    def model_post_init(self, _context: Any) -> None:
        """Refuse times and constraints that nobody could read. Raises ValueError."""
        window(self)


def minutes(text: str) -> int:
    """``10am``, ``10:30am`` or ``14:05`` as minutes since midnight. Raises ValueError."""
    text = text.strip()
    half = text[-2:] if text.endswith(("am", "pm")) else ""
    hour, _, minute = text.removesuffix(half).partition(":")
    if not half and not minute:
        raise ValueError(f"{text!r} is no time such as 10am, 10:30am or 14:05")
    hours = int(hour)
    if half:
        hours = hours % 12 if hours == 12 else hours
        hours += 12 if half == "pm" else 0
    return hours * 60 + int(minute or 0)


def time_text(time: int) -> str:
    """Minutes since midnight as ``10am`` or ``10:30am``."""
    hours, minute = divmod(time, 60)
    return f"{(hours - 1) % 12 + 1}{f':{minute:02d}' if minute else ''}{'am' if hours < 12 else 'pm'}"


def window(event: Expected) -> tuple[int, int]:
    """When an event may start at the earliest and end at the latest. Raises ValueError."""
    low, high = minutes(event.min_time), minutes(event.max_time)
    if event.constraint is None:
        return low, high
    match = _CONSTRAINT.fullmatch(event.constraint)
    if match is None:
        raise ValueError(f"{event.constraint!r} is none of: before T, after T, between T and T, at T")
    word, time, first, last = match.groups()
    if word == "before":
        return low, min(high, minutes(time))
    if word == "after":
        return max(low, minutes(time)), high
    if word == "at":
        start = minutes(time)
        return (start, start + event.duration) if low <= start and start + event.duration <= high else (1, 0)
    return max(low, minutes(first)), min(high, minutes(last))


def is_kept(event: dict[str, Any], expected: Expected) -> bool:
    """Whether an event has the right duration and lies in its window. Raises KeyError, TypeError, ValueError."""
    low, high = window(expected)
    start = minutes(event["start_time"])
    return bool(event["duration"] == expected.duration and low <= start and start + event["duration"] <= high)


def overlap(spans: Sequence[tuple[int, int, Any]]) -> bool:
    """Whether any two events share a minute; copies of one event do not count."""
    return any(
        start < other_start + other_duration and other_start < start + duration
        for start, duration, event in spans
        for other_start, other_duration, other in spans
        if other != event
    )


def first_list(text: str) -> list[Any] | None:
    """The first JSON list of a text that is empty or holds an object."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\[", text):
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except ValueError:
            continue
        if not value or any(isinstance(one, dict) for one in value):
            return list(value)
    return None


def first_plain_list(text: str) -> list[Any] | None:
    """NeMo Gym's: the first bracket with an object and no bracket outside of objects in it; None if it is no JSON."""
    found = next((match[0] for match in _PLAIN_LIST.finditer(text) if "{" in match[0]), None)
    try:
        return None if found is None else list(json.loads(found))
    except ValueError:
        return None


def solve(events: Sequence[Expected]) -> list[int]:
    """Starts that keep everything. Raises ValueError where there are none."""
    order = sorted(range(len(events)), key=lambda position: window(events[position])[1])
    starts = next(_place(events, order, {}), None)
    if starts is None:
        raise ValueError("these events do not fit into the day")
    return [starts[position] for position in range(len(events))]


def _place(events: Sequence[Expected], order: Sequence[int], placed: dict[int, int]) -> Iterator[dict[int, int]]:
    """Placements of the events of ``order`` around those that are placed."""
    if not order:
        yield placed
        return
    event = events[order[0]]
    low, high = window(event)
    for start in range(low, high - event.duration + 1, GRID):
        free = all(
            start + event.duration <= other or other + events[position].duration <= start
            for position, other in placed.items()
        )
        if free:
            yield from _place(events, order[1:], {**placed, order[0]: start})
