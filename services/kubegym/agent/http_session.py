"""A session behind HTTP: one rollout with a resources server, KubeGym's or any that speaks NeMo Gym's contract (1.5).

What becomes of a server's replies (DESIGN section 7); a prefix stands for Seed, Tool, Respond or Verifier:

================================= =========================================================
reply                             outcome
================================= =========================================================
a tool's 2xx, 4xx, 500 + body     the body's text answers the model
``x-kubegym-failure: 1``          the attempt fails as the body says
refused, reset, 502 to 504        ``<Prefix>Unavailable``, retryable
no whole reply in time            ``<Prefix>Timeout``, retryable
anything else                     ``<Prefix>Crashed``: the same request would meet it again
``/verify`` marked as failed      that failure (``core.wire``), whatever its reward says
================================= =========================================================

Only what can be repeated is: a seed that no server took in, and on KubeGym's servers ``/seed_session``, ``/step`` (it
has a request id) and ``/verify``. A tool call that may have arrived never is.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from kubegym.agent.cookies import CookieJar
from kubegym.core.clock import Deadline
from kubegym.core.errors import AgentError, RolloutError, ToolFailed, VerifierError
from kubegym.core.messages import Done, Item, Message, ToolOutput, Turn, input_items
from kubegym.core.protocols import Assignment
from kubegym.core.trajectory import Rollout, Verdict
from kubegym.core.wire import (
    DEADLINE_HEADER,
    FAILURE_HEADER,
    PARTS_HEADER,
    TASK_HEADER,
    components_of,
    error_of,
    failure_of,
    fields_of,
    is_marked,
    number_of,
)
from kubegym.http import BodyTooLarge, HttpError, ReadTimeout, Response

if TYPE_CHECKING:
    from kubegym.agent.resources_client import ResourcesClient
    from kubegym.http.replicas import Replica

_log = logging.getLogger(__name__)

NOT_FOUND = '{"detail":"Not Found"}'
"""A server's answer to a tool it does not have."""

GONE = (502, 503, 504)
"""Statuses of a server, or of a proxy before it, that is not there."""

_CONTRACT_PATHS = frozenset({"verify", "seed_session", "aggregate_metrics", "reverify_mode", "mcp"})
_OUR_PATHS = frozenset({"reset", "step", "close"})
_KEPT_ROW_BYTES = 64 << 10
_CLOSE_SECONDS = 5.0
_GRACE_SECONDS = 1.0
_UNLIMITED_SECONDS = 3600.0


