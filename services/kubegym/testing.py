"""Playing environments with scripted replies, for plain pytest tests.

::

    from kubegym.testing import play

    def test_it_pays_the_right_answer():
        played = play("environments/arithmetic", {"question": "2+3", "expected_answer": 5}, ["The answer is 5."])
        assert played.reward == 1.0

The whole path runs as in a run (tool calls, ``respond``, limits, verdict); only the model's words are given.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import orjson

from kubegym.agent import AgentSettings, apply_verdict, run_attempt
from kubegym.core.errors import InvalidRows, ModelError, RowProblem
from kubegym.core.ids import rollout_id, task_id
from kubegym.core.messages import Item, Message, input_items
from kubegym.core.outcomes import Failure, Outcome, StopReason
from kubegym.core.protocols import Assignment, Attempt, CallContext, EnvironmentInfo, ModelReply
from kubegym.core.rows import build_row
from kubegym.core.trajectory import Rollout
from kubegym.resources import Environment, EnvironmentRuntime, SessionLimits, load_environment

__all__ = [
    "InvalidRows",
    "ModelError",
    "Played",
    "Reply",
    "Script",
    "ScriptedModel",
    "load_environment",
    "play",
    "play_group",
    "scripted_response",
]

T = TypeVar("T")
Reply: TypeAlias = str | Message | dict[str, Any] | Sequence[Any] | ModelReply | Exception
"""What a scripted model says at one call.

A text; a ``Message``; a function call ``{"name": ..., "arguments": {...}}`` (arguments may be malformed text); any
Responses output item; a list of these for several items of one reply; a whole Responses object or ``ModelReply``; an
exception to be raised.
"""

Script: TypeAlias = Sequence[Reply] | Callable[[dict[str, Any]], Reply]
"""What a scripted model says: one reply a call, or a function from the call's create-params to the reply."""

_RUN_ID = "0" * 32


class ScriptedModel:
    """A model that says what it was given, in order, and remembers what it was asked.

    Args:
        script: see ``Script``.
        model: its name.
    """

    def __init__(self, script: Script, model: str = "scripted") -> None:
        self.model = model
        self.requests: list[dict[str, Any]] = []
        self.contexts: list[CallContext] = []
        self._script = script if callable(script) else list(script)
        self._calls = 0

    def leave(self, rollout_id: str) -> None:
        """Nothing is kept for a rollout."""

    async def respond(self, request: dict[str, Any], context: CallContext) -> ModelReply:
        """The next reply. Raises ModelError "ScriptExhausted" after the last one, or the script's own exception."""
        self.requests.append(request)
        self.contexts.append(context)
        reply = self._next(request)
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, ModelReply):
            return reply
        if isinstance(reply, dict) and reply.get("object") == "response":
            return ModelReply(reply)
        parts = [reply] if isinstance(reply, str | Message | dict) else reply
        output = [self._item(part) for part in parts]
        return ModelReply(scripted_response(output, len(self.requests), self.model))

    async def close(self) -> None:
        """Nothing to give back."""

    def _next(self, request: dict[str, Any]) -> Reply:
        if callable(self._script):
            return self._script(request)
        if len(self.requests) > len(self._script):
            raise ModelError(f"the script ends after {len(self._script)} replies", reason="ScriptExhausted")
        return self._script[len(self.requests) - 1]

    def _item(self, part: Any) -> Item:
        if isinstance(part, Message):
            part = part.text
        if isinstance(part, str):
            content = [{"type": "output_text", "text": part, "annotations": []}]
            identity = f"msg_{len(self.requests)}"
            return {"id": identity, "type": "message", "role": "assistant", "status": "completed", "content": content}
        if not isinstance(part, dict):
            raise TypeError(f"a scripted reply is a text, a Message or an item, not {type(part).__name__}")
        if "type" not in part and "name" in part:
            self._calls += 1
            arguments = part.get("arguments", {})
            return {
                "type": "function_call",
                "name": part["name"],
                "arguments": arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode(),
                "call_id": part.get("call_id", f"call_{self._calls}"),
            }
        return part


def scripted_response(output: list[Item], number: int = 1, model: str = "scripted", **fields: Any) -> dict[str, Any]:
    """A Responses object around output items (contract 1.4); one token in and out for each item."""
    tokens = len(output)
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": 0,
        "model": model,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 2 * tokens,
        },
        **fields,
    }


@dataclass(frozen=True)
class Played:
    """How a scripted rollout ended.

    Attributes:
        row: the row a run would have written.
        rollout: what the verifier saw; None when there was no model reply at all.
        items: the conversation, input and output.
        requests: what the model was asked, call by call.
    """

    attempt: Attempt
    row: dict[str, Any]
    rollout: Rollout | None
    items: list[Item]
    requests: list[dict[str, Any]] = field(repr=False)

    @property
    def reward(self) -> float | None:
        """The verifier's number; None unless it gave one."""
        return self.attempt.reward

    @property
    def outcome(self) -> Outcome:
        """``scored``, ``unscored`` or ``failed``."""
        return self.attempt.outcome

    @property
    def failure(self) -> Failure | None:
        """Why it failed, if it did."""
        return self.attempt.failure

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the conversation ended."""
        return self.attempt.stop_reason

    @property
    def fields(self) -> dict[str, Any]:
        """The verdict's fields and metrics."""
        return self.attempt.fields

    @property
    def tool_outputs(self) -> list[Any]:
        """What the tools answered, in order: a text, or a list of content parts where there are images."""
        return [item["output"] for item in self.items if item.get("type") == "function_call_output"]


