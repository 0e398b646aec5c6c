"""A model behind model servers: ``POST /v1/responses``, to KubeGym's or NeMo Gym's (contract 1.4, 1.7).

An agent needs no conversion of its own this way, and the model server sees whose call it is: by the rollout prefix of
the URL, and by cookies of its own, which are kept per rollout and apart from those of the resources server.

A rollout goes to the replica with the fewest open rollouts and stays there (``http.routes``), until that is out, gone,
silent or about to end. How often a call is tried is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from kubegym import __version__
from kubegym.agent.cookies import CookieJar
from kubegym.core.errors import ModelError
from kubegym.core.ids import run_of_rollout
from kubegym.core.outcomes import STOP_REASONS, StopReason
from kubegym.core.protocols import CallContext, ModelReply
from kubegym.core.retry import Backoff
from kubegym.core.tokens import TOKEN_FIELDS, CallTokens, marked
from kubegym.core.wire import (
    DEADLINE_HEADER,
    POLICY_RUNS_HEADER,
    POLICY_VERSION_HEADER,
    ROLE_HEADER,
    RUN_HEADER,
    failure_of,
    policy_told,
)
from kubegym.http import BodyTooLarge, HttpClient, HttpError, ReadTimeout, Response, Url
from kubegym.http.names import Resolver
from kubegym.http.open_users import HEADER as OPEN_HEADER
from kubegym.http.replicas import Replica, Replicas
from kubegym.http.routes import Routes
from kubegym.http.watch import SECONDS, Watch

FAULTS = Backoff()
"""For refused and lost connections and for 5xx."""

OVERLOAD = Backoff(attempts=40, base=0.5, maximum=30.0)
"""For 429 and 503, about 10 minutes in all; does not count as the rollout's own time (DESIGN section 7)."""

OnCall = Callable[[float, float, str, int, int], None]

MOST_JARS = 16_384
"""Rollouts whose cookies are remembered, where a server sets any."""