class HttpSession:
    """One rollout's environment behind HTTP. Made by ``ResourcesClient.session``."""

    __slots__ = (
        "_assignment",
        "_client",
        "_closes",
        "_cookies",
        "_parallel",
        "_replica",
        "_row",
        "_row_json",
        "_tools",
        "deadline",
        "multi_turn",
        "usage",
    )

    def __init__(self, client: ResourcesClient, assignment: Assignment, cookies: CookieJar | None = None) -> None:
        """With the cookies of a session that somebody else has seeded, or of who asks for the rollout."""
        self._client = client
        self._assignment = assignment
        self._cookies = cookies or CookieJar()
        self._replica: Replica | None = None
        self._row = _outgoing(assignment)
        self._row_json: bytes | None = None
        self._tools: list[dict[str, Any]] = []
        self._parallel: frozenset[str] = frozenset()
        self._closes = False
        self.multi_turn = False
        self.deadline: Deadline | None = None
        self.usage: dict[str, dict[str, int]] = {}

    @property
    def cookies(self) -> CookieJar:
        """The session's cookies as they stand."""
        return self._cookies

    async def seed(self) -> list[Item]:
        """Begin a session on the replica with the fewest rollouts. Raises AgentError "SeedUnavailable", ..."""
        headers = b"%b: %b\r\n" % (TASK_HEADER, self._assignment.task_id.encode())
        if self.deadline is not None:
            headers += b"%b: %.3f\r\n" % (DEADLINE_HEADER, self.deadline.remaining())
        tried: list[Replica] = []
        pauses = self._client.pauses()
        while True:
            replica = self._take(tried)
            tried.append(replica)
            again = next(pauses, None)
            try:
                response = await self._post("seed_session", self._body(), headers, repeatable=replica.ours is True)
            except HttpError as error:
                sent = not self._client.never_sent(error)
                if again is None or (sent and not replica.ours) or isinstance(error, ReadTimeout | BodyTooLarge):
                    raise _trouble(AgentError, "Seed", replica, error) from error
            else:
                if response.status not in GONE or again is None or not replica.ours:
                    return self._seeded(replica, response)
            self._leave()
            if len(tried) >= len(self._client.replicas):
                await again()

    def tools(self) -> list[dict[str, Any]]:
        """The definitions our server told at ``seed``; none of a foreign one, whose rows bring them."""
        return self._tools

    def parallel(self, name: str) -> bool:
        """Whether our server said so at ``seed``; never for a foreign one, which takes one call after the other."""
        return name in self._parallel

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> ToolOutput:
        """Call a tool and give its body's text, or the content parts that our server says it has.

        Raises:
            RolloutError: ToolFailed, or what the server says has failed.
        """
        replica = self._replica or self._take(())
        if name in _CONTRACT_PATHS or name in ("", ".", "..") or (replica.ours and name in _OUR_PATHS):
            return NOT_FOUND  # the policy could score or end its own session
        try:
            path = quote(name, safe="")
            response = await self._post(path, _arguments_json(arguments), repeatable=False)
        except UnicodeEncodeError:  # a lone surrogate: no server has such a tool
            return NOT_FOUND
        except HttpError as error:
            raise _trouble(ToolFailed, "Tool", replica, error) from error
        status = response.status
        if response.header(FAILURE_HEADER) is not None:
            raise self._carried(response)
        if 200 <= status < 300 or 400 <= status < 500 or (status == 500 and response.body):
            if replica.ours and response.header(PARTS_HEADER) is not None:
                parts: list[dict[str, Any]] = orjson.loads(response.body)
                return parts
            return response.body.decode(errors="replace")
        raise _refused(ToolFailed, "Tool", replica, response)

    async def respond(self, turn: Turn) -> Message | Done:
        """The environment's reply by ``/step`` (contract 1.6). Raises AgentError "RespondUnavailable", ..."""
        identity = self._assignment.rollout_id
        response = {
            **{"id": f"resp_{identity}_{turn.index}", "object": "response", "created_at": 0, "model": ""},
            **{"output": turn.items, "parallel_tool_calls": True, "tool_choice": "auto", "tools": []},
        }
        added = {"response": response, "_ng_step_request_id": f"{identity}:{turn.index}"}
        reply = await self._repeatable(AgentError, "Respond", "step", self._body(added))
        if reply.get("terminated") or reply.get("truncated"):
            return Done()
        message = _observation(reply.get("observation"))
        if message is None:
            raise AgentError("the environment's reply has no observation", reason="RespondInvalidReply")
        return message

    async def verify(self, rollout: Rollout) -> Verdict:
        """The verdict. Raises VerifierError, JudgeError."""
        added: dict[str, Any] = {"response": rollout.response}
        row = self._row
        params = row.get("responses_create_params") or {}
        if len(rollout.input) != len(input_items(params.get("input") or [])):  # ``seed`` has added to it
            added["responses_create_params"] = {**params, "input": rollout.input}
        replica = self._replica or self._take(())
        if replica.ours:
            added["kubegym"] = {"stop_reason": rollout.stop_reason}
        reply = await self._unhurried("verify", self._body(added), replica)
        self._closes = False  # a verdict ends a session of ours
        return self._verdict(reply)

    async def close(self) -> None:
        """Tell our server that the session is over, and free the replica."""
        if self._closes:
            self._closes = False
            try:
                await self._post("close", b"{}", repeatable=True, seconds=_CLOSE_SECONDS)
            except HttpError as error:
                _log.info("rollout=%s: /close: %s", self._assignment.rollout_id, error)
        self._leave()

    # Replies

    def _seeded(self, replica: Replica, response: Response) -> list[Item]:
        if response.header(FAILURE_HEADER) is not None:
            raise self._carried(response)
        if not 200 <= response.status < 300:
            raise _refused(AgentError, "Seed", replica, response)
        try:
            reply = orjson.loads(response.body)
        except orjson.JSONDecodeError:
            raise _refused(AgentError, "Seed", replica, response) from None
        ours = reply.get("kubegym") if isinstance(reply, dict) else None
        if not isinstance(ours, dict):
            replica.ours = False
            return []
        replica.ours = True
        self.multi_turn = bool(ours.get("multi_turn"))
        self._tools = ours.get("tools") or []
        self._parallel = frozenset(ours.get("parallel") or ())
        self._closes = ours.get("close") is not False
        return list(ours.get("input") or [])

    def _verdict(self, reply: dict[str, Any]) -> Verdict:
        ours = reply.get("kubegym")
        if isinstance(ours, dict) and isinstance(ours.get("usage"), dict):
            self.usage = ours["usage"]
        reward: float | None = None
        if is_marked(reply):
            failure = failure_of(reply, self._assignment.attempt)
            if failure is not None:
                raise error_of(failure)
            if "reward" not in reply:
                raise VerifierError("the reply of /verify has no reward", reason="VerifierInvalidVerdict")
        else:
            reward = number_of(reply["reward"])
            if reward is None:
                raise VerifierError(
                    f"the reward {reply['reward']!r:.100} is no number", reason="VerifierInvalidVerdict"
                )
        verdict = Verdict(reward)
        # Not by the constructor: a foreign server may use names that an environment of ours may not.
        verdict.components = components_of(reply)
        verdict.fields = fields_of(reply, self._row)
        if isinstance(ours, dict):
            verdict.turn_rewards = [float(value) for value in ours.get("turn_rewards") or ()]
        return verdict

    def _carried(self, response: Response) -> RolloutError:
        try:
            reply = orjson.loads(response.body)
        except orjson.JSONDecodeError:
            reply = None
        failure = failure_of(reply, self._assignment.attempt) if isinstance(reply, dict) else None
        if failure is None:
            return AgentError(f"a failure without words: {_excerpt(response)}", reason="SessionLost", retryable=True)
        if failure.reason == "SessionLost":
            self._closes = False
        return error_of(failure)

    # Requests

    async def _unhurried(self, path: str, body: bytes, replica: Replica) -> dict[str, Any]:
        """Ask for a verdict without letting the rollout's deadline end a wait for a busy judge.

        A server of ours bounds its verifiers itself. That time counts only if the reply says that no model was asked.
        """
        deadline, clock = self.deadline, asyncio.get_running_loop().time
        if deadline is None or not replica.ours:
            return await self._repeatable(VerifierError, "Verifier", path, body)
        started, lent, used = clock(), deadline.lend(), 0.0
        try:
            reply = await self._repeatable(VerifierError, "Verifier", path, body)
            if (reply.get("kubegym") or {}).get("usage"):
                used = min(lent, clock() - started)
            return reply
        finally:
            deadline.take_back(lent - used)

    async def _repeatable(self, kind: type[RolloutError], prefix: str, path: str, body: bytes) -> dict[str, Any]:
        """Ask for an object, again where the server knows the request by its id. Raises ``kind`` or what it carries."""
        replica = self._replica or self._take(())
        pauses = self._client.pauses()
        while True:
            again = next(pauses, None) if replica.ours else None
            try:
                response = await self._post(path, body, repeatable=replica.ours is True)
            except HttpError as error:
                if again is None or isinstance(error, ReadTimeout | BodyTooLarge):
                    raise _trouble(kind, prefix, replica, error) from error
            else:
                if response.header(FAILURE_HEADER) is not None:
                    raise self._carried(response)
                if 200 <= response.status < 300:
                    return _object(kind, prefix, replica, response)
                if again is None or response.status not in GONE:
                    raise _refused(kind, prefix, replica, response)
            await again()

    async def _post(
        self, path: str, body: bytes, headers: bytes = b"", *, repeatable: bool, seconds: float | None = None
    ) -> Response:
        replica = self._replica
        assert replica is not None, "a session asks the replica it has taken"
        if seconds is None:
            # The rollout's deadline is enforced by who runs it; this only ends what nobody waits for.
            seconds = (self.deadline.remaining() if self.deadline else _UNLIMITED_SECONDS) + _GRACE_SECONDS
        lines = self._client.headers(replica) + self._cookies.line() + headers
        response = await self._client.post(replica, path, lines, body, seconds, repeatable=repeatable)
        self._cookies.take(response.headers)
        return response

    def _take(self, avoid: Sequence[Replica]) -> Replica:
        self._replica = self._client.replicas.take(avoid)
        return self._replica

    def _leave(self) -> None:
        if self._replica is not None:
            self._client.replicas.give(self._replica)
            self._replica = None

    def _body(self, added: dict[str, Any] | None = None) -> bytes:
        """The row in JSON, with further fields; the row is encoded once unless it is large."""
        if added is not None and "responses_create_params" in added:
            return orjson.dumps({**self._row, **added})
        row_json = self._row_json
        if row_json is None:
            row_json = orjson.dumps(self._row)
            if len(row_json) <= _KEPT_ROW_BYTES:
                self._row_json = row_json
        return row_json if added is None else b"%b,%b" % (row_json[:-1], orjson.dumps(added)[1:])


