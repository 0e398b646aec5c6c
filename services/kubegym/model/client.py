"""Model clients: Responses create-params in, a Responses object out, whatever speaks Chat Completions behind.

``ChatClient`` talks to any OpenAI-compatible endpoint, ``EngineClient`` to an engine object in this process. A reply is
a sample only if the endpoint finished it: an aborted one is tried again; what cannot be read is an error, never a text.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from kubegym import __version__
from kubegym.core.clock import Clock, SystemClock
from kubegym.core.errors import InputError, InvalidSpec, ModelError
from kubegym.core.protocols import CallContext, ModelReply
from kubegym.core.retry import Backoff
from kubegym.core.tokens import Runs
from kubegym.core.wire import POLICY_RUNS_HEADER, POLICY_VERSION_HEADER, policy_told
from kubegym.http import BodyTooLarge, HttpClient, HttpError, ReadTimeout, Response, StreamedReply, Url
from kubegym.http.headers import Pair
from kubegym.http.headers import lines as header_lines
from kubegym.model.api_key import ApiKey
from kubegym.model.convert import (
    Completion,
    ReasoningStyle,
    chat_request,
    overflow_completion,
    read_completion,
)
from kubegym.model.errors import (
    ContextWindowExceeded,
    ModelAborted,
    ModelOverloaded,
    ModelReplyInvalid,
    ModelTimeout,
    ModelUnauthorized,
    ModelUnavailable,
    RequestUnsupported,
)
from kubegym.model.kept import KeptCalls
from kubegym.model.question import JSON_PAIRS, ask
from kubegym.model.retry import FAULTS, OVERLOAD, Tries, excerpt, retry_after, status_error
from kubegym.model.splice import Splicer

log = logging.getLogger("kubegym.model")

OnCall = Callable[[float, float, str, int, int], None]
"""Told of every call: seconds, seconds waited for capacity, "ok" or the error's reason, input and output tokens."""

Policy = tuple[int | None, Runs]
"""The version of the weights that made a reply, and where several did, which made which of its tokens."""