STOP_HEADER = b"x-kubegym-stop"
QUEUED_HEADER = b"x-kubegym-queued"
DRAINING_HEADER = b"x-kubegym-draining"
SLOW_START = 30.0
"""Seconds until a replica that came later has its full share of the rollouts."""
REST_SECONDS = 5.0
"""A replica that drains is asked again after so long, if the name still stands for it."""
ASK_SECONDS = 5.0
"""For a question whether a replica is there."""
_HEADERS = b"content-type: application/json\r\naccept: application/json\r\nuser-agent: kubegym/%b\r\n" % (
    __version__.encode()
)
_IN_A_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ModelServerClient:
    """Implements ``core.protocols.ModelClient`` over replicas of a model server; a rollout stays with one of them.

    Args:
        urls: base URLs, with or without ``/v1``.
        model: the name to ask for; empty leaves it to the server.
        role: what it plays (policy, judge, ...), told for statistics.
        silence_seconds: without a byte, before a replica with calls open is looked at (``http.watch``).
        http: connections to share; by default its own, closed with it.
        faults: tries and pauses for trouble.
        overload: tries and pauses for 429 and 503.
        rng: for the jitter.
        resolver: see ``Replicas``.
        on_call: told of every call when it ends, as ``model.client.OnCall``.

    Raises:
        InvalidSpec: no URL, or one that cannot be used.
    """

    def __init__(
        self,
        urls: Sequence[str],
        model: str = "",
        *,
        role: str = "",
        silence_seconds: float = SECONDS,
        http: HttpClient | None = None,
        faults: Backoff = FAULTS,
        overload: Backoff = OVERLOAD,
        rng: random.Random | None = None,
        resolver: Resolver | None = None,
        on_call: OnCall | None = None,
    ) -> None:
        self.model = model
        self._on_call = on_call
        self._rng = rng or random.Random()
        bases = [url.rstrip("/").removesuffix("/v1") for url in urls]
        self._replicas = Replicas(bases, rng=self._rng, slow_start=SLOW_START, resolver=resolver)
        self._routes = Routes(self._replicas)
        self._watch = Watch(self._is_there, self._is_ready, seconds=silence_seconds)
        self._headers = _HEADERS + (b"%b: %b\r\n" % (ROLE_HEADER, role.encode()) if role else b"")
        self._name = os.urandom(4).hex().encode()
        self._owns_http = http is None
        self._http = http or HttpClient()
        self._faults = faults
        self._overload = overload
        self._jars: dict[str, CookieJar] = {}

    async def respond(self, request: dict[str, Any], context: CallContext) -> ModelReply:
        """Answer Responses create-params; waits after 429 and 503 are excused from the rollout's deadline.

        Raises:
            ModelError: "ModelUnavailable", "ModelOverloaded", "ModelTimeout", "ModelReplyInvalid",
                "ModelRejectedRequest", or what the server says has failed.
        """
        if self._on_call is None:
            return await self._respond(request, context)
        started, outcome, tokens = asyncio.get_running_loop().time(), "Cancelled", (0, 0)
        waited = 0.0
        try:
            reply = await self._respond(request, context)
            outcome, waited = "ok", reply.waited
            usage = reply.response.get("usage") or {}
            tokens = (usage.get("input_tokens") or 0, usage.get("output_tokens") or 0)
            return reply
        except ModelError as error:
            outcome = error.reason
            raise
        finally:
            self._on_call(asyncio.get_running_loop().time() - started - waited, waited, outcome, *tokens)

    async def question(self, path: str, body: Mapping[str, Any], context: CallContext) -> dict[str, Any]:
        """Ask a route beside generation, such as ``pooling``; its reply's object. See ``core.protocols.Questions``.

        Raises:
            ModelError: see ``respond``.
        """
        named = {"model": self.model} if self.model else {}
        return (await self._answer(path, orjson.dumps({**named, **body}), context)).response

    async def models(self, context: CallContext) -> dict[str, Any]:
        """The server's model list, ``/v1/models``.

        Raises:
            ModelError: see ``respond``; with status 404 or 405 where the server has no such route.
        """
        return (await self._answer("v1/models", None, context)).response

    async def _respond(self, request: dict[str, Any], context: CallContext) -> ModelReply:
        return await self._answer("v1/responses", self._body(request, context), context)

    async def _answer(self, path: str, body: bytes | None, context: CallContext) -> ModelReply:
        """POST a body, or without one GET."""
        clock = asyncio.get_running_loop().time
        started, waited = clock(), 0.0
        failures = overloads = 0
        broken: list[Replica] = []
        while True:
            try:
                reply = await self._try(path, body, context, broken)
            except ModelError as error:
                if not error.retryable:
                    raise
                overloaded = error.status in (429, 503)
                backoff = self._overload if overloaded else self._faults
                failures, overloads = failures + (not overloaded), overloads + overloaded
                count = overloads if overloaded else failures
                if count >= backoff.attempts or (error.reason == "ModelTimeout" and count > 1):
                    raise
                pause = backoff.delay(count, self._rng, error.retry_after)
                if overloaded:
                    context.deadline.excuse(pause)
                if pause >= context.deadline.remaining():
                    raise
                await asyncio.sleep(pause)
                waited += pause if overloaded else 0.0
            else:
                reply.seconds, reply.waited = clock() - started - waited, waited
                return reply

    def leave(self, rollout_id: str) -> None:
        """The rollout is over."""
        self._routes.leave(rollout_id)
        self._jars.pop(rollout_id, None)

    @property
    def decisions(self) -> dict[str, int]:
        """How often a call went where (``http.routes``), a replica was put out, or found silent."""
        return {**self._routes.decisions, "ejected": self._replicas.ejections, "silent": self._watch.found}

    async def close(self) -> None:
        """Close the connections, if they are this client's own."""
        self._watch.close()
        if self._owns_http:
            await self._http.close()

    def _body(self, request: dict[str, Any], context: CallContext) -> bytes:
        body = {name: value for name, value in request.items() if value is not None}
        if self.model:
            body["model"] = self.model
        try:
            # Responses has no words for these (contract 5, ``num_repeats_add_seed``)
            extra: dict[str, Any] = {} if context.seed is None else {"seed": context.seed}
            if context.token_ids:
                extra |= {"return_token_ids": True, "logprobs": True}
            if context.previous is not None and isinstance(body.get("input"), list):
                body["input"] = marked(body["input"], context.previous)
            if extra:
                metadata = dict(body.get("metadata") or {})
                given = orjson.loads(metadata.get("extra_body") or "{}")
                metadata["extra_body"] = orjson.dumps({**given, **extra}).decode()
                body["metadata"] = metadata
            return orjson.dumps(body)
        except (TypeError, ValueError) as error:
            raise ModelError(f"the request has no JSON form: {error}", reason="RequestUnsupported") from None

    async def _try(self, path: str, body: bytes | None, context: CallContext, broken: list[Replica]) -> ModelReply:
        await self._replicas.settle()
        seconds = context.deadline.remaining()
        identity = context.rollout_id
        replica = self._routes.choose(identity or None, broken)
        prefix = f"ng-rollout/{identity}/" if _IN_A_PATH.fullmatch(identity) else ""
        url = replica.url / f"{prefix}{path}"
        if seconds <= 0:
            raise ModelError(f"no time was left to ask {url.shown}", reason="ModelTimeout", retryable=True)
        if replica.out_until == math.inf:
            raise _silent(url.shown)
        jar = self._jars.get(identity)
        users = replica.users
        headers = b"%b%b: %.3f\r\n%b: %b\r\n%b: %b/%d\r\n%b" % (
            *(self._headers, DEADLINE_HEADER, seconds, RUN_HEADER, run_of_rollout(identity).encode()),
            *(OPEN_HEADER, self._name, users, jar.line() if jar else b""),
        )
        if url.authorization is not None:
            headers += b"authorization: %b\r\n" % url.authorization
        try:
            response = await self._ask(replica, url, headers, body, seconds)
        except ReadTimeout as error:
            raise ModelError(f"{url.shown}: {error.message}", reason="ModelTimeout", retryable=True) from None
        except BodyTooLarge as error:
            raise ModelError(f"{url.shown}: {error.message}", reason="ModelReplyInvalid", retryable=False) from None
        except HttpError as error:
            self._replicas.failed(replica)
            broken.append(replica)
            raise ModelError(f"{url.shown}: {error.message}", reason="ModelUnavailable", retryable=True) from error
        self._keep_cookies(identity, jar, response)
        try:
            reply = _read(response, url.shown)
        except ModelError as error:
            self._judge(replica, error, broken)
            raise
        finally:
            self._hear(replica, response, users, context)
        replica.heal()
        if response.header(DRAINING_HEADER) is not None:
            replica.rest(asyncio.get_running_loop().time() + REST_SECONDS)
        return reply

    async def _ask(self, replica: Replica, url: Url, headers: bytes, body: bytes | None, seconds: float) -> Response:
        method = b"GET" if body is None else b"POST"
        scope, heard = asyncio.timeout(None), False
        try:
            async with scope:
                self._watch.begin(replica, scope)
                try:
                    response = await self._http.request(method, url, headers, body or b"", seconds)
                    heard = True
                finally:
                    self._watch.end(replica, scope, heard)
        except TimeoutError:
            if not scope.expired():
                raise
            raise _silent(url.shown) from None
        return response

    def _judge(self, replica: Replica, error: ModelError, broken: list[Replica]) -> None:
        """What an error of a replica's says of it: 500 and 502 to 504 send this call elsewhere, 429 does not."""
        if error.status is None or error.status == 429 or error.status < 500:
            replica.heal()
            return
        broken.append(replica)
        if error.status == 503:
            pause = min(REST_SECONDS, error.retry_after or 1.0)
            replica.rest(asyncio.get_running_loop().time() + pause)
        elif error.reason != "ModelAborted":
            self._replicas.failed(replica)

    def _hear(self, replica: Replica, response: Response, users: int, context: CallContext) -> None:
        """What a reply says beside its body: the others' rollouts there, and how long the call waited."""
        total = response.header(OPEN_HEADER)
        if total is not None and total.isdigit():
            replica.others = max(0, int(total) - users)
        queued = response.header(QUEUED_HEADER)
        if queued is not None:
            with contextlib.suppress(ValueError):
                context.deadline.excuse(float(queued))

    async def _is_there(self, replica: Replica) -> bool:
        """Whether the server of a silent replica answers at all; whether its engine is at work it judges itself."""
        return await self._status(replica, "healthz") is not None

    async def _is_ready(self, replica: Replica) -> bool:
        status = await self._status(replica, "readyz")
        return status is not None and status != 503

    async def _status(self, replica: Replica, path: str) -> int | None:
        try:
            return (await self._http.request(b"GET", replica.at(path), b"", b"", ASK_SECONDS)).status
        except HttpError:
            return None

    def _keep_cookies(self, identity: str, jar: CookieJar | None, response: Response) -> None:
        if jar is None:
            if response.header(b"set-cookie") is None:
                return
            if len(self._jars) >= MOST_JARS:
                del self._jars[next(iter(self._jars))]
            jar = self._jars[identity] = CookieJar()
        jar.take(response.headers)


