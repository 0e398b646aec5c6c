"""How many conversations clients have open at a replica, told with their calls, so that each knows of the others'.

Clients choose the replica with the fewest open conversations, and each sees its own only. So a client says with every
call how many it has there, and is told the sum over all. Nothing of it is kept: whoever restarts learns it again from
the next calls.
"""

from __future__ import annotations

HEADER = b"x-kubegym-open"
"""Of a request ``<client>/<number>``, of a reply the sum."""
FORGET_SECONDS = 60.0
"""A client that has not called for so long has none."""
_SWEEP_SECONDS = 5.0
_MOST_CLIENTS = 100_000


class OpenUsers:
    """The replica's side."""

    def __init__(self) -> None:
        self._by_client: dict[bytes, tuple[int, float]] = {}
        self._sum = 0
        self._swept_at = 0.0

    def told(self, value: bytes, now: float) -> bytes:
        """A client's word (whatever it is), and the sum to answer."""
        client, _, text = value.partition(b"/")
        if text.isdigit() and len(text) < 9 and len(client) <= 64:
            before = self._by_client.get(client)
            if before is not None or len(self._by_client) < _MOST_CLIENTS:
                number = int(text)
                self._sum += number - (before[0] if before is not None else 0)
                self._by_client[client] = (number, now)
        if now - self._swept_at >= _SWEEP_SECONDS:
            self._swept_at = now
            self._sweep(now)
        return b"%d" % self._sum

    def _sweep(self, now: float) -> None:
        for client, (number, at) in list(self._by_client.items()):
            if now - at >= FORGET_SECONDS:
                del self._by_client[client]
                self._sum -= number