class Asking:
    """Conversion, deadline and retries around one way to ask for a chat completion.

    Args:
        model: the name to ask for.
        sampling: chat fields forced onto every request, last (``temperature``, ``max_tokens``, vendor fields).
        token_ids: ask for token ids and log-probs with every call, not only where the caller wants them. An endpoint
            that does not tell them is logged, once.
        reasoning: how reasoning in the history goes upstream.
        request_timeout: seconds for one try; None leaves the rollout's deadline as the only limit.
        faults: tries and pauses for trouble.
        overload: tries and pauses for 429 and 503.
        rng: for the jitter.
        on_call: told of every call when it ends.
    """

    def __init__(
        self,
        model: str,
        *,
        sampling: Mapping[str, Any] | None = None,
        token_ids: bool = False,
        reasoning: ReasoningStyle = "fields",
        request_timeout: float | None = None,
        faults: Backoff = FAULTS,
        overload: Backoff = OVERLOAD,
        rng: random.Random | None = None,
        on_call: OnCall | None = None,
    ) -> None:
        self.model = model
        self.sampling = dict(sampling or {})
        self._token_ids = token_ids
        self._told = False
        self._reasoning = reasoning
        self._request_timeout = float("inf") if request_timeout is None else request_timeout
        self._faults = faults
        self._overload = overload
        self._rng = rng or random.Random()
        self._on_call = on_call
        self.splicer: Splicer | None = None
        self._identity = os.urandom(12).hex()  # asking the system for each reply's id would cost 15 us
        self._replies = itertools.count()

    async def respond(self, request: dict[str, Any], context: CallContext) -> ModelReply:
        """Answer Responses create-params.

        A conversation that no longer fits the model is an empty, incomplete reply with ``stop`` "context_window", not
        an error (contract section 6). Waits after 429 and 503 are excused from the rollout's deadline.

        Raises:
            ModelError: see ``model.errors``; its message says where, the status and the beginning of the body.
        """
        clock = asyncio.get_running_loop().time
        started = clock()
        waited = 0.0
        outcome = "Cancelled"
        usage: dict[str, Any] | None = None
        try:
            body = self._body(request, context)
            tries = self.tries()
            while True:
                try:
                    completion, (version, runs) = await self._try(body, request, context)
                except ModelError as error:
                    outcome = error.reason
                    pause = tries.pause(error)
                    if pause is None:
                        raise
                    overloaded = isinstance(error, ModelOverloaded)
                    if overloaded:
                        context.deadline.excuse(pause)
                    if pause >= context.deadline.remaining():
                        raise
                else:
                    outcome = "ok"
                    usage = completion.response["usage"]
                    seconds = clock() - started - waited
                    told = completion.stop, completion.tokens, runs
                    return ModelReply(completion.response, version, seconds, waited, *told)
                outcome = "Cancelled"
                await asyncio.sleep(pause)
                waited += pause if overloaded else 0.0
        except ModelError as error:
            outcome = error.reason
            raise
        finally:
            if self._on_call is not None:
                tokens = (usage["input_tokens"], usage["output_tokens"]) if usage else (0, 0)
                self._on_call(clock() - started - waited, waited, outcome, *tokens)

    def tries(self) -> Tries:
        """The bounds of one call."""
        return Tries(self._faults, self._overload, self._rng)

    def leave(self, rollout_id: str) -> None:
        """Nothing is kept for a rollout."""

    @property
    def asked(self) -> str:
        """The name that calls for ``model`` ask for."""
        return self.model

    def _body(self, request: dict[str, Any], context: CallContext) -> dict[str, Any]:
        body = chat_request(request, self.asked, self._reasoning)
        if context.seed is not None:
            body["seed"] = context.seed
        if self._token_ids or context.token_ids:
            body["return_token_ids"] = body["logprobs"] = True
        if self.sampling:
            body.update(self.sampling)
        return body

    async def _try(
        self, body: dict[str, Any], params: dict[str, Any], context: CallContext
    ) -> tuple[Completion, Policy]:
        timeout = min(context.deadline.remaining(), self._request_timeout)
        if timeout <= 0:
            raise ModelTimeout(f"no time was left to ask {self._where()}")
        identity = f"{self._identity}{next(self._replies):08x}"
        splicer = self.splicer if context.previous is not None and body.get("return_token_ids") else None
        try:
            if splicer is not None and context.previous is not None:
                body = await splicer.continued(body, context.previous, timeout)
            chat, policy = await self._chat(body, timeout)
            completion = read_completion(chat, params, identity)
            if splicer is not None:
                splicer.check(body, completion.tokens)
            if completion.tokens is None and (self._token_ids or context.token_ids):
                self._warn_once()
            return completion, policy
        except ContextWindowExceeded:
            return overflow_completion(params, self.model, identity, int(time.time())), (None, ())
        except (ModelReplyInvalid, ModelAborted) as error:
            if error.status is not None:
                raise
            # Conversion does not know who said it.
            raise type(error)(f"{self._where()}: {error.message}", retryable=error.retryable) from None

    def _warn_once(self) -> None:
        if not self._told:
            self._told = True
            log.warning("%s tells no token ids: what it answers cannot train", self._where())

    async def _chat(self, body: dict[str, Any], timeout: float) -> tuple[Any, Policy]:
        """One chat completion, as parsed JSON, and what is told of the policy. Raises ModelError."""
        raise NotImplementedError

    def _where(self) -> str:
        """What is asked, for messages."""
        raise NotImplementedError


