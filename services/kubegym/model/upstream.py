"""The models behind a model server, and which of them a rollout asks.

A rollout's calls go to one replica, so that its prefix cache is of use: the one with the fewest rollouts when it first
asks, another one only when that is out (``http.replicas``). Nothing is asked twice once a byte of a reply has come.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson

from kubegym.core.errors import InputError, InvalidSpec, ModelError
from kubegym.core.retry import Backoff
from kubegym.http import ConnectFailed, ConnectionLost, watch
from kubegym.http.names import Resolver
from kubegym.http.replicas import Replica, Replicas
from kubegym.http.routes import Routes
from kubegym.model.client import ChatClient
from kubegym.model.endpoint import check_endpoint, model_names
from kubegym.model.engine_client import EngineClient
from kubegym.model.engine_metrics import tokens_so_far
from kubegym.model.errors import (
    ModelAborted,
    ModelNotFound,
    ModelReplyInvalid,
    ModelSilent,
    ModelTimeout,
    ModelUnavailable,
)

T = TypeVar("T")
Client = ChatClient | EngineClient

ONCE = Backoff(attempts=1)
"""For the clients of a server: whoever asks the server decides whether to ask again."""
RETRIES = Backoff(attempts=3, base=0.1, maximum=1.0)
"""Of a call that reached no replica."""
SLOW_START = 30.0
"""Seconds until a replica that came later has its full share of the rollouts."""
ASK_SECONDS = 5.0
"""For questions to an engine about itself."""
_VERSION = re.compile(r"/v\d+[a-z\d]*$")
JSON_LINES = ((b"content-type", b"application/json"),)


class Upstreams:
    """Replicas of one model, by rollout.

    Args:
        clients: one for each replica, or for each name that stands for several.
        idle_seconds: how long a rollout that does not call is remembered.
        most_rollouts: that are remembered; beyond, those that called least recently are forgotten.
        retries: tries and pauses of a call that reached no replica.
        silence_seconds: without a byte, before a replica with calls open is looked at (``http.watch``).
        rng: for pauses.
        resolver: makes replicas of names; ``client_for`` makes their clients.
        client_for: the client of a base URL that was found by name.

    Raises:
        InvalidSpec: no client, or an endpoint twice.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        *,
        idle_seconds: float = 300.0,
        most_rollouts: int = 100_000,
        retries: Backoff = RETRIES,
        silence_seconds: float = watch.SECONDS,
        rng: random.Random | None = None,
        resolver: Resolver | None = None,
        client_for: Callable[[str], Client] | None = None,
    ) -> None:
        names = [_name(client, index) for index, client in enumerate(clients)]
        if len(set(names)) < len(names):
            raise InvalidSpec("the same upstream is named twice")
        self._rng = rng or random.Random()
        self._replicas = Replicas(names, rng=self._rng, slow_start=SLOW_START, resolver=resolver)
        self._routes = Routes(self._replicas, idle_seconds=idle_seconds, most=most_rollouts)
        self._given = list(clients)
        self._clients: dict[Replica, Client] = dict(zip(self._replicas.fixed, clients, strict=True))
        self._client_for = client_for
        self._in_flight: dict[Replica, int] = {}
        self._closing: set[asyncio.Future[None]] = set()
        self._retries = retries
        self._progress = Progress(self._client)
        self._watch = watch.Watch(
            self._progress.made, self._progress.answers, note=self._progress.note, seconds=silence_seconds
        )

    def __len__(self) -> int:
        return len(self._replicas)

    @property
    def models(self) -> list[str]:
        """The names that are served, each once."""
        return list(dict.fromkeys(client.model for client in self._given))

    def context_tokens(self, model: str) -> int | None:
        """The smallest context window of the replicas of a model, as far as they told theirs."""
        windows = [client.context_tokens for client in self._given if client.model == model]
        return min((window for window in windows if window is not None), default=None)

    @property
    def any_usable(self) -> bool:
        """Whether there is a replica that has not failed several times just now."""
        return self._replicas.any_usable

    @property
    def decisions(self) -> dict[str, int]:
        """How often a call went where (``http.routes``), a replica was put out, or found silent."""
        return {**self._routes.decisions, "ejected": self._replicas.ejections, "silent": self._watch.found}

    def states(self) -> list[tuple[str, bool, int, int]]:
        """Each replica for metrics: URL, whether it is usable, calls in flight, rollouts that stay with it."""
        now = asyncio.get_running_loop().time()
        return [(r.url.shown, r.usable(now), self._in_flight.get(r, 0), r.users) for r in self._replicas.all]

    async def ask(self, rollout: str | None, call: Callable[[Client], Awaitable[T]]) -> T:
        """Let ``call`` ask the rollout's replica.

        A call that could not connect, lost its connection before the reply began, or was cut because its replica is
        silent, is made again, on another replica where there is one. Everything else is raised as it came.

        Args:
            rollout: whose call it is; None: of nobody who calls again.
            call: makes the call. Raises ModelError.
        """
        await self._replicas.settle()
        tried: list[Replica] = []
        while True:
            replica = self._route(rollout, tried)
            client = self._client(replica)
            if replica.out_until == math.inf:
                raise ModelSilent(f"{client!r} takes calls and makes no progress")
            self._in_flight[replica] = self._in_flight.get(replica, 0) + 1
            try:
                result = await self._watched(replica, client, call)
            except ModelError as error:
                self._judge(replica, error)
                tried.append(replica)
                if not _reached_nobody(error) or len(tried) >= max(self._retries.attempts, len(self)):
                    raise
            else:
                replica.heal()
                return result
            finally:
                self._in_flight[replica] -= 1
            if len(tried) >= len(self):
                await asyncio.sleep(self._retries.delay(len(tried), self._rng))

    async def _watched(self, replica: Replica, client: Client, call: Callable[[Client], Awaitable[T]]) -> T:
        scope = asyncio.timeout(None)
        heard = False
        try:
            async with scope:
                self._watch.begin(replica, scope)
                try:
                    result = await call(client)
                    heard = True
                except ModelError as error:
                    heard = error.status is not None
                    raise
                finally:
                    self._watch.end(replica, scope, heard)
        except TimeoutError:
            if not scope.expired():
                raise
            raise ModelSilent(f"{client!r} takes calls and makes no progress") from None
        return result

    def leave(self, rollout: str) -> None:
        """The rollout is over."""
        self._routes.leave(rollout)

    def breaker(self, client: Client) -> Callable[[], None]:
        """To be told that a client's replica broke a reply off after ``ask`` had returned."""

        def broke() -> None:
            for replica, known in self._clients.items():
                if known is client:
                    self._replicas.failed(replica)

        return broke

    async def close(self) -> None:
        """Close the clients."""
        self._watch.close()
        for client in {*self._clients.values(), *self._given}:
            await client.close()

    def _client(self, replica: Replica) -> Client:
        client = self._clients.get(replica)
        if client is None:
            assert self._client_for is not None
            self._drop_gone()
            client = self._clients[replica] = self._client_for(replica.url.shown)
        return client

    def _drop_gone(self) -> None:
        """Close the clients of replicas that are no more, once no call of theirs runs."""
        for replica in [one for one in self._clients if one.gone and not self._in_flight.get(one)]:
            self._in_flight.pop(replica, None)
            if (client := self._clients.pop(replica)) not in self._given:
                closing = asyncio.ensure_future(client.close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    def _route(self, rollout: str | None, tried: list[Replica]) -> Replica:
        if len(self._replicas) == 1:
            return self._replicas.all[0]
        return self._routes.choose(rollout, tried)

    def _judge(self, replica: Replica, error: ModelError) -> None:
        if isinstance(error, ModelAborted | ModelSilent):
            return
        broken = isinstance(error, ModelReplyInvalid) and error.retryable
        if broken or isinstance(error, ModelUnavailable | ModelTimeout):
            self._replicas.failed(replica)
        elif error.status is not None:
            replica.heal()


class Progress:
    """Whether an engine that says nothing is at work: its own counters tell, and a question of one token.

    Args:
        client_of: the client of a replica.
    """

    def __init__(self, client_of: Callable[[Replica], Client]) -> None:
        self._client_of = client_of
        self._seen: dict[Replica, float] = {}

    async def note(self, replica: Replica) -> bool:
        """Remember how far it is."""
        self._seen.pop(replica, None)
        done = await self._done(replica)
        if done is not None and done >= 0:
            self._seen[replica] = done
        return True

    async def made(self, replica: Replica) -> bool:
        """Whether it came further since the note. One that keeps no such counter, or waits for weights, is believed."""
        client = self._client_of(replica)
        if isinstance(client, ChatClient) and client.kept is not None and client.kept.changing:
            return True
        done, before = await self._done(replica), self._seen.get(replica)
        if done is None:
            return False
        if done >= 0:
            self._seen[replica] = done
        return done < 0 or before is None or done != before

    async def _done(self, replica: Replica) -> float | None:
        """Tokens so far; negative where it does not count; None where it does not even tell that."""
        client = self._client_of(replica)
        if not isinstance(client, ChatClient):
            return -1.0
        try:
            reply = await client.get_beside("metrics", ASK_SECONDS)
        except ModelError:
            return None
        done = tokens_so_far(reply.body) if reply.status == 200 else None
        return -1.0 if done is None else done

    async def answers(self, replica: Replica) -> bool:
        """Whether it generates a token."""
        client = self._client_of(replica)
        if not isinstance(client, ChatClient):
            return True
        body = {"model": client.model, "messages": [{"role": "user", "content": "1"}], "max_tokens": 1}
        try:
            reply = await client.post(client.at("v1/chat/completions"), JSON_LINES, orjson.dumps(body), ASK_SECONDS)
        except ModelError:
            return False
        return reply.status < 500


def _name(client: Client, index: int) -> str:
    """A URL that stands for the client."""
    return client.base_url if isinstance(client, ChatClient) else f"http://in-process/{index}"


def _reached_nobody(error: ModelError) -> bool:
    cause = error.__cause__
    if isinstance(error, ModelSilent):
        return True
    return isinstance(cause, ConnectFailed) or (isinstance(cause, ConnectionLost) and cause.before_reply)


def endpoint_client(
    url: str,
    model: str,
    *,
    api_key: str | Path | None = None,
    sampling: Mapping[str, Any] | None = None,
    **options: Any,
) -> ChatClient:
    """A client for a model server's upstream: it asks once.

    Args:
        url: the server's root, or its API's: ``/v1`` (or another version) at the end may be left out.
        model: the name to ask for.
        api_key: see ``ChatClient``.
        sampling: see ``ChatClient``.
        options: see ``ChatClient``.

    Raises:
        InvalidSpec: a URL, key or field that cannot be used.
        InputError: a key file that cannot be read.
    """
    parts = urlsplit(url.strip())
    path = parts.path.rstrip("/")
    if not _VERSION.search(path):
        url = parts._replace(path=f"{path}/v1").geturl()
    return ChatClient(url, model, api_key=api_key, sampling=sampling, faults=ONCE, overload=ONCE, **options)


async def only_model(url: str, api_key: str | Path | None = None) -> str:
    """The name of the one model that an endpoint serves.

    Raises:
        InputError: it does not answer, serves none or several, which the message lists.
    """
    client = endpoint_client(url, "", api_key=api_key)
    try:
        with contextlib.suppress(ModelNotFound):  # It answers; that it serves no model without a name is no wonder.
            await check_endpoint(client)
        names = sorted(model_names((await client.get("models", 10.0)).body))
    except ModelError as error:
        raise InputError(error.message) from None
    finally:
        await client.close()
    if len(names) != 1:
        raise InputError(f"{client.base_url} serves {', '.join(names) or 'no named model'}; say which with --model")
    return names[0]
