"""The agent server: NeMo Gym's ``/run``, ``/v1/responses`` and ``/aggregate_metrics`` over our agent (contract 1.3).

``/run`` makes one attempt with a session of a resources server or of an environment in this process, whatever
``open_session`` gives, and answers 200 with its outcome: a failed attempt is a value here, too. Its caller's leaving
cancels it.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from kubegym.agent.attempt import AgentSettings, run_attempt
from kubegym.agent.cookies import CookieJar
from kubegym.agent.driver import Transcript, run_conversation
from kubegym.agent.runs import check_params, read_assignment, read_settings, run_reply
from kubegym.agent.step import DEFAULT_MAX_STEPS, LoopLimits
from kubegym.core.clock import Deadline
from kubegym.core.errors import AgentError, RolloutError
from kubegym.core.messages import input_items
from kubegym.core.params import CREATE_PARAMS
from kubegym.core.protocols import Assignment, Attempt, CallContext, ModelClient, Session
from kubegym.core.wire import DEADLINE_HEADER, FAILURE_HEADER, WIRE_HEADER
from kubegym.http import HttpError
from kubegym.http.presence import WhileConnected
from kubegym.http.server import App, Handler, Problem, Reply, Request, serve

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge

    from kubegym.agent.resources_client import ResourcesClient

Hook = Callable[[], Awaitable[None]]


class OpenSession(Protocol):
    """Where sessions come from; ``ResourcesClient.session`` is one."""

    def __call__(self, assignment: Assignment, cookies: CookieJar | None = None, /) -> Session:
        """A session to be seeded, with the cookies of who asks for the rollout."""
        ...


MakeAttempt = Callable[[Assignment, Session, AgentSettings], Awaitable[Attempt]]
"""A harness: makes an attempt with a fresh session, which it closes."""


class AgentServer:
    """Attempts for others to ask for.

    Args:
        open_session: makes the session of an attempt.
        model: the policy; closed with the server.
        settings: how attempts are made; a caller may ask for a seed, limits and a deadline of its own.
        name: the environment's, which enters the identity of tasks.
        skip_verification_reward: what callers without null are told where ``settings.verify`` is False.
        make_attempt: the harness of ``/run``; None is the loop over model and tools. With another there is no
            ``/v1/responses``.
        remote: whether sessions live in another process, so that cookies name them; ``/v1/responses`` then goes on
            with its caller's session, else it seeds one of its own.
        aggregate_metrics: answers ``/aggregate_metrics``; None: there is no such route.
        unready: why no rollout can run now, or None.
        start: run before the first request.
        stop: run after the last.
    """

    def __init__(
        self,
        open_session: OpenSession,
        model: ModelClient,
        settings: AgentSettings | None = None,
        *,
        name: str = "agent",
        skip_verification_reward: float = 0.0,
        make_attempt: MakeAttempt | None = None,
        remote: bool = False,
        aggregate_metrics: Callable[[Request], Awaitable[Reply]] | None = None,
        unready: Callable[[], str | None] = lambda: None,
        start: Hook | None = None,
        stop: Hook | None = None,
    ) -> None:
        self._open = open_session
        self._model = model
        self._settings = settings or AgentSettings()
        self._name = name
        self._skip_reward = skip_verification_reward
        self._make_attempt = make_attempt
        self._remote = remote
        self._aggregate = aggregate_metrics
        self._unready = unready
        self._start_hook = start
        self._stop_hook = stop
        self._numbers = itertools.count()
        self._counts: tuple[Counter, Gauge] | None = None

    @classmethod
    def over(
        cls, resources: ResourcesClient, model: ModelClient, settings: AgentSettings | None = None, **options: Any
    ) -> AgentServer:
        """An agent server before a resources server, which is closed with it; ``options`` as of the constructor."""

        async def aggregate(request: Request) -> Reply:
            try:
                response = await resources.aggregate_metrics(request.body)
            except HttpError as error:
                raise Problem(502, error.message) from error
            kind = response.header(b"content-type") or b"application/json"
            return Reply(response.body, response.status, kind)

        defaults: dict[str, Any] = {
            "remote": True,
            "aggregate_metrics": aggregate,
            "unready": resources.unready,
            "stop": resources.close,
        }
        return cls(resources.session, model, settings, **{**defaults, **options})

    def app(self) -> App:
        """The ASGI application."""
        from prometheus_client import CollectorRegistry, Counter, Gauge

        registry = CollectorRegistry()
        self._counts = (
            Counter("kubegym_agent_rollouts", "Attempts by outcome.", ["outcome", "reason"], registry=registry),
            Gauge("kubegym_agent_rollouts_in_flight", "Attempts now running.", registry=registry),
        )
        routes: dict[tuple[str, str], Handler] = {
            ("POST", "/run"): self._run,
        }
        if self._make_attempt is None:
            routes["POST", "/v1/responses"] = self._responses
        if self._aggregate is not None:
            routes["POST", "/aggregate_metrics"] = self._aggregate
        return App(
            f"{self._name} agent",
            routes,
            start=self._start,
            stop=self._stop,
            unready=self._unready,
            registry=registry,
            document=_document,
        )

    async def _start(self) -> None:
        if self._start_hook is not None:
            await self._start_hook()

    async def _stop(self) -> None:
        try:
            if self._stop_hook is not None:
                await self._stop_hook()
        finally:
            await self._model.close()

    async def _run(self, request: Request) -> Reply:
        row = request.object()
        headers = request.headers
        settings = read_settings(self._settings, row, headers.get(DEADLINE_HEADER))
        assignment = read_assignment(row, self._name, request.rollout)
        cookie = headers.get(b"cookie")
        session = self._open(assignment, CookieJar(cookie)) if cookie else self._open(assignment)
        if self._make_attempt is None:
            running: Awaitable[Attempt] = run_attempt(assignment, session, self._model, settings)
        else:
            running = self._make_attempt(assignment, session, settings)
        attempt = await self._counted(request, running)
        nullable = headers.get(WIRE_HEADER) == b"1"
        reply = run_reply(assignment, attempt, nullable=nullable, skipped_reward=self._skip_reward)
        return Reply(orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY))

    async def _counted(self, request: Request, running: Awaitable[Attempt]) -> Attempt:
        assert self._counts is not None, "requests come through the application"
        rollouts, in_flight = self._counts
        in_flight.inc()
        outcome, reason = "cancelled", ""
        try:
            async with WhileConnected(request.receive) if request.receive else _ALWAYS:
                attempt = await running
            outcome, reason = attempt.outcome, attempt.failure.reason if attempt.failure else ""
            return attempt
        finally:
            in_flight.dec()
            rollouts.labels(outcome, reason).inc()

    async def _responses(self, request: Request) -> Reply:
        params = request.object()
        if "input" not in params:
            raise Problem.invalid(["body", "input"], "Field required", "missing", params)
        check_params(params, ["body"])
        identity = request.rollout or f"responses-{next(self._numbers)}"
        row = {"responses_create_params": params}
        session = self._open(
            Assignment(self._name, row, "", 0, 0, identity), CookieJar(request.headers.get(b"cookie", b""))
        )
        try:
            async with WhileConnected(request.receive) if request.receive else _ALWAYS:
                transcript = await self._converse(params, session, identity)
        except RolloutError as error:
            return _failed(error)
        finally:
            await session.close()
        # The reply hands the session's cookies on, so that the caller's /verify finds it (contract 1.7).
        jar = getattr(session, "cookies", None)
        if transcript.samples is not None:
            transcript.samples.place(transcript.output)
        return Reply.json(transcript.response(), headers=jar.set_headers() if jar else None)

    async def _converse(self, params: dict[str, Any], session: Session, identity: str) -> Transcript:
        settings = self._settings
        session.deadline = deadline = Deadline(settings.deadline_seconds, settings.stall_seconds)
        transcript = Transcript(input_items(params["input"] or []))
        scope = deadline.timeout()
        try:
            async with scope:
                if not self._remote:
                    transcript.input += await session.seed()
                    if session.tools() and params.get("tools") is None:
                        params = {**params, "tools": session.tools()}
                limits = LoopLimits(
                    settings.max_steps or DEFAULT_MAX_STEPS,
                    settings.max_total_tokens,
                    settings.max_silent,
                    session.multi_turn,
                )
                context = CallContext(identity, deadline, token_ids=settings.token_ids)
                await run_conversation(params, transcript, session, self._model, limits, context)
        except TimeoutError as error:
            if not scope.expired():
                raise
            seconds = settings.deadline_seconds
            raise AgentError(f"the rollout used up its {seconds:g} s", reason="DeadlineExceeded") from error
        return transcript


class _Always:
    """Stands for ``WhileConnected`` where nobody tells whether the client is there."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        return None


