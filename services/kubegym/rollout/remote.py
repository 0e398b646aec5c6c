"""Attempts made by agent servers: ``POST /run``, to KubeGym's agents or any that speak NeMo Gym's contract (1.3).

What becomes of a reply:

================================== ======================================================
reply                              outcome
================================== ======================================================
200, a reward, no failure class    scored
200, marked as a failure           that failure; unscored where a verifier only declined
``x-kubegym-failure: 1``           failed with what the body says
422, other 4xx                     ``AgentRejectedRow``: the same row would be refused again
refused, reset, 5xx, 408, 429,     ``AgentUnavailable``, retryable
a page instead of JSON
no reply in time                   ``DeadlineExceeded``
200, no object with a reward       ``InvalidAgentReply``
================================== ======================================================

A ``/run`` that may have been received is not sent again: the next attempt is a new one, with a number of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson

from kubegym import __version__
from kubegym.core.errors import AgentError, InvalidSpec, RolloutError
from kubegym.core.messages import is_assistant_message
from kubegym.core.outcomes import STOP_REASONS, TRUNCATED, Failure, StopReason
from kubegym.core.protocols import Assignment, Attempt, EnvironmentInfo
from kubegym.core.usage import count_call
from kubegym.core.wire import (
    DEADLINE_HEADER,
    FAILURE_HEADER,
    WIRE_HEADER,
    components_of,
    error_of,
    failure_of,
    fields_of,
    is_marked,
    number_of,
)
from kubegym.http import BodyTooLarge, ConnectFailed, HttpClient, HttpError, ReadTimeout, Response
from kubegym.http.names import Resolver
from kubegym.http.replicas import Replica, Replicas

_HEADERS = b"content-type: application/json\r\naccept: application/json\r\nuser-agent: kubegym/%b\r\n%b: 1\r\n" % (
    __version__.encode(),
    WIRE_HEADER,
)
MESSAGE_CHARACTERS = 4000
"""A failure's message is cut to this."""

_TRIES = 3
_GRACE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class RemoteAgent:
    """The agent of one environment entry.

    Attributes:
        urls: base URLs of its replicas.
        info: names and versions for the rows.
        ours: whether it is a KubeGym agent, which takes the settings below with each row.
        deadline_seconds: a rollout's own time; our agents keep it, others are left when it is over.
        stall_seconds: how much waiting for capacity may move our agents' deadline.
        seed: the run's seed.
        max_steps: model calls of a rollout; None leaves it to the agent.
        max_total_tokens: tokens of a rollout; None leaves it to the agent.
        on_truncated: whether a truncated conversation's verdict counts.
        overrides: Responses create-params that win over the row's own; ``metadata`` is merged by key.
        token_ids: whether the reply should come with token ids (contract 2.7).
    """

    urls: Sequence[str]
    info: EnvironmentInfo
    ours: bool = True
    deadline_seconds: float = 3600.0
    stall_seconds: float = 3600.0
    seed: int | None = None
    max_steps: int | None = None
    max_total_tokens: int | None = None
    on_truncated: Literal["Verify", "Skip"] = "Verify"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    token_ids: bool = False