class ChatClient(Asking):
    """A model behind an OpenAI-compatible endpoint: vLLM, NIM, OpenAI, the simulated engine.

    Args:
        base_url: the URL up to and with ``/v1``.
        model: the name the endpoint serves.
        api_key: the key, a Path to a file that holds it (read again while we run), or None.
        headers: further header lines; they replace ours of the same name.
        http: connections to share with other clients; by default its own, closed with it.
        clock: for Retry-After dates.
        options: see ``Asking``.

    Attributes:
        served: the names that it can be asked for, as far as is known: the model's, and what ``check_endpoint`` saw.
        context_tokens: the model's context window, prompt and answer together, where ``check_endpoint`` saw it.
        adapter: the name of an adapter that stands for the model; None: the model itself does.
        kept: asks for chat completions that stay at the engine while its weights change; None: none shall.

    Raises:
        InvalidSpec: a URL, key or header that cannot be sent.
        InputError: a key file that cannot be read.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | Path | None = None,
        headers: Mapping[str, str] | None = None,
        http: HttpClient | None = None,
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        self._base = Url(base_url)
        self._chat_url = self._base / "chat/completions"
        self._key = ApiKey(api_key)
        self._owns_http = http is None
        self._http = http or HttpClient()
        self._clock = clock or SystemClock()
        self._fixed_headers = _header_lines(headers or {})
        self._headers = self._our_lines = b""
        self._ours: frozenset[bytes] = frozenset()
        self._headers_key: str | None = None
        self._routes: dict[str, Url] = {}
        self.served: frozenset[str] = frozenset({model})
        self.context_tokens: int | None = None
        self.adapter: str | None = None
        self.kept: KeptCalls | None = None
        self._limit_field = "max_tokens"
        self.splicer = Splicer(self._ask)

    @property
    def asked(self) -> str:
        """The name that calls for ``model`` ask for."""
        return self.adapter or self.model

    @property
    def base_url(self) -> str:
        """The endpoint's URL, without credentials."""
        return self._base.shown

    def redact(self, text: str) -> str:
        """The text without the API key."""
        return self._key.redact(text)

    def __repr__(self) -> str:
        return f"ChatClient({self.base_url!r}, {self.model!r})"

    async def close(self) -> None:
        """Close the connections, if they are this client's own."""
        if self._owns_http:
            await self._http.close()

    async def get(self, path: str, timeout: float) -> Response:
        """GET below the base URL, with this client's key; whatever the status. Raises ModelError."""
        url = self._base / path
        return await self._exchange(b"GET", url, b"", timeout)

    async def get_beside(self, path: str, timeout: float) -> Response:
        """GET beside the base URL (``metrics``), whatever the status. Raises ModelError."""
        return await self._exchange(b"GET", self.at(path), b"", timeout)

    def at(self, path: str) -> Url:
        """The URL of a route of the server: ``v1/completions`` lies below the base URL, ``tokenize`` beside it."""
        url = self._routes.get(path)
        if url is None:
            below = path.removeprefix("v1/")
            url = self._routes[path] = self._base / below if below != path else self._base.parent / path
        return url

    async def post(self, url: Url, pairs: Sequence[Pair], body: bytes, timeout: float) -> Response:
        """A call as others wrote it, sent once: whatever the status and the body say.

        Args:
            url: one of ``at``.
            pairs: header lines of the caller that go on; this client's own replace theirs.
            body: the body.
            timeout: seconds for all of it.

        Raises:
            ModelError: there is no reply.
        """
        response = await self._send(b"POST", url, self._passed_block(pairs), body, timeout)
        if response.status == 401 and self._key.reread():
            return await self._send(b"POST", url, self._passed_block(pairs), body, timeout)
        return response

    @asynccontextmanager
    async def stream(
        self, method: bytes, url: Url, pairs: Sequence[Pair], body: bytes, timeout: float
    ) -> AsyncIterator[StreamedReply]:
        """Like ``post``, with the reply piece by piece; what breaks inside the block is an HttpError as it is.

        Raises:
            ModelError: there is no reply.
        """
        async with AsyncExitStack() as stack:
            try:
                opened = self._http.stream(method, url, self._passed_block(pairs), body, timeout)
                reply = await stack.enter_async_context(opened)
            except HttpError as error:
                raise self._transport_error(error, url, timeout) from error
            yield reply

    question = ask

    def keeps(self, body: Mapping[str, Any]) -> bool:
        """Whether a chat call is asked so that it stays at the engine while its weights change."""
        return self.kept is not None and self.adapter is None and self.kept.takes(body)

    async def kept_chat(
        self, body: Mapping[str, Any], timeout: float, pairs: Sequence[Pair] = JSON_PAIRS
    ) -> tuple[dict[str, Any], Policy]:
        """Such a call, made once (``model.kept``). Raises ModelError."""
        assert self.kept is not None
        chat, runs = await self.kept.chat(self, body, timeout, pairs)
        return chat, (min((version for version, _ in runs), default=None), runs)

    async def _chat(self, body: dict[str, Any], timeout: float) -> tuple[Any, Policy]:
        if self.keeps(body):
            return await self.kept_chat(body, timeout)
        if self._limit_field != "max_tokens" and "max_tokens" in body:
            body[self._limit_field] = body.pop("max_tokens")
        try:
            data = orjson.dumps(body)
        except TypeError as error:  # A lone surrogate, an integer above 64 bits: nothing a JSON row can bring.
            raise RequestUnsupported(f"the request has no JSON form: {error}") from None
        response = await self._exchange(b"POST", self._chat_url, data, timeout)
        if 200 <= response.status < 300:
            told = response.header(POLICY_VERSION_HEADER), response.header(POLICY_RUNS_HEADER)
            return self._parse(response), policy_told(*told)
        if response.status == 401 and self._key.reread():
            return await self._chat(body, timeout)
        if response.status == 400 and "max_tokens" in body and b"max_completion_tokens" in response.body:
            self._limit_field = "max_completion_tokens"  # OpenAI's newer models refuse the old name.
            return await self._chat(body, timeout)
        refusal = status_error(response.status, self._text(response), self._where(), body.get("max_tokens"))
        asked = response.header(b"retry-after")
        refusal.retry_after = retry_after(asked.decode("latin-1") if asked else None, self._clock.time())
        raise refusal

    async def _ask(self, path: str, body: dict[str, Any], timeout: float) -> dict[str, Any] | None:
        """What a route beside the base URL says; None where there is no such route, empty where it refuses."""
        response = await self._exchange(b"POST", self.at(path), orjson.dumps(body), timeout)
        if 200 <= response.status < 300:
            said = self._parse(response)
            return said if isinstance(said, dict) else {}
        if response.status in (401, 403, 404, 405, 501):
            return None
        if response.status < 500 and response.status not in (408, 425, 429):
            return {}
        raise status_error(response.status, self._text(response), self.at(path).shown)

    async def _exchange(self, method: bytes, url: Url, body: bytes, timeout: float) -> Response:
        return await self._send(method, url, self._header_block(), body, timeout)

    async def _send(self, method: bytes, url: Url, headers: bytes, body: bytes, timeout: float) -> Response:
        try:
            return await self._http.request(method, url, headers, body, timeout)
        except HttpError as error:
            raise self._transport_error(error, url, timeout) from error

    def _transport_error(self, error: HttpError, url: Url, timeout: float) -> ModelError:
        if isinstance(error, ReadTimeout):
            return ModelTimeout(f"{url.shown} gave no whole reply in {timeout:g} s: {error.message}")
        if isinstance(error, BodyTooLarge):
            return ModelReplyInvalid(f"{url.shown}: {error.message}", retryable=False, status=200)
        return ModelUnavailable(f"{url.shown}: {error.message}")

    def _header_block(self) -> bytes:
        try:
            key = self._key.current(asyncio.get_running_loop().time())
        except InputError as error:  # The file was there when we started.
            raise ModelUnauthorized(error.message) from None
        if not self._headers or key != self._headers_key:
            ours: dict[bytes, bytes] = {}
            if key is not None:
                ours[b"authorization"] = b"Bearer " + key.encode()
            elif self._base.authorization is not None:
                ours[b"authorization"] = self._base.authorization
            ours.update(self._fixed_headers)
            general = {b"content-type": b"application/json", b"accept": b"application/json"}
            general[b"user-agent"] = b"kubegym/" + __version__.encode()
            self._headers = header_lines({**general, **ours}.items())
            self._headers_key = key
            self._ours, self._our_lines = frozenset(ours), header_lines(ours.items())
        return self._headers

    def _passed_block(self, pairs: Sequence[Pair]) -> bytes:
        """The caller's header lines, and over them what this client sends to whatever it asks."""
        self._header_block()
        if not self._ours:
            return header_lines(pairs)
        return header_lines([pair for pair in pairs if pair[0] not in self._ours]) + self._our_lines

    def _parse(self, response: Response) -> Any:
        try:
            return orjson.loads(response.body)
        except orjson.JSONDecodeError:
            content_type = (response.header(b"content-type") or b"no content type").decode("latin-1")
            raise ModelReplyInvalid(
                f"{self._where()} answered {response.status} with something that is not JSON ({content_type}): "
                f"{excerpt(self._text(response))}",
                retryable=True,
                status=response.status,
            ) from None

    def _text(self, response: Response) -> str:
        return self.redact(response.body[:4096].decode(errors="replace"))

    def _where(self) -> str:
        return self._chat_url.shown


def _header_lines(headers: Mapping[str, str]) -> dict[bytes, bytes]:
    lines: dict[bytes, bytes] = {}
    for name, value in headers.items():
        if not name or not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
            raise InvalidSpec(f"{name!r} is no header name")
        if not value.isascii() or not value.isprintable():
            raise InvalidSpec(f"the value of header {name} has characters that no header may have")
        lines[name.lower().encode()] = value.strip().encode()
    return lines
