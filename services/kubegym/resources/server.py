"""The resources server: an environment behind NeMo Gym's wire contract (1.5, 1.6).

A session lives in the memory of the process that seeded it. Its cookie names both, unforgeably; a request that reaches
another process is sent on to the owner (``forward``). A session that is not there any more answers 410 with the
failure "SessionLost", except where ``/verify`` needs none.

=================================== ==================================================================
what happened                       reply
=================================== ==================================================================
a tool's output                     200, its text
ToolError / bad arguments / unknown 400, its text / 422, ``{"detail": [...]}`` / 404, ``{"detail": ...}``
the environment failed              500, ``x-kubegym-failure: 1``, ``kubegym.failure`` in the body
its verifier failed or declined     200, marked (``core.wire``)
session lost                        410, ``x-kubegym-failure: 1``
too many sessions, shutting down    503, ``x-kubegym-failure: 1``, ``Retry-After``
=================================== ==================================================================

Every reply sets the cookie again, errors included, and no error of a tool ends a session.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from kubegym.core.errors import AgentError, InvalidSpec, RolloutError
from kubegym.core.messages import Item, ToolOutput
from kubegym.core.protocols import Assignment, ModelClient
from kubegym.core.wire import DEADLINE_HEADER, TASK_HEADER, WIRE_HEADER
from kubegym.http.server import App, Handler, Problem, Reply, Request, crashed
from kubegym.resources import gymnasium, mcp
from kubegym.resources.bodies import (
    echo,
    failed,
    failure_of,
    read_arguments,
    read_assignment,
    read_deadline,
    read_rollout,
    scored,
    tool_reply,
    unscored,
)
from kubegym.resources.forward import Forwarder
from kubegym.resources.openapi import paths
from kubegym.resources.runtime import EnvironmentRuntime
from kubegym.resources.server_metrics import ResourcesServerMetrics
from kubegym.resources.session import LocalSession
from kubegym.resources.sessions import (
    MOST_SESSIONS,
    SWEEP_SECONDS,
    Finished,
    ServedSession,
    SessionTable,
    session_lost,
)
from kubegym.resources.tokens import Forged, Token, Tokens, cookie_value, set_cookie
from kubegym.resources.tools import NOT_FOUND

ROUTE_NAMES = frozenset({"reset", "step", "close", "reverify_mode"})
"""Names of routes that a served environment's tools cannot have, beside ``tools.RESERVED_NAMES``."""