def _outgoing(assignment: Assignment) -> dict[str, Any]:
    """The row as servers get it: with its place in the run, without results of an earlier one."""
    row = dict(assignment.row)
    row.pop("response", None)
    row.pop("kubegym", None)
    row["_ng_task_index"] = assignment.task_index
    row["_ng_rollout_index"] = assignment.rollout_index
    if assignment.attempt:
        row["_ng_attempt_index"] = assignment.attempt
    row["_ng_rollout_id"] = assignment.rollout_id
    return row


def _arguments_json(arguments: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(arguments)
    except TypeError:  # integers beyond 64 bits, lone surrogates: JSON can say them, orjson does not
        return json.dumps(arguments).encode()


def _observation(given: object) -> Message | None:
    if isinstance(given, str):
        return Message.user(given)
    if isinstance(given, dict) and isinstance(given.get("content"), str | list):
        return Message(given.get("role") or "user", given["content"])
    return None


def _object(kind: type[RolloutError], prefix: str, replica: Replica, response: Response) -> dict[str, Any]:
    try:
        reply = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        reply = None
    if not isinstance(reply, dict):
        raise _refused(kind, prefix, replica, response)
    return reply


def _trouble(kind: type[RolloutError], prefix: str, replica: Replica, error: HttpError) -> RolloutError:
    """What an exchange that broke becomes."""
    what = {ReadTimeout: "Timeout", BodyTooLarge: "ReplyTooLarge"}.get(type(error), "Unavailable")
    return kind(f"{replica.url.shown}: {error.message}", reason=prefix + what, retryable=what != "ReplyTooLarge")


def _refused(kind: type[RolloutError], prefix: str, replica: Replica, response: Response) -> RolloutError:
    """What a reply that is no answer becomes."""
    away = response.status in GONE
    message = f"{replica.url.shown} answered {response.status}: {_excerpt(response)}"
    return kind(message, reason=f"{prefix}Unavailable" if away else f"{prefix}Crashed", retryable=away)


def _excerpt(response: Response) -> str:
    text = " ".join(response.body[:1200].decode(errors="replace").split())
    return (text if len(text) <= 300 else text[:300] + "...") or "(empty body)"
