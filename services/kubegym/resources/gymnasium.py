"""``/reset`` and ``/step``: an environment as gymnasium's agents see it (contract 1.6).

Our own agent calls tools and ``/verify`` by their routes and asks ``/step`` only what ``respond`` says. An agent of
others that began with ``/reset`` never calls ``/verify``: its tool calls are run here, and the step that ends the
rollout carries the verdict.
"""

from __future__ import annotations

from typing import Any

from kubegym.core.errors import RolloutError
from kubegym.core.messages import Item, Message, ToolOutput, tool_calls, tool_output
from kubegym.core.trajectory import Rollout
from kubegym.http.server import Problem
from kubegym.resources.bodies import (
    failure_of,
    observation_of,
    observation_of_items,
    read_arguments,
    read_input,
    read_response,
    scored,
    stop_reason_of,
    turn_of,
    unscored,
)
from kubegym.resources.sessions import Conversation, ServedSession
from kubegym.resources.tools import output_text

INFO = {"supports_explicit_close": True, "supports_step_idempotency": True}


def reset(session: ServedSession, seeded: list[Item]) -> dict[str, Any]:
    """The reply of ``/reset`` for a session just seeded."""
    session.conversation = Conversation(read_input(session.assignment.row) + seeded, [])
    observation = observation_of_items(seeded)
    reply: dict[str, Any] = {"info": INFO}
    return reply if observation is None else {"observation": observation, **reply}


async def step(session: ServedSession, body: dict[str, Any], *, nullable: bool) -> dict[str, Any]:
    """The reply of ``/step``; nothing else may run in the session meanwhile.

    Args:
        session: the session.
        body: row and ``response``, whose output is the policy's last turn.
        nullable: whether the caller understands a null reward.

    Raises:
        Problem: 422.
        RolloutError: the environment failed.
    """
    response = read_response(body)
    items: list[Item] = response["output"]
    conversation = session.conversation
    if conversation is not None:
        conversation.add(response)
    cut_short = response.get("incomplete_details") is not None
    outputs = [] if cut_short else await _call_tools(session, items)
    if outputs:
        if conversation is not None:
            conversation.output += outputs
        told = [{"call_id": item["call_id"], "output": item["output"]} for item in outputs]
        return _reply(info={**INFO, "tool_outputs": told})
    if session.local.multi_turn and not cut_short:
        answer = await session.local.respond(turn_of(session.replies, items))
        if isinstance(answer, Message):
            session.replies += 1
            if conversation is not None:
                conversation.output.append({"type": "message", **answer.to_item()})
            return _reply(observation=observation_of(answer))
    if conversation is None:
        return _reply(terminated=True)
    added = await _verdict(session, conversation, nullable)
    marks = {name: value for name, value in added.items() if name.startswith("_ng_") or name == "mask_sample"}
    details = {name: value for name, value in added.items() if name != "reward"}
    return {**_reply(terminated=True, info={**details, **INFO}), "reward": added["reward"], **marks}


def _reply(
    *, observation: str | dict[str, Any] | None = None, terminated: bool = False, info: dict[str, Any] = INFO
) -> dict[str, Any]:
    reply: dict[str, Any] = {"reward": 0.0, "terminated": terminated, "truncated": False, "info": info}
    return reply if observation is None else {"observation": observation, **reply}


async def _call_tools(session: ServedSession, items: list[Item]) -> list[Item]:
    try:
        calls = tool_calls(items)
    except KeyError as missing:
        raise Problem.invalid(["body", "response", "output"], f"a function_call lacks {missing}", "missing") from None
    outputs = []
    for call in calls:
        try:
            arguments = read_arguments(str(call.arguments).encode(errors="replace"))
        except Problem as problem:
            text: ToolOutput = output_text({"error": f"Invalid tool call arguments: {problem.detail[0]['msg']}"})
        else:
            text = await session.local.call_tool(call.name, arguments)
        outputs.append(tool_output(call.call_id, text))
    return outputs


async def _verdict(session: ServedSession, conversation: Conversation, nullable: bool) -> dict[str, Any]:
    response: dict[str, Any] = {
        **(conversation.response or {}),
        "output": conversation.output,
        "usage": conversation.usage,
    }
    row = session.assignment.row
    rollout = Rollout(conversation.input, conversation.output, stop_reason_of(response), response, row)
    local = session.local
    try:
        verdict = await local.verify(rollout)
    except RolloutError as error:
        return unscored(failure_of(error, session.assignment.attempt), local.usage, nullable=nullable)
    return scored(verdict, local.usage, nullable=nullable)
