"""Which replica of a server to ask: the one with the fewest users, and none that keeps failing.

Health is learnt from the calls themselves (passive ejection): a replica that fails three times in a row is left alone
for some seconds, then one user tries it (half open) and decides for all. When every replica is out, the one that comes
back first is asked all the same: refusing without having tried helps nobody. One that is new, or back again, gets its
share step by step (slow start): it has everything to warm up.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Collection, Sequence

from kubegym.core.errors import InvalidSpec
from kubegym.http.client import Url
from kubegym.http.names import Names, Resolver

FIRST_SHARE = 0.1
"""Of a full share, at the beginning of a slow start."""
_KEPT_PATHS = 64


class Replica:
    """One server of several that do the same.

    Attributes:
        url: its base URL.
        users: how many have taken it and not given it back.
        failures: failures since the last success.
        out_until: on the loop's clock, when it may be tried again; 0 while it is well.
        joined: on the loop's clock, when it came, or came back; 0 for those there from the start.
        others: users that other clients have there, as far as it told.
        gone: whether the name no longer stands for it.
        ours: whether it is a KubeGym server, as far as its users know; None before anybody does.
    """

    __slots__ = (*("_paths", "_probed", "failures", "gone", "joined", "others", "ours", "out_until", "url", "users"),)

    def __init__(self, url: Url) -> None:
        self.url = url
        self.users = 0
        self.failures = 0
        self.out_until = 0.0
        self.joined = 0.0
        self.others = 0
        self.gone = False
        self.ours: bool | None = None
        self._probed = False
        self._paths: dict[str, Url] = {}

    def at(self, path: str) -> Url:
        """The URL of a path below; ``path`` is percent-encoded where it must be."""
        url = self._paths.get(path)
        if url is None:
            url = self.url / path
            if len(self._paths) < _KEPT_PATHS:
                self._paths[path] = url
        return url

    def usable(self, now: float) -> bool:
        """Whether a further user may take it."""
        return not self.out_until or (now >= self.out_until and not self._probed)

    def begin(self) -> None:
        """Count a user; the first one after the pause is the probe."""
        self.users += 1
        if self.out_until:
            self._probed = True

    def end(self) -> None:
        """The user has finished. A probe that never asked anything leaves the question open."""
        self.users -= 1
        if not self.users:
            self._probed = False

    def heal(self) -> None:
        """It answered."""
        if self.failures or self.out_until:
            if self.out_until and (self.failures or self.out_until == math.inf):  # not where it only rested
                self.joined = asyncio.get_running_loop().time()
            self.failures = 0
            self.out_until = 0.0
            self._probed = False

    def rest(self, until: float) -> None:
        """Nobody who could go elsewhere until then: it drains, or is silent (infinity: until it heals)."""
        self.out_until = until
        self._probed = False

    def begin_trial(self) -> None:
        """A user who was here already is the probe."""
        self._probed = True

    def burden(self, now: float, slow_start: float) -> float:
        """How many users it has, for comparison; while it starts slowly, as if it had many times more."""
        if not self.joined or (age := now - self.joined) >= slow_start:
            return self.users
        return (self.users + 1) / max(FIRST_SHARE, age / slow_start) - 1

    def __repr__(self) -> str:
        return f"Replica({self.url.shown!r}, users={self.users}, failures={self.failures})"


def _others(replica: Replica) -> int:
    return replica.others


class Replicas:
    """Replicas of one server; of one event loop.

    Args:
        urls: their base URLs, at least one.
        failures_allowed: failures in a row that put a replica out.
        out_seconds: for how long, give or take a fifth, so that not all clients come back at once.
        slow_start: seconds until a replica that joined has its full share; 0: at once.
        rng: for that, and for where to begin among equals.
        resolver: makes a replica of each address of a host that has several, and follows them as they change; None
            takes the URLs as they are.

    Attributes:
        ejections: how often a replica was put out.

    Raises:
        InvalidSpec: no URL, or one that cannot be used.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        failures_allowed: int = 3,
        out_seconds: float = 5.0,
        slow_start: float = 0.0,
        rng: random.Random | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        if not urls:
            raise InvalidSpec("at least one URL is needed")
        self._by_url = {url: Replica(Url(url)) for url in urls}
        self._all = list(self._by_url.values())
        names = Names(list(self._by_url), resolver) if resolver else None
        self._names = names if names and names.any else None
        self._followed = False
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._failures_allowed = failures_allowed
        self._out_seconds = out_seconds
        self._slow_start = slow_start
        self._rng = rng or random.Random()
        self.ejections = 0

    @property
    def all(self) -> list[Replica]:
        """The replicas there are, as far as is known now."""
        if self._names is not None and (self._asking is None or self._asking.done()):
            now = asyncio.get_running_loop().time()
            if now - self._asked_at >= Names.SECONDS:
                self._asked_at = now
                self._asking = asyncio.create_task(self._follow(self._names), name="resolve")
        return self._all

    @property
    def fixed(self) -> list[Replica]:
        """The replicas of the URLs as they were given."""
        return list(self._by_url.values())

    async def _follow(self, names: Names) -> None:
        """Take the replicas that the names stand for now; one that stays keeps its users and its health."""
        first, urls = not self._followed, await names.ask()
        known, now = self._by_url, asyncio.get_running_loop().time()
        self._by_url = {url: known.get(url) or Replica(Url(url)) for url in urls}
        self._all = list(self._by_url.values())
        self._followed = True
        for url, replica in self._by_url.items():
            if url not in known and not first:
                replica.joined = now
        for url, replica in known.items():
            replica.gone = url not in self._by_url

    async def settle(self) -> None:
        """Wait until the names have been asked for the first time."""
        if self._names is not None and not self._followed:
            _ = self.all
            assert self._asking is not None
            await asyncio.shield(self._asking)

    def __len__(self) -> int:
        return len(self.all)

    @property
    def any_usable(self) -> bool:
        """Whether there is a replica that is not out."""
        now = asyncio.get_running_loop().time()
        return any(replica.usable(now) for replica in self.all)

    def take(self, avoid: Collection[Replica] = ()) -> Replica:
        """The usable replica with the fewest users; give it back with ``give``.

        Among equals, of any two the one with fewer users of other clients: what one knows of those is old, and if all
        went where it seems best, they would all go to the same (Mitzenmacher, How Useful Is Old Information?, 2000).

        Args:
            avoid: replicas that were tried already; they are taken only when there is no other.
        """
        replicas = self.all
        equals: list[Replica] = []
        if len(replicas) == 1:
            equals = replicas
        else:
            now, least = asyncio.get_running_loop().time(), math.inf
            for replica in replicas:
                burden = replica.burden(now, self._slow_start)
                if burden <= least and replica.usable(now) and replica not in avoid:
                    if burden < least:
                        equals, least = [], burden
                    equals.append(replica)
        if len(equals) > 1:
            best = min(self._rng.sample(equals, 2), key=_others)
        elif equals:
            best = equals[0]
        else:
            rest = [replica for replica in replicas if replica not in avoid] or replicas
            best = min(rest, key=lambda replica: (replica.out_until, replica.users))
        best.begin()
        return best

    def give(self, replica: Replica) -> None:
        """The user has finished."""
        replica.end()

    def failed(self, replica: Replica) -> None:
        """It could not be reached, broke off, or said that it is not there (502 to 504)."""
        replica.failures += 1
        if replica.failures >= self._failures_allowed and replica.out_until != math.inf:
            self.ejections += not replica.out_until
            pause = self._out_seconds * self._rng.uniform(0.8, 1.2)
            replica.out_until = asyncio.get_running_loop().time() + pause
            replica._probed = False
