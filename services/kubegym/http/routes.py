"""Which replica a conversation asks: the one with the fewest when it begins, and then always that (prefix caches)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from kubegym.http.replicas import Replica, Replicas


class Routes:
    """Remembers where conversations are. It may forget all: they begin anew, somewhere.

    Args:
        replicas: among which to choose.
        idle_seconds: how long a conversation that does not call is remembered, unless it ``leave``s.
        most: conversations that are remembered; beyond, those that called least recently are forgotten.

    Attributes:
        decisions: how often a call began a conversation ("new"), found it where it was ("stay"), had to go elsewhere
            ("moved"), or belonged to none ("single").
    """

    def __init__(self, replicas: Replicas, *, idle_seconds: float = 300.0, most: int = 100_000) -> None:
        self.decisions = {"new": 0, "stay": 0, "moved": 0, "single": 0}
        self._replicas = replicas
        self._idle_seconds = idle_seconds
        self._most = most
        self._where: dict[str, tuple[Replica, float]] = {}  # in order of the last call

    def choose(self, conversation: str | None, tried: Collection[Replica] = ()) -> Replica:
        """Who answers the next call of a conversation (None: of nobody who calls again).

        Args:
            conversation: its name.
            tried: replicas that this very call had no luck with.
        """
        replicas = self._replicas
        if conversation is None:
            replica = replicas.take(tried)
            replicas.give(replica)
            self.decisions["single"] += 1
            return replica
        now = asyncio.get_running_loop().time()
        self._forget(now)
        entry = self._where.pop(conversation, None)
        if entry is None:
            replica = replicas.take(tried)
            self.decisions["new"] += 1
        else:
            replica = entry[0]
            if replica in tried or replica.gone or not self._may_stay(replica, now):
                replicas.give(replica)
                replica = replicas.take(tried)
            self.decisions["stay" if replica is entry[0] else "moved"] += 1
        self._where[conversation] = (replica, now)
        return replica

    def _may_stay(self, replica: Replica, now: float) -> bool:
        if not replica.out_until:
            return True
        if not replica.usable(now):
            return False
        replica.begin_trial()
        return True

    def leave(self, conversation: str) -> None:
        """The conversation is over."""
        entry = self._where.pop(conversation, None)
        if entry is not None:
            self._replicas.give(entry[0])

    def _forget(self, now: float) -> None:
        while self._where:
            conversation = next(iter(self._where))
            _, used = self._where[conversation]
            if now - used < self._idle_seconds and len(self._where) < self._most:
                return
            self.leave(conversation)
