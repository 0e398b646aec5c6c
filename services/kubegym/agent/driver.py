"""Drives ``step``: calls the model, the tools and the environment, and keeps what was said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kubegym.agent.step import (
    AskEnvironment,
    CallModel,
    CallTools,
    EnvironmentReplied,
    Event,
    Finish,
    GiveUp,
    LoopLimits,
    LoopState,
    ModelReplied,
    Started,
    ToolsAnswered,
    step,
)
from kubegym.core.errors import AgentError
from kubegym.core.ids import derive_seed
from kubegym.core.messages import Done, Item, ToolCall, ToolOutput, Turn, is_assistant_message, item_text, tool_output
from kubegym.core.outcomes import StopReason
from kubegym.core.protocols import CallContext, ModelClient, ModelReply, Session
from kubegym.core.tokens import TokenRecord, turn_of
from kubegym.core.usage import add_response_usage, count_call

_INCOMPLETE: dict[str, StopReason] = {"max_output_tokens": "max_output_tokens", "content_filter": "content_filter"}


@dataclass(frozen=True, slots=True)
class SeedSource:
    """Seeds of one rollout's model calls: the same at every attempt (DESIGN section 6)."""

    seed: int
    task_id: str
    rollout_index: int

    def of_turn(self, turn: int) -> int:
        """The seed of the ``turn``-th model call, from 0."""
        return derive_seed(self.seed, self.task_id, self.rollout_index, turn)


@dataclass(slots=True)
class Transcript:
    """What a conversation has come to; the driver fills it, so that a failure leaves the part that exists.

    Attributes:
        input: the items the policy is first given.
        output: everything after, in order.
        replies: model calls that were answered.
        turns: as rows tell them, one a reply.
        last: the last Responses object.
        usage: the contract's sum over all calls.
        tokens: the row's ``usage`` of the policy.
        model_seconds: time in model calls, queues left out.
        queue_seconds: time in queues and back-off.
        tool_seconds: time in tools and ``respond``.
        samples: the calls' token ids, where the model client tells them.
    """

    input: list[Item]
    output: list[Item] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)
    last: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    model_seconds: float = 0.0
    queue_seconds: float = 0.0
    tool_seconds: float = 0.0
    samples: TokenRecord | None = None

    def response(self) -> dict[str, Any] | None:
        """The contract's final response: the last one with all outputs and summed usage. None before any reply."""
        if self.last is None:
            return None
        return {**self.last, "output": self.output, "usage": self.usage}

    def add(self, reply: ModelReply) -> ModelReplied:
        """Append a reply and say what it holds. Raises AgentError "InvalidModelReply"."""
        response = reply.response
        items = response.get("output")
        if not isinstance(items, list):
            raise _invalid("it has no list of outputs")
        event = _read(items, reply)
        self.output += items
        if reply.tokens is not None or self.samples is not None:
            if self.samples is None:
                self.samples = TokenRecord(unknown=len(self.turns))
            self.samples.add(reply.tokens, len(self.output) - 1, reply.policy_version, reply.policy_runs)
        self.last = response
        usage = response.get("usage")
        self.usage = add_response_usage(self.usage, usage)
        count_call(self.tokens, usage)
        self.turns.append(turn_of(reply.policy_version, reply.policy_runs))
        self.model_seconds += reply.seconds
        self.queue_seconds += reply.waited
        used = self.tokens["input_tokens"] + self.tokens["output_tokens"]
        return ModelReplied(event.calls, event.has_message, event.stop, used)


async def run_conversation(
    params: Mapping[str, Any],
    transcript: Transcript,
    session: Session,
    model: ModelClient,
    limits: LoopLimits,
    context: CallContext,
    seeds: SeedSource | None = None,
) -> StopReason:
    """Converse until the loop finishes.

    Args:
        params: Responses create-params; ``input`` is the transcript's.
        transcript: with the input items; filled as the conversation goes.
        session: seeded.
        model: the policy.
        limits: of the loop.
        context: of the first model call; the following ones differ by their seed and by the tokens before them.
        seeds: where the calls' seeds come from; None sends none.

    Returns:
        Why the conversation ended.

    Raises:
        RolloutError: the model, a tool or the environment failed; AgentError "NoProgress".
    """
    clock = asyncio.get_running_loop().time
    state, event = LoopState(), _STARTED
    turn_start = 0
    while True:
        state, action = step(state, event, limits)
        if type(action) is CallModel:
            if seeds is not None:
                context = replace(context, seed=seeds.of_turn(state.model_calls))
            turn_start = len(transcript.output)
            request = {**params, "input": transcript.input + transcript.output}
            reply = await model.respond(request, context)
            context = replace(context, previous=reply.tokens)
            event = transcript.add(reply)
        elif type(action) is CallTools:
            started = clock()
            try:
                await _call_tools(session, action.calls, transcript.output)
            finally:
                transcript.tool_seconds += clock() - started
            event = _TOOLS_ANSWERED
        elif type(action) is AskEnvironment:
            started = clock()
            said = await session.respond(_turn(action.index, transcript.output[turn_start:]))
            transcript.tool_seconds += clock() - started
            event = EnvironmentReplied(isinstance(said, Done))
            if not isinstance(said, Done):
                transcript.output.append({"type": "message", **said.to_item()})
        elif type(action) is Finish:
            return action.stop_reason
        elif type(action) is GiveUp:
            raise AgentError(action.message, reason=action.reason)


_STARTED: Event = Started()
_TOOLS_ANSWERED: Event = ToolsAnswered()


def _read(items: Sequence[Item], reply: ModelReply) -> ModelReplied:
    calls: list[ToolCall] = []
    has_message = False
    for item in items:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "message":
            has_message = has_message or item.get("role") == "assistant"
        elif kind == "function_call":
            try:
                calls.append(ToolCall(item["name"], item["arguments"], item["call_id"]))
            except KeyError as missing:
                raise _invalid(f"a function_call lacks {missing}") from missing
        elif not isinstance(kind, str):
            raise _invalid("an output item has no type")
    stop = reply.stop
    if stop is None:
        incomplete = reply.response.get("incomplete_details")
        if incomplete:
            stop = _INCOMPLETE.get(incomplete.get("reason", ""), "max_output_tokens")
    return ModelReplied(tuple(calls), has_message, stop)


def _invalid(what: str) -> AgentError:
    return AgentError(f"the model's reply breaks the Responses contract: {what}", reason="InvalidModelReply")


def _turn(index: int, items: list[Item]) -> Turn:
    text = next((item_text(item) for item in reversed(items) if is_assistant_message(item)), "")
    return Turn(index, text, items)


async def _call_tools(session: Session, calls: Sequence[ToolCall], output: list[Item]) -> None:
    if len(calls) > 1 and all(session.parallel(call.name) for call in calls):
        output += await _all_at_once(session, calls)
        return
    for call in calls:
        output.append(await _call_tool(session, call))


async def _all_at_once(session: Session, calls: Sequence[ToolCall]) -> list[Item]:
    """All calls side by side, outputs in the order of the calls; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(_call_tool(session, call)) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def _call_tool(session: Session, call: ToolCall) -> Item:
    try:
        # The standard library's parser: orjson would turn integers beyond 64 bits into floats.
        arguments = json.loads(call.arguments)
        if not isinstance(arguments, dict):
            raise ValueError(f"expected an object, not {type(arguments).__name__}")
    except (ValueError, TypeError, RecursionError) as error:
        output: ToolOutput = json.dumps({"error": f"Invalid tool call arguments: {error}"}, ensure_ascii=False)
    else:
        output = await session.call_tool(call.name, arguments)
    return tool_output(call.call_id, output)