_ALWAYS = _Always()


def run_agent_server(
    agent: AgentServer,
    host: str,
    port: int,
    *,
    grace_seconds: float = 30.0,
    on_listening: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. Blocks; arguments and errors as of ``kubegym.http.server.serve``."""
    serve(agent.app(), host, port, grace_seconds=grace_seconds, on_listening=on_listening)


def _failed(error: RolloutError) -> Reply:
    """A conversation that failed, for ``/v1/responses``, whose replies have no room for an outcome."""
    failure = error.failure(0).to_dict()
    status = 503 if error.retryable else 500
    return Reply.json({"detail": error.message, "kubegym": {"failure": failure}}, status, [(FAILURE_HEADER, b"1")])


def _document() -> dict[str, Any]:
    """OpenAPI paths, as far as the contract fixes them."""
    params: dict[str, Any] = {
        "type": "object",
        "properties": {name: {} for name in sorted(CREATE_PARAMS)},
        "additionalProperties": False,
    }

    def post(summary: str, body: dict[str, Any]) -> dict[str, Any]:
        return {
            "post": {
                "summary": summary,
                "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
                "responses": {
                    "200": {"description": "OK", "content": {"application/json": {"schema": {"type": "object"}}}},
                    "422": {"description": "The request does not validate."},
                    "5XX": {"description": "Another server failed: `/v1/responses` has no other place to say so."},
                },
            }
        }

    row = {
        "type": "object",
        "required": ["responses_create_params"],
        "properties": {"responses_create_params": params},
        "additionalProperties": True,
    }
    verdicts = {"type": "object", "properties": {"verify_responses": {"type": "array", "items": {"type": "object"}}}}
    return {
        "paths": {
            "/run": post("One rollout: seed, converse, verify.", row),
            "/v1/responses": post("Converse with a session seeded before.", {**params, "required": ["input"]}),
            "/aggregate_metrics": post("Metrics over rollouts.", verdicts),
        }
    }
