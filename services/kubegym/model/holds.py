"""Why a model server should get no new rollouts, although it may answer."""

from __future__ import annotations


class Holds:
    """Why a server should get no new rollouts, although it may answer: drained, paused, being updated, unproven.

    Attributes:
        reasons: by name, in the order in which they came.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def put(self, name: str, reason: str) -> None:
        """From now on there is this reason."""
        self.reasons[name] = reason

    def lift(self, name: str) -> None:
        """There no longer is."""
        self.reasons.pop(name, None)

    @property
    def first(self) -> str | None:
        """The oldest reason, or None."""
        return next(iter(self.reasons.values()), None)