class RemoteEpisodes:
    """Implements ``core.protocols.Episodes`` over agent servers.

    Args:
        agents: by environment entry.
        http: connections to share; by default its own, closed with it.
        resolver: see ``http.replicas.Replicas``.

    Raises:
        InvalidSpec: an agent without a URL that can be used.
    """

    def __init__(
        self, agents: Mapping[str, RemoteAgent], *, http: HttpClient | None = None, resolver: Resolver | None = None
    ) -> None:
        self._owns_http = http is None
        self._http = http or HttpClient()
        self._entries = {name: _Entry(agent, resolver) for name, agent in agents.items()}

    async def run(self, assignment: Assignment) -> Attempt:
        """Make one attempt on the replica with the fewest."""
        entry = self._entries[assignment.environment]
        row = entry.outgoing(assignment)
        try:
            response = await self._post(entry, orjson.dumps(row))
            reply = _reply(response, assignment.attempt)
            try:
                return _attempt(reply, row, assignment, entry.agent)
            except (AttributeError, TypeError, KeyError, ValueError) as error:  # its parts are not what they should be
                raise _invalid(f"{type(error).__name__}: {error}") from error
        except RolloutError as error:
            failure = _cut(error.failure(assignment.attempt))
            return Attempt("failed", failure=failure, params=row["responses_create_params"], seed=entry.agent.seed)

    def info(self, environment: str) -> EnvironmentInfo:
        """Names and versions for rows, as the run's caller gave them."""
        return self._entries[environment].agent.info

    def verifies_groups(self, environment: str) -> bool:
        """Never: the contract has no route for a group."""
        return False

    async def verify_group(self, environment: str, group: list[tuple[Assignment, Attempt]]) -> None:
        """Raises InvalidSpec: see ``verifies_groups``."""
        raise InvalidSpec(f"{environment}: an agent server does not verify groups")

    async def close(self) -> None:
        """Close the connections, if they are this object's own; rollouts in flight there are cancelled by that."""
        if self._owns_http:
            await self._http.close()

    async def _post(self, entry: _Entry, body: bytes) -> Response:
        """One ``/run``; other replicas are tried only while none can have received it. Raises AgentError."""
        tried: list[Replica] = []
        while True:
            replica = entry.replicas.take(tried)
            tried.append(replica)
            url = replica.at("run")
            try:
                response = await self._http.request(
                    b"POST", url, entry.headers(replica), body, entry.patience, repeatable=False
                )
            except ReadTimeout as error:
                raise AgentError(f"{url.shown}: {error.message}", reason="DeadlineExceeded") from error
            except BodyTooLarge as error:
                raise AgentError(f"{url.shown}: {error.message}", reason="InvalidAgentReply") from error
            except HttpError as error:
                entry.replicas.failed(replica)
                if isinstance(error, ConnectFailed) and len(tried) < min(_TRIES, len(entry.replicas)):
                    continue
                raise _unavailable(f"{url.shown}: {error.message}") from error
            else:
                if response.status in (502, 503, 504):
                    entry.replicas.failed(replica)
                else:
                    replica.heal()
                return response
            finally:
                entry.replicas.give(replica)


class _Entry:
    """An agent and what is the same for all its rollouts."""

    def __init__(self, agent: RemoteAgent, resolver: Resolver | None = None) -> None:
        self.agent = agent
        self.replicas = Replicas(agent.urls, resolver=resolver)
        stall = agent.stall_seconds + _GRACE_SECONDS if agent.ours else 0.0
        self.patience = agent.deadline_seconds + stall
        self._lines = _HEADERS + b"%b: %.3f\r\n" % (DEADLINE_HEADER, agent.deadline_seconds)
        settings = {
            "seed": agent.seed,
            "max_steps": agent.max_steps,
            "max_total_tokens": agent.max_total_tokens,
            "on_truncated": agent.on_truncated,
            "token_ids": agent.token_ids or None,
        }
        self._settings = {name: value for name, value in settings.items() if value is not None}

    def headers(self, replica: Replica) -> bytes:
        """Header lines of a request."""
        authorization = replica.url.authorization
        return self._lines if authorization is None else b"%bauthorization: %b\r\n" % (self._lines, authorization)

    def outgoing(self, assignment: Assignment) -> dict[str, Any]:
        """The materialised row (contract 1.3)."""
        row = dict(assignment.row)
        params = dict(row.get("responses_create_params") or {})
        overrides = self.agent.overrides
        if overrides:
            metadata = {**(params.get("metadata") or {}), **(overrides.get("metadata") or {})}
            params.update(overrides)
            if metadata:
                params["metadata"] = metadata
        row["responses_create_params"] = params
        row["_ng_task_index"] = assignment.task_index
        row["_ng_rollout_index"] = assignment.rollout_index
        row.pop("_ng_attempt_index", None)
        if assignment.attempt:
            row["_ng_attempt_index"] = assignment.attempt
        if self.agent.ours:
            row["_ng_rollout_id"] = assignment.rollout_id
            row["kubegym"] = {"task_id": assignment.task_id, **self._settings}
        else:
            # They add the attempt's suffix themselves.
            row["_ng_rollout_id"] = assignment.rollout_id.removesuffix(f"-a{assignment.attempt}")
            row.pop("kubegym", None)
        if not row.get("agent_ref"):
            row["agent_ref"] = {"type": "responses_api_agents", "name": self.agent.info.agent}
        return row


def _cut(failure: Failure) -> Failure:
    return replace(failure, message=failure.message[:MESSAGE_CHARACTERS])