def play(
    environment: type[Environment] | str | Path,
    task: Mapping[str, Any],
    replies: Script | str,
    config: Mapping[str, Any] | None = None,
    *,
    models: Mapping[str, Script | Literal["stand-in"]] | None = None,
    settings: AgentSettings | None = None,
    limits: SessionLimits | None = None,
    rollout_index: int = 0,
) -> Played:
    """Play one rollout with scripted replies. Also works inside a running event loop.

    Args:
        environment: the class, its folder, or its name.
        task: the row; ``responses_create_params`` may be left out.
        replies: what the policy says, one entry a model call; a text is the one and only reply; "oracle" plays the
            environment's own; a function answers each call's create-params.
        config: the manifest's ``config``.
        models: scripts of the environment's other models, by role; "stand-in" plays the environment's own.
        settings: of the agent.
        limits: of the environment's hooks.
        rollout_index: which of the task's rollouts; moves ``self.rng``.

    Raises:
        InvalidRows: the environment refuses the task.
        InvalidSpec: it refuses the configuration, or is no complete environment.
    """
    stage = _Stage(environment, task, config, models or {}, settings or AgentSettings(), limits)
    return _run_sync(lambda: stage.play([(rollout_index, replies)]))[0]


def play_group(
    environment: type[Environment] | str | Path,
    task: Mapping[str, Any],
    scripts: Sequence[Script | str],
    config: Mapping[str, Any] | None = None,
    *,
    models: Mapping[str, Script | Literal["stand-in"]] | None = None,
    settings: AgentSettings | None = None,
    limits: SessionLimits | None = None,
) -> list[Played]:
    """Play all rollouts of a task, one a script, and ``verify_group`` them. See ``play``."""
    stage = _Stage(environment, task, config, models or {}, settings or AgentSettings(), limits)
    return _run_sync(lambda: stage.play(list(enumerate(scripts))))


@dataclass(frozen=True, slots=True)
class _Performance:
    """A rollout that was played and may still be judged within its group."""

    assignment: Assignment
    attempt: Attempt
    requests: list[dict[str, Any]]


class _Stage:
    """An environment and a task, ready to be played."""

    def __init__(
        self,
        environment: type[Environment] | str | Path,
        task: Mapping[str, Any],
        config: Mapping[str, Any] | None,
        models: Mapping[str, Script | Literal["stand-in"]],
        settings: AgentSettings,
        limits: SessionLimits | None,
    ) -> None:
        cls = environment if isinstance(environment, type) else load_environment(environment).cls
        self._runtime = EnvironmentRuntime(cls, config, limits=limits)
        self._row = {"responses_create_params": {"input": []}, **task}
        self._models = models
        self._settings = settings
        problem = self._runtime.validate_row(self._row)
        if problem is not None:
            raise InvalidRows([RowProblem("task", 1, problem)], 1)

    async def play(self, scripts: Sequence[tuple[int, Script | str]]) -> list[Played]:
        await self._runtime.start()
        try:
            performances = [await self._one(index, script) for index, script in scripts]
            if self._runtime.verifies_groups:
                await self._verify_group(performances)
            return [self._played(one) for one in performances]
        finally:
            await self._runtime.close()

    async def _one(self, index: int, script: Script | str) -> _Performance:
        if script == "oracle":
            script = await self._runtime.oracle(self._row)
        model = ScriptedModel([script] if isinstance(script, str) else script)
        name = self._runtime.name
        assignment = Assignment(name, self._row, task_id(name, self._row), 0, index, rollout_id(_RUN_ID, 0, index))
        roles = {role: ScriptedModel(self._role(role, script), role) for role, script in self._models.items()}
        attempt = await run_attempt(assignment, self._runtime.session(assignment, roles), model, self._settings)
        return _Performance(assignment, attempt, model.requests)

    def _role(self, role: str, script: Script | Literal["stand-in"]) -> Script:
        return self._runtime.stand_in(role, self._row) if script == "stand-in" else script

    async def _verify_group(self, performances: list[_Performance]) -> None:
        attempts = [one.attempt for one in performances if one.attempt.outcome != "failed"]
        rollouts = [rollout for attempt in attempts if (rollout := self._rollout(attempt)) is not None]
        for attempt, verdict in zip(attempts, await self._runtime.verify_group(rollouts), strict=True):
            apply_verdict(attempt, verdict)

    def _played(self, performance: _Performance) -> Played:
        runtime, attempt = self._runtime, performance.attempt
        info = EnvironmentInfo(
            runtime.name, runtime.version, runtime.name, runtime.verifier_version, "simple", "scripted"
        )
        rollout = self._rollout(attempt)
        items = rollout.messages if rollout is not None else input_items(attempt.params.get("input") or [])
        row = build_row(performance.assignment, attempt, info, _RUN_ID)
        return Played(attempt, row, rollout, items, performance.requests)

    def _rollout(self, attempt: Attempt) -> Rollout | None:
        if attempt.response is None:
            return None
        return Rollout(
            input_items(attempt.params.get("input") or []),
            attempt.response["output"],
            attempt.stop_reason or "completed",
            attempt.response,
            self._row,
            attempt.reward,
            attempt.fields,
        )


def _run_sync(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run to the end, in a thread of its own where a loop already runs here (notebooks, async tests)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(make())
    outcome: list[tuple[Literal[True], T] | tuple[Literal[False], BaseException]] = []

    def run() -> None:
        try:
            outcome.append((True, asyncio.run(make())))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=run, name="kubegym-play")
    thread.start()
    thread.join()
    kind, value = outcome[0]
    if kind is True:
        return value  # type: ignore[return-value]
    raise value  # type: ignore[misc]
