"""Holds attempts back while a server that they need is away, so that none fails for that.

An attempt that finds its agent, its resources server or its model gone is tried again soon, and a pod that is being
replaced takes longer than all tries together. So after such a failure everything of that entry waits here until the
server says that it is ready, and only then goes on. At the start the gate is shut: nobody has answered yet.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

from kubegym.core.errors import ModelError
from kubegym.core.protocols import Assignment, Attempt, EnvironmentInfo, Episodes, ModelClient
from kubegym.core.retry import Backoff
from kubegym.http import HttpClient, HttpError, Url
from kubegym.local.episodes import LocalEpisodes
from kubegym.local.runspec import Entry
from kubegym.model.client import ChatClient
from kubegym.model.endpoint import check_endpoint

log = logging.getLogger("kubegym.pods")

PATIENCE = Backoff(base=0.25, maximum=5.0)
PROBE_SECONDS = 5.0
STALL_SECONDS = 3600.0
"""The longest that a gate stays shut: then attempts find out for themselves, and fail with what they find."""

_AWAY = frozenset({"SessionLost", "ShuttingDown"})

Probe = Callable[[], Awaitable[bool]]
"""Whether a server is ready."""


class Gate:
    """Of one entry.

    Args:
        name: the entry's.
        probes: of everything that its attempts need.
        stall_seconds: see ``STALL_SECONDS``.
        rng: for pauses.
    """

    def __init__(
        self,
        name: str,
        probes: Sequence[Probe],
        *,
        stall_seconds: float = STALL_SECONDS,
        rng: random.Random | None = None,
    ) -> None:
        self._name = name
        self._probes = probes
        self._stall = stall_seconds
        self._rng = rng or random.Random()
        self._open = not probes
        self._asking = asyncio.Lock()

    def shut(self) -> None:
        """Something did not answer."""
        self._open = not self._probes

    async def passed(self) -> None:
        """Wait until everything is ready."""
        if self._open:
            return
        async with self._asking:
            failures, since = 0, asyncio.get_running_loop().time()
            while not self._open and not await self._ready():
                failures = min(failures + 1, 16)
                if failures == 1:
                    log.warning("%s: a server that its rollouts need is not ready; they wait", self._name)
                if asyncio.get_running_loop().time() - since >= self._stall:
                    log.error("%s: not ready after %g s; its rollouts go on all the same", self._name, self._stall)
                    break
                await asyncio.sleep(PATIENCE.delay(failures, self._rng))
            self._open = True

    async def _ready(self) -> bool:
        return all(await asyncio.gather(*(probe() for probe in self._probes)))


class GatedEpisodes:
    """Episodes behind a gate for each entry."""

    def __init__(self, episodes: Episodes, gates: Mapping[str, Gate]) -> None:
        self._episodes = episodes
        self._gates = gates

    async def run(self, assignment: Assignment) -> Attempt:
        """Make one attempt, when that can be."""
        gate = self._gates[assignment.environment]
        await gate.passed()
        attempt = await self._episodes.run(assignment)
        failure = attempt.failure
        if (
            failure is not None
            and failure.retryable
            and (failure.reason.endswith("Unavailable") or failure.reason in _AWAY)
        ):
            gate.shut()
        return attempt

    def info(self, environment: str) -> EnvironmentInfo:
        """See ``Episodes``."""
        return self._episodes.info(environment)

    def verifies_groups(self, environment: str) -> bool:
        """See ``Episodes``."""
        return self._episodes.verifies_groups(environment)

    async def verify_group(self, environment: str, group: list[tuple[Assignment, Attempt]]) -> None:
        """See ``Episodes``."""
        await self._episodes.verify_group(environment, group)

    async def close(self) -> None:
        """See ``Episodes``."""
        await self._episodes.close()


def gates_for(episodes: LocalEpisodes, http: HttpClient) -> dict[str, Gate]:
    """A gate for each entry, before all that its attempts need."""
    return {name: Gate(name, list(_probes(part.entry, part.models, http))) for name, part in episodes.parts.items()}


def servers_of(entry: Entry) -> list[str]:
    """Base URLs of the servers that an entry's attempts need.

    Model servers that only its agent asks are among them: one that was preempted takes longer to come back than an
    agent tries.
    """
    models = [ref.base_url or "" for ref in entry.models.values() if ref.kind == "server"]
    urls = [*entry.agent_urls, *entry.resources_urls, *(url.rstrip("/").removesuffix("/v1") for url in models)]
    return list(dict.fromkeys(url.rstrip("/") for url in urls))


def _probes(entry: Entry, models: Mapping[str, ModelClient], http: HttpClient) -> Sequence[Probe]:
    probes = [_ready_at(url, http) for url in servers_of(entry)]
    return [*probes, *(_answers(client) for client in models.values() if isinstance(client, ChatClient))]


def _ready_at(base: str, http: HttpClient) -> Probe:
    url = Url(base) / "readyz"

    async def ready() -> bool:
        try:
            response = await http.request(b"GET", url, b"accept: application/json\r\n", b"", PROBE_SECONDS)
        except HttpError:
            return False
        return response.status not in (502, 503, 504)  # a foreign server need not know the route

    return ready


def _answers(client: ChatClient) -> Probe:
    once = Backoff(attempts=1)

    async def answers() -> bool:
        try:
            await check_endpoint(client, backoff=once, timeout=PROBE_SECONDS)
        except ModelError as error:
            if not error.retryable:
                raise
            return False
        return True

    return answers
