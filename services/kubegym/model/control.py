"""The control port of a model server: drain, pause, resume; for who has the ModelServer's token (DESIGN 5, rule 11).

It listens apart from the data port, so that a network policy can tell them apart, and answers nobody without the token
where there is none. Weights are announced and their canary is asked for here, too. A token file may hold the digest of
the token instead of it, ``sha256:<hex>``: whoever reads the file then cannot control.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from kubegym.core.spec.model import Weights
from kubegym.http.server import App, Handler, Problem, Reply, Request
from kubegym.model.holds import Holds
from kubegym.model.queue import FairQueue
from kubegym.model.weights import Exchange, WeightsError

DRAINING, PAUSED = "draining", "paused"
MOST_WAIT_SECONDS = 3600.0
_DIGEST = b"sha256:"


class Control(App):
    """An ASGI application that controls a model server.

    Args:
        holds: what its readiness depends on.
        queue: its queue.
        token_file: holds the token; read at every request, so that a new one counts at once.
        why_unready: what the server's readiness is.
        exchange: the weights of the one engine behind it; None: they cannot be exchanged.
    """

    def __init__(
        self,
        holds: Holds,
        queue: FairQueue,
        token_file: Path,
        why_unready: Callable[[], str | None],
        exchange: Exchange | None = None,
    ) -> None:
        self._exchange = exchange
        self._holds = holds
        self._queue = queue
        self._token_file = token_file
        self._why_unready = why_unready
        super().__init__(
            "KubeGym model server, control",
            {
                ("GET", "/state"): self._guarded(self._state),
                ("POST", "/drain"): self._guarded(self._drain),
                ("POST", "/pause"): self._guarded(self._pause),
                ("POST", "/resume"): self._guarded(self._resume),
                ("POST", "/weights"): self._guarded(self._weights),
                ("POST", "/canary"): self._guarded(self._canary),
            },
            registry=CollectorRegistry(),
            document=document,
            max_body=1 << 20,
        )

    def _guarded(self, work: Callable[[Request], Awaitable[Reply]]) -> Handler:
        async def handle(request: Request) -> Reply:
            try:
                token = self._token_file.read_bytes().strip()
            except OSError:
                token = b""
            given = request.headers.get(b"authorization", b"").removeprefix(b"Bearer ").strip()
            if not token or not _is_token(given, token):
                raise Problem(401, "the token of this ModelServer is needed", [(b"www-authenticate", b"Bearer")])
            return await work(request)

        return handle

    async def _state(self, request: Request) -> Reply:
        return self._told()

    def _told(self) -> Reply:
        reason = self._why_unready()
        return Reply.json(
            {
                "ready": reason is None,
                "reason": reason,
                "holds": self._holds.reasons,
                "at_work": self._queue.working,
                "waiting": self._queue.waiting,
                **(self._exchange.told() if self._exchange is not None else {}),
            }
        )

    async def _drain(self, request: Request) -> Reply:
        """Not ready, so that nobody new comes; who comes all the same is answered. ``/resume`` takes it back."""
        self._holds.put(DRAINING, "draining")
        return await self._after(request)

    async def _pause(self, request: Request) -> Reply:
        """Not ready, and nobody is let in; who is at the engine finishes."""
        self._holds.put(PAUSED, "paused")
        self._queue.pause()
        return await self._after(request)

    async def _after(self, request: Request) -> Reply:
        """The state, once nothing is at work or the caller's ``wait_seconds`` are over."""
        seconds = _wait_seconds(request.object() if request.body else {})
        if seconds:
            try:
                async with asyncio.timeout(seconds):
                    await self._queue.idle()
            except TimeoutError:
                pass  # ``at_work`` tells
        return self._told()

    async def _resume(self, request: Request) -> Reply:
        self._holds.lift(PAUSED)
        self._holds.lift(DRAINING)
        self._queue.resume()
        return self._told()

    async def _weights(self, request: Request) -> Reply:
        """Exchange the weights, in the background: ``/state`` tells how that goes."""
        exchange = self._needed()
        try:
            exchange.order(Weights.model_validate(request.object()))
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            raise Problem(422, [{**one, "loc": ["body", *one["loc"]]} for one in found]) from None
        except WeightsError as error:
            raise Problem(409, f"{error.reason}: {error.message}") from None
        return self._told()

    async def _canary(self, request: Request) -> Reply:
        """Ask the canary of what is served now."""
        exchange = self._needed()
        try:
            return Reply.json({"proven": True, "difference": await exchange.prove()})
        except WeightsError as error:
            return Reply.json({"proven": False, "reason": error.reason, "message": error.message}, 409)

    def _needed(self) -> Exchange:
        if self._exchange is None:
            raise Problem(409, "WeightsUnsupported: weights are exchanged by the model server of one engine")
        return self._exchange


def _is_token(given: bytes, held: bytes) -> bool:
    if held.startswith(_DIGEST):
        return hmac.compare_digest(hashlib.sha256(given).hexdigest().encode(), held.removeprefix(_DIGEST))
    return hmac.compare_digest(given, held)


def _wait_seconds(body: dict[str, Any]) -> float:
    given = body.get("wait_seconds", 0)
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= MOST_WAIT_SECONDS:
        raise Problem.invalid(["body", "wait_seconds"], f"must be seconds, from 0 to {MOST_WAIT_SECONDS:g}")
    return float(given)


def document() -> dict[str, Any]:
    """OpenAPI paths."""
    wait = {
        "content": {
            "application/json": {"schema": {"type": "object", "properties": {"wait_seconds": {"type": "number"}}}}
        }
    }
    state = {"200": {"description": "The state."}, "401": {"description": "No token, or not this one's."}}
    return {
        "paths": {
            "/state": {"get": {"summary": "Whether it is ready, why not, and what is at work.", "responses": state}},
            "/drain": {
                "post": {"summary": "Take no new rollouts; answer those who come.", "requestBody": wait}
                | {"responses": state}
            },
            "/pause": {
                "post": {"summary": "Let no call reach the engine.", "requestBody": wait} | {"responses": state}
            },
            "/resume": {"post": {"summary": "Take back drain and pause.", "responses": state}},
            "/weights": {
                "post": {
                    "summary": "Exchange the weights, prove them, and put them back where they do not prove.",
                    "requestBody": {"content": {"application/json": {"schema": Weights.model_json_schema()}}},
                    "responses": {**state, "409": {"description": "Not with this engine, or an older version."}},
                }
            },
            "/canary": {
                "post": {
                    "summary": "Ask the canary of what is served.",
                    "responses": {**state, "409": {"description": "Not proven."}},
                }
            },
        }
    }
