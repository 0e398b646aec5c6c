"""Changes of specs at a steady pace, and how long the operator takes until its status has seen each.

The times come from watches of our objects: an event is the moment at which a watch shows a new generation, the status
the moment at which the same watch shows ``observedGeneration``. So neither the API server's time for the change itself
nor polling is counted, and thousands of changes cost the machine little.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import aiohttp
import orjson

from kubegym_operator.kube.client import KubeClient
from kubegym_operator.kube.config import credentials
from kubegym_operator.kube.errors import KubeError
from kubegym_operator.kube.protocol import Kind, Object

UNSEEN_AFTER = 120.0
"""Seconds after which a change that no status has seen counts as lost."""


class Change(NamedTuple):
    """A merge patch of an object."""

    kind: Kind
    namespace: str
    name: str
    patch: Object


class Latencies(NamedTuple):
    """What came of the changes.

    Attributes:
        seconds: from event to status, sorted; infinite for what was not seen.
        rate: changes a second, until the last was answered.
        refused: changes that the API server did not take.
    """

    seconds: list[float]
    rate: float
    refused: int

    def percentile(self, share: float) -> float:
        return self.seconds[min(len(self.seconds) - 1, int(len(self.seconds) * share))]


class Watcher:
    """Follows what happens to the objects of a collection.

    Args:
        session: with the credentials.
        url: of the collection.
        note: told of each object, and the loop's time.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, note: Callable[[Object, float], None]) -> None:
        self._session = session
        self._url = url
        self._note = note
        self._follows = asyncio.Event()
        self._task = asyncio.create_task(self._follow())

    async def begun(self) -> None:
        """Wait until nothing of what happens from now on is missed."""
        await asyncio.wait(
            {self._task, waiting := asyncio.ensure_future(self._follows.wait())}, return_when="FIRST_COMPLETED"
        )
        waiting.cancel()
        if self._task.done():
            await self._task

    async def end(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _follow(self) -> None:
        async with self._session.get(self._url, params={"limit": "1"}) as answer:
            since = (await answer.json())["metadata"]["resourceVersion"]
        loop = asyncio.get_running_loop()
        while True:
            query = {"watch": "1", "resourceVersion": since, "allowWatchBookmarks": "true"}
            async with self._session.get(self._url, params=query) as answer:
                answer.raise_for_status()
                self._follows.set()
                async for line in answer.content:
                    event = orjson.loads(line)
                    since = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] in ("ADDED", "MODIFIED"):
                        self._note(event["object"], loop.time())


@asynccontextmanager
async def session_of(kubeconfig: Path) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A session with a kubeconfig's credentials for requests that take for ever, and the server's URL."""
    found = await credentials(kubeconfig)
    trust = ssl.create_default_context(cafile=found.ca_path)
    if found.certificate_path is not None:
        trust.load_cert_chain(found.certificate_path, found.key_path)
    connector, forever = aiohttp.TCPConnector(ssl=trust), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=forever, read_bufsize=2**20) as session:
        yield session, found.server


class Sightings:
    """When generations of objects, and statuses that have seen them or later ones, were first shown by a watch."""

    def __init__(self) -> None:
        self._changed: dict[str, dict[int, float]] = {}
        self._observed: dict[str, dict[int, float]] = {}

    def note(self, obj: Object, now: float) -> None:
        """A watch shows an object."""
        name, generation = _generation(obj)
        self._changed.setdefault(name, {}).setdefault(generation, now)
        self._observed.setdefault(name, {}).setdefault((obj.get("status") or {}).get("observedGeneration", 0), now)

    def seconds(self, obj: Object) -> float | None:
        """From the event of an object's generation to its status; None where there is none yet."""
        name, generation = _generation(obj)
        changed = self._changed.get(name, {}).get(generation)
        observed = [at for seen, at in self._observed.get(name, {}).items() if seen >= generation]
        return None if changed is None or not observed else max(0.0, min(observed) - changed)


def _generation(obj: Object) -> tuple[str, int]:
    metadata = obj["metadata"]
    return f"{obj['kind']} {metadata['namespace']}/{metadata['name']}", metadata["generation"]


async def paced(rate: float, count: int, one: Callable[[int], Awaitable[None]]) -> float:
    """Begin ``count`` things, ``rate`` a second whatever each takes, and wait for all; how many a second it became."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    tasks = []
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
        tasks.append(asyncio.ensure_future(one(number)))
    await asyncio.gather(*tasks)
    return count / (loop.time() - began)


async def change(
    api: KubeClient, kubeconfig: Path, plurals: dict[Kind, str], rate: float, count: int, make: Callable[[int], Change]
) -> Latencies:
    """Make ``count`` changes, ``rate`` a second, and wait for their statuses.

    Args:
        api: makes them.
        kubeconfig: for the watches.
        plurals: of the kinds that are changed, what the API calls them.
        rate: changes a second.
        count: how many.
        make: the change of a number.
    """
    made: list[Object] = []

    async def one(number: int) -> None:
        kind, namespace, name, patch = make(number)
        with suppress(KubeError):
            made.append(await api.patch(kind, namespace, name, patch))

    seen = Sightings()
    async with session_of(kubeconfig) as (session, server), AsyncExitStack() as stack:
        for kind, plural in plurals.items():
            watcher = Watcher(session, f"{server}/apis/{kind.api_version}/{plural}", seen.note)
            stack.push_async_callback(watcher.end)
            await watcher.begun()
        became = await paced(rate, count, one)
        seconds = await _seconds(seen, made)
    return Latencies(sorted(seconds), became, count - len(made))


async def _seconds(seen: Sightings, made: Sequence[Object]) -> list[float]:
    loop = asyncio.get_running_loop()
    late = loop.time() + UNSEEN_AFTER
    while True:
        found = [seen.seconds(obj) for obj in made]
        if None not in found or loop.time() > late:
            return [float("inf") if one is None else one for one in found]
        await asyncio.sleep(0.5)