def _silent(where: str) -> ModelError:
    return ModelError(f"{where} takes calls and says nothing", reason="ModelSilent", retryable=True)


def _read(response: Response, where: str) -> ModelReply:
    """The reply of a server, or the ModelError that it is."""
    try:
        body = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        body = None
    status = response.status
    if 200 <= status < 300:
        if not isinstance(body, dict):
            text = f"{where} answered {status} with something that is no JSON object: {_excerpt(response)}"
            raise ModelError(text, reason="ModelReplyInvalid", retryable=True, status=status)
        number, runs = policy_told(response.header(POLICY_VERSION_HEADER), response.header(POLICY_RUNS_HEADER))
        told = (response.header(STOP_HEADER) or b"").decode("latin-1")
        stop: StopReason | None = next((reason for reason in STOP_REASONS if reason == told), None)
        return ModelReply(body, number, stop=stop, tokens=_take_tokens(body), policy_runs=runs)
    asked = response.header(b"retry-after")
    wait = float(asked) if asked is not None and asked.isdigit() else None
    carried = failure_of(body, 0) if isinstance(body, dict) else None
    message = f"{where} answered {status}: {carried.message if carried else _excerpt(response)}"
    reason, retryable = "ModelRejectedRequest", False
    if status in (429, 503):
        reason, retryable = "ModelOverloaded", True
    elif status >= 500 or status in (408, 425):
        reason, retryable = "ModelUnavailable", True
    if carried is not None:
        reason, retryable = carried.reason, carried.retryable
    raise ModelError(message, reason=reason, retryable=retryable, status=status, retry_after=wait)


def _take_tokens(body: dict[str, Any]) -> CallTokens | None:
    """The call's tokens, which are taken off the item that told them: the next request need not repeat them all."""
    output = body.get("output")
    last = output[-1] if isinstance(output, list) and output else None
    if not isinstance(last, dict):
        return None
    tokens = CallTokens.read(last)
    if tokens is not None:
        for name in TOKEN_FIELDS:
            del last[name]
    return tokens


def _excerpt(response: Response) -> str:
    text = " ".join(response.body[:1200].decode(errors="replace").split())
    return (text if len(text) <= 300 else text[:300] + "...") or "(empty body)"
