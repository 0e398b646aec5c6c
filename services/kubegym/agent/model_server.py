"""A policy behind a model server: ``POST /v1/responses``, to KubeGym's or NeMo Gym's (contract 1.4, 1.7).

An agent needs no conversion of its own this way, and the model server sees whose call it is: by the rollout prefix of
the URL, and by cookies of its own, which are kept per rollout and apart from those of the resources server.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import orjson

from kubegym import __version__
from kubegym.agent.cookies import CookieJar
from kubegym.core.errors import ModelError
from kubegym.core.outcomes import STOP_REASONS, StopReason
from kubegym.core.protocols import CallContext, ModelReply
from kubegym.core.retry import Backoff
from kubegym.core.wire import DEADLINE_HEADER, failure_of
from kubegym.http import BodyTooLarge, HttpClient, HttpError, ReadTimeout, Response
from kubegym.http.names import Resolver
from kubegym.http.replicas import Replica, Replicas

FAULTS = Backoff()
"""For refused and lost connections and for 5xx."""

OVERLOAD = Backoff(attempts=40, base=0.5, maximum=30.0)
"""For 429 and 503, about 10 minutes in all; does not count as the rollout's own time (DESIGN section 7)."""

MOST_JARS = 16_384
"""Rollouts whose cookies are remembered, where a server sets any."""

POLICY_VERSION_HEADER = b"x-kubegym-policy-version"
STOP_HEADER = b"x-kubegym-stop"
_HEADERS = b"content-type: application/json\r\naccept: application/json\r\nuser-agent: kubegym/%b\r\n" % (
    __version__.encode()
)
_IN_A_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ModelServerClient:
    """Implements ``core.protocols.ModelClient`` over replicas of a model server; a rollout stays with one of them.

    Args:
        urls: base URLs, with or without ``/v1``.
        model: the name to ask for; empty leaves it to the server.
        http: connections to share; by default its own, closed with it.
        faults: tries and pauses for trouble.
        overload: tries and pauses for 429 and 503.
        rng: for the jitter.
        resolver: see ``Replicas``.

    Raises:
        InvalidSpec: no URL, or one that cannot be used.
    """

    def __init__(
        self,
        urls: Sequence[str],
        model: str = "",
        *,
        http: HttpClient | None = None,
        faults: Backoff = FAULTS,
        overload: Backoff = OVERLOAD,
        rng: random.Random | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        self.model = model
        self._rng = rng or random.Random()
        bases = [url.rstrip("/").removesuffix("/v1") for url in urls]
        self._replicas = Replicas(bases, rng=self._rng, resolver=resolver)
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
        clock = asyncio.get_running_loop().time
        started, waited = clock(), 0.0
        body = self._body(request, context)
        failures = overloads = 0
        broken: list[Replica] = []
        while True:
            try:
                reply = await self._try(body, context, broken)
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

    async def close(self) -> None:
        """Close the connections, if they are this client's own."""
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
            if extra:
                metadata = dict(body.get("metadata") or {})
                given = orjson.loads(metadata.get("extra_body") or "{}")
                metadata["extra_body"] = orjson.dumps({**given, **extra}).decode()
                body["metadata"] = metadata
            return orjson.dumps(body)
        except (TypeError, ValueError) as error:
            raise ModelError(f"the request has no JSON form: {error}", reason="RequestUnsupported") from None

    async def _try(self, body: bytes, context: CallContext, broken: list[Replica]) -> ModelReply:
        seconds = context.deadline.remaining()
        identity = context.rollout_id
        replica = self._replica(identity, broken)
        prefix = f"ng-rollout/{identity}/" if _IN_A_PATH.fullmatch(identity) else ""
        url = replica.url / f"{prefix}v1/responses"
        jar = self._jars.get(identity)
        headers = b"%b%b: %.3f\r\n%b" % (_HEADERS, DEADLINE_HEADER, seconds, jar.line() if jar else b"")
        if url.authorization is not None:
            headers += b"authorization: %b\r\n" % url.authorization
        if seconds <= 0:
            raise ModelError(f"no time was left to ask {url.shown}", reason="ModelTimeout", retryable=True)
        try:
            response = await self._http.request(b"POST", url, headers, body, seconds)
        except ReadTimeout as error:
            raise ModelError(f"{url.shown}: {error.message}", reason="ModelTimeout", retryable=True) from None
        except BodyTooLarge as error:
            raise ModelError(f"{url.shown}: {error.message}", reason="ModelReplyInvalid", retryable=False) from None
        except HttpError as error:
            self._replicas.failed(replica)
            broken.append(replica)
            raise ModelError(f"{url.shown}: {error.message}", reason="ModelUnavailable", retryable=True) from error
        replica.heal()
        self._keep_cookies(identity, jar, response)
        return _read(response, url.shown)

    def _replica(self, identity: str, broken: Sequence[Replica]) -> Replica:
        """The rollout's replica; the next one while that is out, or broke this very call."""
        replicas = self._replicas.all
        count = len(replicas)
        first = crc32(identity.encode()) % count
        if count == 1:
            return replicas[0]
        now = asyncio.get_running_loop().time()
        ring = (replicas[(first + offset) % count] for offset in range(count))
        usable = (replica for replica in ring if replica.usable(now) and replica not in broken)
        return next(usable, replicas[first])

    def _keep_cookies(self, identity: str, jar: CookieJar | None, response: Response) -> None:
        if jar is None:
            if response.header(b"set-cookie") is None:
                return
            if len(self._jars) >= MOST_JARS:
                del self._jars[next(iter(self._jars))]
            jar = self._jars[identity] = CookieJar()
        jar.take(response.headers)


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
        version = response.header(POLICY_VERSION_HEADER)
        told = (response.header(STOP_HEADER) or b"").decode("latin-1")
        stop: StopReason | None = next((reason for reason in STOP_REASONS if reason == told), None)
        return ModelReply(body, int(version) if version is not None and version.isdigit() else None, stop=stop)
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


def _excerpt(response: Response) -> str:
    text = " ".join(response.body[:1200].decode(errors="replace").split())
    return (text if len(text) <= 300 else text[:300] + "...") or "(empty body)"
