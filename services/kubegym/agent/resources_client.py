"""The resources server as an agent sees it: some replicas, and the sessions on them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial

from kubegym import __version__
from kubegym.agent.cookies import CookieJar
from kubegym.agent.http_session import GONE, HttpSession
from kubegym.core.protocols import Assignment
from kubegym.core.retry import Backoff
from kubegym.core.wire import WIRE_HEADER
from kubegym.http import BodyTooLarge, ConnectFailed, HttpClient, HttpError, ReadTimeout, Response
from kubegym.http.names import Resolver
from kubegym.http.replicas import Replica, Replicas

RETRIES = Backoff(attempts=4, base=0.1, maximum=2.0)
"""Of what may be repeated: three further tries within about a second, as long as a pod takes to be replaced behind its
Service. What lasts longer is the next attempt's business."""

_HEADERS = b"content-type: application/json\r\naccept: application/json\r\nuser-agent: kubegym/%b\r\n%b: 1\r\n" % (
    __version__.encode(),
    WIRE_HEADER,
)


class ResourcesClient:
    """Sessions on the replicas of a resources server.

    A rollout goes to the replica with the fewest rollouts and stays there, because sessions live in a server's memory;
    ``Replicas`` says how those that fail are avoided.

    Args:
        urls: base URLs of the replicas.
        http: connections to share with other clients; by default its own, closed with it.
        retries: how often what may be repeated is tried, and how patiently.
        rng: for pauses.
        resolver: see ``Replicas``.

    Raises:
        InvalidSpec: no URL, or one that cannot be used.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        http: HttpClient | None = None,
        retries: Backoff = RETRIES,
        rng: random.Random | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        self._rng = rng or random.Random()
        self.replicas = Replicas(urls, rng=self._rng, resolver=resolver)
        self._owns_http = http is None
        self._http = http or HttpClient()
        self._retries = retries

    def session(self, assignment: Assignment, cookies: CookieJar | None = None) -> HttpSession:
        """A session to be seeded; ``cookies`` are those of who asks for the rollout (contract 1.7)."""
        return HttpSession(self, assignment, cookies)

    async def post(
        self, replica: Replica, path: str, headers: bytes, body: bytes, seconds: float, *, repeatable: bool
    ) -> Response:
        """POST to a replica and learn from the outcome how it is. Raises HttpError."""
        try:
            response = await self._http.request(
                b"POST", replica.at(path), headers, body, seconds, repeatable=repeatable
            )
        except HttpError as error:
            if not isinstance(error, ReadTimeout | BodyTooLarge):
                self.replicas.failed(replica)
            raise
        if response.status in GONE:
            self.replicas.failed(replica)
        else:
            replica.heal()
        return response

    async def aggregate_metrics(self, body: bytes, seconds: float = 600.0) -> Response:
        """Ask any replica for metrics over rollouts (contract 1.3). Raises HttpError."""
        replica = self.replicas.take()
        try:
            headers = self.headers(replica)
            return await self.post(replica, "aggregate_metrics", headers, body, seconds, repeatable=True)
        finally:
            self.replicas.give(replica)

    def headers(self, replica: Replica) -> bytes:
        """Header lines of every request to a replica."""
        authorization = replica.url.authorization
        return _HEADERS if authorization is None else b"%bauthorization: %b\r\n" % (_HEADERS, authorization)

    def pauses(self) -> Iterator[Callable[[], Awaitable[None]]]:
        """What to await before each further try; it ends with the tries."""
        for failures in range(1, self._retries.attempts):
            yield partial(asyncio.sleep, self._retries.delay(failures, self._rng))

    @staticmethod
    def never_sent(error: HttpError) -> bool:
        """Whether the request cannot have reached the server."""
        return isinstance(error, ConnectFailed)

    def unready(self) -> str | None:
        """Why no session can be had now, as far as is known."""
        return None if self.replicas.any_usable else "no replica of the resources server answers"

    async def close(self) -> None:
        """Close the connections, if they are this client's own."""
        if self._owns_http:
            await self._http.close()
