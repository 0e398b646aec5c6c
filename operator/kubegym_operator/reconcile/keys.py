"""What the queue holds and what a reconciliation answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Key(NamedTuple):
    """An object of ours that is looked at as a whole: its kind (such as ``RolloutJob``), namespace and name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Result:
    """How a reconciliation that did not fail ended.

    Attributes:
        requeue_after: seconds until it is due again although nothing may have happened; None waits for an event.
        wrote: how many requests that write were made.
    """

    requeue_after: float | None = None
    wrote: int = 0
