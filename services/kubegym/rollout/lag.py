"""Rollouts that the policy has left behind (``maxPolicyVersionLag``): which those are when they end. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kubegym.core.tokens import versions_of


class PolicyLag:
    """Knows the newest version that each environment entry's policy has told, in replies of this process.

    Args:
        most: versions that may pass while a rollout runs; None: any number.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._newest: dict[str, int] = {}

    def stale(self, environment: str, turns: Sequence[dict[str, Any]]) -> bool:
        """Whether a rollout that ends now has a turn of a version too old; one that knows no version has none."""
        if self._most is None:
            return False
        versions = versions_of(turns)
        if not versions:
            return False
        newest = self._newest[environment] = max(self._newest.get(environment, 0), *versions)
        return newest - min(versions) > self._most