_CLOSED_AT_ONCE = 64
_log = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]
Work = Callable[[Request, Headers], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of one process.

    Attributes:
        sessions: live sessions; more are refused with 503.
        idle_margin_seconds: how much longer than its rollout's deadline a session lives without a request. A deadline
            moves while the policy waits for capacity, by an hour at most unless the manifest says more
            (``core.clock.Deadline``), so that the margin is that hour.
        forward_seconds: time for the owner of a session to answer.
        sweep_seconds: between looks for sessions that have expired.
    """

    sessions: int = MOST_SESSIONS
    idle_margin_seconds: float = 3600.0
    forward_seconds: float = 3600.0
    sweep_seconds: float = SWEEP_SECONDS


class ResourcesServer:
    """Sessions of one environment for others to use.

    Args:
        runtime: makes the sessions; started and closed with the server.
        secret: signs tokens; shared by all processes that serve the environment together.
        self_address: ``host:port`` under which those reach this process.
        models: the environment's own models by role; closed with the server.
        limits: of this process.
        expose_tools_over_mcp: whether to serve ``/mcp``.
        aggregate_metrics: answers ``/aggregate_metrics``; None: there is no such route.
        clock: seconds, monotonic.
        process: the label of this process's metrics, where several share a port.

    Raises:
        InvalidSpec: a tool has the name of a route.
    """

    def __init__(
        self,
        runtime: EnvironmentRuntime,
        *,
        secret: bytes,
        self_address: str,
        models: Mapping[str, ModelClient] | None = None,
        limits: ServerLimits | None = None,
        expose_tools_over_mcp: bool = False,
        aggregate_metrics: Handler | None = None,
        clock: Callable[[], float] = time.monotonic,
        process: str = "",
    ) -> None:
        taken = sorted(ROUTE_NAMES & runtime.tools.by_name.keys())
        if taken:
            raise InvalidSpec(f"environment {runtime.name}: a served tool cannot be called {taken[0]!r}; rename it")
        self._runtime = runtime
        self._address = self_address
        self._models = models or {}
        self._limits = limits or ServerLimits()
        self._mcp_name = mcp.server_name(runtime.name) if expose_tools_over_mcp else None
        self._aggregate = aggregate_metrics
        self._clock = clock
        self._tokens = Tokens(secret, self_address)
        self._table = SessionTable(clock, most=self._limits.sessions, sweep_seconds=self._limits.sweep_seconds)
        self._forwarder = Forwarder(self._limits.forward_seconds)
        self._metrics = ResourcesServerMetrics(lambda: len(self._table), lambda: self._forwarder.forwarded, process)
        self._stateless = runtime.cls.stateless_verify
        parallel = [tool.name for tool in runtime.tools.by_name.values() if tool.parallel]
        self._says = {"multi_turn": runtime.multi_turn, "tools": runtime.tools.definitions, "parallel": parallel}
        self._told = orjson.dumps(self._says)[1:]
        self._closing: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._app = self._new_app()

    @property
    def sessions(self) -> SessionTable:
        """The live sessions."""
        return self._table

    def app(self) -> App:
        """The ASGI application."""
        return self._app

    def _new_app(self) -> App:
        runtime = self._runtime
        routes: dict[tuple[str, str], Handler] = {
            ("POST", f"/{name}"): self._handler(f"/{name}", work)
            for name, work in {
                "seed_session": self._seed,
                "verify": self._verify,
                "reset": self._reset,
                "step": self._step,
                "close": self._close,
            }.items()
        }
        routes["GET", "/reverify_mode"] = self._reverify_mode
        if self._aggregate is not None:
            routes["POST", "/aggregate_metrics"] = self._aggregate
        if self._mcp_name is not None:
            routes["POST", mcp.PATH] = self._handler(mcp.PATH, self._mcp)
        return App(
            f"{runtime.name} resources",
            routes,
            fallback=self._handler("/{tool}", self._tool),
            start=self._start,
            stop=self._stop,
            registry=self._metrics.registry,
            document=partial(
                paths, runtime.tools, aggregates=self._aggregate is not None, mcp=self._mcp_name is not None
            ),
        )

    # Life of the server

    async def _start(self) -> None:
        await self._runtime.start()
        self._sweeper = asyncio.ensure_future(self._sweep())

    async def _stop(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        try:
            await self._close_all([session for session in self._table if self._table.remove(session)])
            await asyncio.gather(*self._closing)
            for model in self._models.values():
                await model.close()
            await self._forwarder.close()
        finally:
            await self._runtime.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._limits.sweep_seconds)
            await self.expire()

    async def expire(self) -> int:
        """End the sessions that nobody has used for too long; how many there were."""
        expired = self._table.sweep()
        for _ in expired:
            self._metrics.ended("expired")
        await self._close_all(expired)
        return len(expired)

    async def _close_all(self, sessions: list[ServedSession]) -> None:
        if not self._runtime.closes:
            return
        for first in range(0, len(sessions), _CLOSED_AT_ONCE):
            await asyncio.gather(*(session.local.close() for session in sessions[first : first + _CLOSED_AT_ONCE]))

    def _close_later(self, local: LocalSession) -> None:
        """Close an environment that nobody needs any more, without making a caller wait."""
        if self._runtime.closes:
            task = asyncio.ensure_future(local.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    # Sessions

    def _handler(self, route: str, work: Work) -> Handler:
        """``work`` with every error as a reply, its cookie, and its count."""
        clock, answered = self._clock, self._metrics.answered

        async def handle(request: Request) -> Reply:
            started = clock()
            headers: Headers = []
            try:
                reply = await work(request, headers)
            except Problem as problem:
                reply = problem.reply()
            except RolloutError as error:
                reply = failed(error)
            except Exception as error:
                _log.exception("%s failed", request.path)
                reply = crashed(error)
            if headers:
                reply.headers = [*headers, *reply.headers]
            answered(route, reply.status, clock() - started)
            return reply

        return handle

    def _token(self, request: Request, headers: Headers) -> Token | None:
        """Whose session the request is in; None where it brings no cookie. Raises AgentError "SessionLost"."""
        value = cookie_value(request.headers.get(b"cookie"))
        if value is None:
            return None
        try:
            token = self._tokens.read(value)
        except Forged as error:
            raise session_lost(f"the session's cookie is {error}") from None
        headers.append(set_cookie(value))
        return token

    def _live(self, token: Token) -> ServedSession:
        session = self._table.get(token.session)
        if session is None:
            raise session_lost("the session has ended, or its server was started anew")
        return session

    def _elsewhere(self, token: Token | None) -> bool:
        return token is not None and token.owner != self._address

    async def _forward(self, token: Token | None, request: Request, headers: Headers) -> Reply:
        assert token is not None
        reply = await self._forwarder.forward(token.owner, request)
        headers.clear()  # the owner has set the cookie
        return reply

    async def _begin(
        self, body: Mapping[str, Any], request: Request, headers: Headers
    ) -> tuple[ServedSession, list[Item]]:
        """A new session and what its ``seed`` adds to the input. Raises Problem, RolloutError."""
        if self._app.stopping:
            raise AgentError("the server is shutting down", reason="ShuttingDown", retryable=True)
        assignment = read_assignment(body, self._runtime.name, request.rollout, request.headers.get(TASK_HEADER))
        idle = read_deadline(request.headers.get(DEADLINE_HEADER)) + self._limits.idle_margin_seconds
        local = self._runtime.session(assignment, self._models)
        session = ServedSession(self._tokens.new_session(), assignment, local, idle)
        self._table.add(session)
        try:
            async with self._table.using(session):
                seeded = await local.seed()
        except BaseException:
            self._table.remove(session)
            self._metrics.ended("failed")
            self._close_later(local)
            raise
        headers.append(set_cookie(self._tokens.issue(session.id)))
        return session, seeded

    # Routes

    async def _seed(self, request: Request, headers: Headers) -> Reply:
        session, seeded = await self._begin(request.object(), request, headers)
        told = b'"kubegym":{"input":%b,%b' % (orjson.dumps(seeded), self._telling(session.local))
        if self._mcp_name is None:
            return Reply(b"{%b}" % told)
        token = self._tokens.issue(session.id, b"m", mcp.row_tool_names(session.assignment.row))
        return Reply(b'{"mcp":%b,%b}' % (orjson.dumps(mcp.seed_part(self._mcp_name, token)), told))

    def _telling(self, local: LocalSession) -> bytes:
        """What our agents learn of the session, without the opening brace."""
        offered = local.environment.offered_tools
        return self._told if offered is None else orjson.dumps({**self._says, "tools": offered})[1:]

    async def _tool(self, request: Request, headers: Headers) -> Reply:
        name = request.path[1:]
        token = self._token(request, headers)
        tool = self._runtime.tools.find(name)
        if tool is None or not name:
            return tool_reply(NOT_FOUND, 404)
        if self._elsewhere(token):
            return await self._forward(token, request, headers)
        arguments = read_arguments(request.body)
        session = self._live(token) if token is not None else (await self._begin({}, request, headers))[0]
        async with self._table.using(session, alone=not tool.parallel):
            return tool_reply(*await session.local.answer_tool(name, arguments))

    async def _verify(self, request: Request, headers: Headers) -> Reply:
        body = request.object()
        nullable = request.headers.get(WIRE_HEADER) == b"1"
        # Our agent, which says so, has the row at hand and needs no echo of it.
        bare = nullable and isinstance(body.get("kubegym"), dict)
        added = await self._verdict(body, request, headers, nullable)
        if isinstance(added, Reply):
            return added
        return Reply(added if bare else echo(body, request.body, orjson.loads(added), added))

    async def _verdict(self, body: dict[str, Any], request: Request, headers: Headers, nullable: bool) -> bytes | Reply:
        """What the reply adds to the request, in JSON; or the owner's whole reply."""
        token = self._token(request, headers)
        if token is None:
            return await self._verify_fresh(body, request, nullable)
        identity = hash((request.body, nullable))
        try:
            if token.owner != self._address:
                return await self._forward(token, request, headers)
            session = self._table.get(token.session)
            if session is not None:
                async with self._table.using(session):
                    answer = await self._scored(session.local, body, session.assignment, nullable)
                    self._table.finish(session, Finished(identity, answer))
                self._metrics.ended("verified")
                self._close_later(session.local)
                return answer
            raise session_lost("the session has ended, or its server was started anew")
        except AgentError as error:
            finished = self._table.verdict(token.session)
            if finished is not None and finished.request == identity:
                return finished.answer
            if error.reason != "SessionLost" or not self._stateless:
                raise
            return await self._verify_fresh(body, request, nullable)

    async def _verify_fresh(self, body: dict[str, Any], request: Request, nullable: bool) -> bytes:
        """A verdict without a session of the rollout."""
        assignment = read_assignment(body, self._runtime.name, request.rollout, request.headers.get(TASK_HEADER))
        local = self._runtime.session(assignment, self._models)
        try:
            return await self._scored(local, body, assignment, nullable, seed=not self._stateless)
        finally:
            self._close_later(local)

    async def _scored(
        self, local: LocalSession, body: dict[str, Any], assignment: Assignment, nullable: bool, *, seed: bool = False
    ) -> bytes:
        rollout = read_rollout(body, assignment.row, self._mcp_name)
        try:
            if seed:
                await local.seed()
            added = scored(await local.verify(rollout), local.usage, nullable=nullable)
        except RolloutError as error:
            added = unscored(failure_of(error, assignment.attempt), local.usage, nullable=nullable)
        return orjson.dumps(added, option=orjson.OPT_SERIALIZE_NUMPY)

    async def _reset(self, request: Request, headers: Headers) -> Reply:
        session, seeded = await self._begin(request.object(), request, headers)
        return Reply.json(gymnasium.reset(session, seeded))

    async def _step(self, request: Request, headers: Headers) -> Reply:
        body = request.object()
        token = self._token(request, headers)
        if self._elsewhere(token):
            return await self._forward(token, request, headers)
        session = self._live(token) if token is not None else (await self._begin(body, request, headers))[0]
        request_id = body.get("_ng_step_request_id")
        nullable = request.headers.get(WIRE_HEADER) == b"1"
        async with self._table.using(session):
            known = session.steps.get(request_id) if isinstance(request_id, str) else None
            if known is not None:
                return Reply(known)
            reply = await gymnasium.step(session, body, nullable=nullable)
            answer = orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)
            if isinstance(request_id, str):
                session.remember_step(request_id, answer)
        return Reply(answer)

    async def _close(self, request: Request, headers: Headers) -> Reply:
        token = self._token(request, headers)
        try:
            if self._elsewhere(token):
                return await self._forward(token, request, headers)
            session = None if token is None else self._table.get(token.session)
            if session is not None and self._table.remove(session):
                self._metrics.ended("closed")
                session.interrupt()  # a call that runs has no reader any more: its rollout is over
                async with session.turnstile.exclusive():
                    await session.local.close()
        except AgentError as error:
            if error.reason != "SessionLost":
                raise
            # It is gone, which is what the caller wants.
        return Reply(b"{}")

    async def _mcp(self, request: Request, headers: Headers) -> Reply:
        assert self._mcp_name is not None
        definitions = self._runtime.tools.definitions
        offered = mcp.OfferedTools(definitions, None, lambda name: False)
        value = request.headers.get(mcp.TOKEN_HEADER)
        if value is not None:
            try:
                token = self._tokens.read(value, b"m")
            except Forged as error:
                raise session_lost(f"the session's token is {error}") from None
            if self._elsewhere(token):
                return await self._forward(token, request, headers)
            offered = self._offered(self._live(token), token)
        return await mcp.answer(request.body, self._mcp_name, self._runtime.version, offered)

    def _offered(self, session: ServedSession, token: Token) -> mcp.OfferedTools:
        tools = self._runtime.tools

        async def call(name: str, arguments: dict[str, Any]) -> tuple[ToolOutput, int]:
            known = tools.find(name)
            async with self._table.using(session, alone=known is None or not known.parallel):
                return await session.local.answer_tool(name, arguments)

        definitions = session.local.tools() if token.tools is None else mcp.row_tools(session.assignment.row)
        return mcp.OfferedTools(
            definitions,
            call,
            lambda name: tools.find(name) is not None and (token.tools is None or name in token.tools),
        )

    async def _reverify_mode(self, request: Request) -> Reply:
        return Reply(b'"stateless"' if self._stateless else b'"unsupported"')
