"""The models behind a model server, and which of them a rollout asks.

A rollout's calls go to one replica, so that its prefix cache is of use: the one with the fewest rollouts when it first
asks, another one only when that is out (``http.replicas``). Nothing is asked twice once a byte of a reply has come.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kubegym.core.errors import InputError, InvalidSpec, ModelError
from kubegym.core.retry import Backoff
from kubegym.http import ConnectFailed, ConnectionLost
from kubegym.http.replicas import Replica, Replicas
from kubegym.model.client import ChatClient, EngineClient
from kubegym.model.endpoint import check_endpoint, model_names
from kubegym.model.errors import ModelAborted, ModelNotFound, ModelReplyInvalid, ModelTimeout, ModelUnavailable

T = TypeVar("T")
Client = ChatClient | EngineClient

ONCE = Backoff(attempts=1)
"""For the clients of a server: whoever asks the server decides whether to ask again."""
RETRIES = Backoff(attempts=3, base=0.1, maximum=1.0)
"""Of a call that reached no replica."""


class Upstreams:
    """Replicas of one model, by rollout.

    Args:
        clients: one for each replica.
        idle_seconds: how long a rollout that does not call is remembered.
        most_rollouts: that are remembered; beyond, those that called least recently are forgotten.
        retries: tries and pauses of a call that reached no replica.
        rng: for pauses.

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
        rng: random.Random | None = None,
    ) -> None:
        names = [_name(client, index) for index, client in enumerate(clients)]
        if len(set(names)) < len(names):
            raise InvalidSpec("the same upstream is named twice")
        self._rng = rng or random.Random()
        self._replicas = Replicas(names, rng=self._rng)
        self._clients: dict[Replica, Client] = dict(zip(self._replicas.all, clients, strict=True))
        self._in_flight = dict.fromkeys(self._replicas.all, 0)
        self._rollouts: dict[str, tuple[Replica, float]] = {}  # in order of their last call
        self._idle_seconds = idle_seconds
        self._most_rollouts = most_rollouts
        self._retries = retries

    def __len__(self) -> int:
        return len(self._clients)

    @property
    def models(self) -> list[str]:
        """The names that are served, each once."""
        return list(dict.fromkeys(client.model for client in self._clients.values()))

    @property
    def any_usable(self) -> bool:
        """Whether there is a replica that has not failed several times just now."""
        return self._replicas.any_usable

    def states(self) -> list[tuple[str, bool, int, int]]:
        """Each replica for metrics: URL, whether it is usable, calls in flight, rollouts that stay with it."""
        now = asyncio.get_running_loop().time()
        return [(r.url.shown, r.usable(now), self._in_flight[r], r.users) for r in self._replicas.all]

    async def ask(self, rollout: str | None, call: Callable[[Client], Awaitable[T]]) -> T:
        """Let ``call`` ask the rollout's replica.

        A call that could not connect, or lost its connection before the reply began, is made again, on another replica
        where there is one. Everything else is raised as it came.

        Args:
            rollout: whose call it is; None: of nobody who calls again.
            call: makes the call. Raises ModelError.
        """
        tried: list[Replica] = []
        while True:
            replica = self._route(rollout, tried)
            self._in_flight[replica] += 1
            try:
                result = await call(self._clients[replica])
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

    def broke(self, rollout: str | None) -> None:
        """The rollout's replica broke a reply off after ``ask`` had returned."""
        entry = self._rollouts.get(rollout) if rollout is not None else None
        if entry is not None:
            self._replicas.failed(entry[0])

    async def close(self) -> None:
        """Close the clients."""
        for client in self._clients.values():
            await client.close()

    def _route(self, rollout: str | None, tried: list[Replica]) -> Replica:
        replicas = self._replicas
        if len(replicas) == 1:
            return replicas.all[0]
        if rollout is None:
            replica = replicas.take(tried)
            replicas.give(replica)
            return replica
        now = asyncio.get_running_loop().time()
        self._forget(now)
        entry = self._rollouts.pop(rollout, None)
        replica = entry[0] if entry is not None else replicas.take(tried)
        if entry is not None and (replica in tried or now < replica.out_until):
            replicas.give(replica)
            replica = replicas.take(tried)
        self._rollouts[rollout] = (replica, now)
        return replica

    def _forget(self, now: float) -> None:
        """Give back the replicas of rollouts that are over, or so many that the oldest have to go."""
        while self._rollouts:
            rollout = next(iter(self._rollouts))
            replica, used = self._rollouts[rollout]
            if now - used < self._idle_seconds and len(self._rollouts) < self._most_rollouts:
                return
            del self._rollouts[rollout]
            self._replicas.give(replica)

    def _judge(self, replica: Replica, error: ModelError) -> None:
        if isinstance(error, ModelAborted):
            return
        broken = isinstance(error, ModelReplyInvalid) and error.retryable
        if broken or isinstance(error, ModelUnavailable | ModelTimeout):
            self._replicas.failed(replica)
        elif error.status is not None:
            replica.heal()


def _name(client: Client, index: int) -> str:
    """A URL that stands for the client."""
    return client.base_url if isinstance(client, ChatClient) else f"http://in-process/{index}"


def _reached_nobody(error: ModelError) -> bool:
    cause = error.__cause__
    return isinstance(cause, ConnectFailed) or (isinstance(cause, ConnectionLost) and cause.before_reply)


def endpoint_client(
    url: str,
    model: str,
    *,
    api_key: str | Path | None = None,
    sampling: Mapping[str, Any] | None = None,
    **options: Any,
) -> ChatClient:
    """A client for a model server's upstream: it asks once. Raises InvalidSpec or InputError."""
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