def _unavailable(message: str) -> AgentError:
    return AgentError(message, reason="AgentUnavailable", retryable=True)


def _reply(response: Response, attempt: int) -> dict[str, Any]:
    """The reply as an object. Raises RolloutError for what is none, or carries a failure."""
    status, text = response.status, _excerpt(response)
    try:
        reply = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        reply = None
    if response.header(FAILURE_HEADER) is not None and isinstance(reply, dict):
        failure = failure_of(reply, attempt)
        if failure is not None:
            raise error_of(failure)
    if status >= 500 or status in (408, 429):
        raise _unavailable(f"the agent answered {status}: {text}")
    if status >= 400:
        raise AgentError(f"the agent answered {status}: {text}", reason="AgentRejectedRow")
    if isinstance(reply, dict) and status < 300:
        return reply
    if b"json" not in (response.header(b"content-type") or b"").lower():
        raise _unavailable(f"the agent answered {status} with something that is not JSON: {text}")
    raise _invalid(f"{status}, no JSON object: {text}")


def _attempt(reply: dict[str, Any], row: dict[str, Any], assignment: Assignment, agent: RemoteAgent) -> Attempt:
    """The attempt a reply tells. Raises AgentError "InvalidAgentReply"."""
    response = reply.get("response")
    params = reply.get("responses_create_params")
    given = reply.get("kubegym")
    ours: dict[str, Any] = given if agent.ours and isinstance(given, dict) else {}
    attempt = Attempt(
        "unscored",
        stop_reason=_stop_reason(ours, response),
        response=response if isinstance(response, dict) else None,
        params=params if isinstance(params, dict) else row["responses_create_params"],
        fields=fields_of(reply, row),
        components=components_of(reply),
        usage=ours.get("usage") or _usage(response),
        timing=ours.get("timing") or {},
        turns=ours.get("turns") or [],
        seed=ours.get("seed"),
    )
    if is_marked(reply):
        failure = failure_of(reply, assignment.attempt)
        if failure is not None:
            attempt.outcome, attempt.failure = "failed", _cut(failure)
        elif "reward" not in reply:
            raise _invalid("it has no reward")
        return attempt
    if reply.get("_ng_no_persist"):
        raise AgentError("the agent asks for this rollout to be made again", reason="NoPersist", retryable=True)
    if reply.get("verification_skipped") or (agent.on_truncated == "Skip" and attempt.stop_reason in TRUNCATED):
        return attempt  # whatever number stands there, no verifier gave it, or it does not count
    reward = number_of(reply["reward"])
    if reward is None or attempt.response is None or not isinstance(attempt.response.get("output"), list):
        raise _invalid(f"reward {reply['reward']!r:.100}, response {response!r:.100}")
    attempt.outcome, attempt.reward = "scored", reward
    return attempt


def _invalid(what: str) -> AgentError:
    return AgentError(f"the agent's reply breaks the contract: {what}", reason="InvalidAgentReply")


def _stop_reason(ours: Mapping[str, Any], response: object) -> StopReason | None:
    """As our agent tells; for others what the response shows: cut short, or ended by a message."""
    told = ours.get("stop_reason")
    if told in STOP_REASONS or "stop_reason" in ours:
        return told if told in STOP_REASONS else None
    if not isinstance(response, dict):
        return None
    incomplete = response.get("incomplete_details")
    if incomplete:
        return "content_filter" if incomplete.get("reason") == "content_filter" else "max_output_tokens"
    output = response.get("output")
    last = output[-1] if isinstance(output, list) and output else {}
    return "completed" if is_assistant_message(last) else "max_steps"


def _usage(response: object) -> dict[str, dict[str, int]]:
    """The policy's tokens, where only the contract's sum is known; its calls are counted by the turns of the output."""
    if not isinstance(response, dict) or not isinstance(response.get("usage"), dict):
        return {}
    policy: dict[str, int] = {}
    count_call(policy, response["usage"])
    calls, speaking = 0, False
    for item in response.get("output") or ():
        by_model = item.get("type") in ("reasoning", "function_call") or is_assistant_message(item)
        calls += by_model and not speaking
        speaking = by_model
    policy["calls"] = max(1, calls)
    return {"policy": policy}


def _excerpt(response: Response) -> str:
    text = " ".join(response.body[:1200].decode(errors="replace").split())
    return (text if len(text) <= 300 else text[:300] + "...") or "(empty body)"
