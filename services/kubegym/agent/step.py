"""The conversation loop as a pure function: ``step(state, event, limits) -> (state, action)``.

It is NeMo Gym's ``simple_agent`` (contract section 7) plus ``respond`` for several turns. Nothing in here waits, calls
or holds items: the driver does what the action says and reports by the next event. The first row that fits decides:

==================== ===================================================== ==============================
event                condition                                             action
==================== ===================================================== ==============================
Started              always                                                CallModel
ModelReplied         the reply is cut short (``stop``)                     Finish(stop)
ModelReplied         calls                                                 CallTools
ModelReplied         message, the environment responds                     AskEnvironment
ModelReplied         message                                               Finish("completed")
ModelReplied         reasoning only, ``max_silent`` in a row               GiveUp
ModelReplied         reasoning only                                        next
ToolsAnswered        always                                                next
EnvironmentReplied   done                                                  Finish("environment_done")
EnvironmentReplied   always                                                next
-------------------- ----------------------------------------------------- ------------------------------
next                 ``max_steps`` model calls made                        Finish("max_steps")
next                 tokens used ≥ ``max_total_tokens``                    Finish("token_budget")
next                 always                                                CallModel
==================== ===================================================== ==============================

It ends: every cycle passes through CallModel, and ``max_steps`` always has a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from kubegym.core.messages import ToolCall
from kubegym.core.outcomes import StopReason

DEFAULT_MAX_STEPS = 1000
"""Model calls of one rollout where nobody set a limit: nothing loops for ever."""


@dataclass(frozen=True, slots=True)
class LoopLimits:
    """When a conversation ends for its length. Tools and environment still answer the last reply.

    Attributes:
        max_steps: model calls.
        max_total_tokens: tokens summed over the calls, the prompt counted each time; None for no limit.
        max_silent: replies in a row that neither say nor call anything.
        multi_turn: whether the environment answers messages.
    """

    max_steps: int = DEFAULT_MAX_STEPS
    max_total_tokens: int | None = None
    max_silent: int = 8
    multi_turn: bool = False


@dataclass(frozen=True, slots=True)
class LoopState:
    """What the loop remembers: counts, no items.

    Attributes:
        model_calls: replies so far.
        silent: how many of the last of them were reasoning only.
        replies: replies of the environment so far.
        tokens: tokens used by all calls so far.
    """

    model_calls: int = 0
    silent: int = 0
    replies: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """The session is seeded."""


@dataclass(frozen=True, slots=True)
class ModelReplied:
    """A model call ended.

    Attributes:
        calls: the function calls of its output, in order.
        has_message: whether its output has an assistant message, be it empty.
        stop: why it is cut short, or None.
        total_tokens: tokens used by all calls so far.
    """

    calls: tuple[ToolCall, ...]
    has_message: bool
    stop: StopReason | None = None
    total_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ToolsAnswered:
    """Every call of the last reply has its output."""


@dataclass(frozen=True, slots=True)
class EnvironmentReplied:
    """``respond`` answered; ``done`` when it ended the conversation."""

    done: bool


@dataclass(frozen=True, slots=True)
class CallModel:
    """Ask the policy with everything said so far."""


@dataclass(frozen=True, slots=True)
class CallTools:
    """Run the calls, in order unless all of them may run side by side."""

    calls: tuple[ToolCall, ...]


@dataclass(frozen=True, slots=True)
class AskEnvironment:
    """Give the assistant's message to ``respond``; ``index`` counts its earlier replies."""

    index: int


@dataclass(frozen=True, slots=True)
class Finish:
    """The conversation is over and can be verified."""

    stop_reason: StopReason


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The policy makes no progress; the attempt fails."""

    reason: Literal["NoProgress"]
    message: str


Event: TypeAlias = Started | ModelReplied | ToolsAnswered | EnvironmentReplied
Action: TypeAlias = CallModel | CallTools | AskEnvironment | Finish | GiveUp

_CALL_MODEL = CallModel()
_COMPLETED = Finish("completed")


def step(state: LoopState, event: Event, limits: LoopLimits) -> tuple[LoopState, Action]:
    """What to do after an event; the table above is the whole truth."""
    if isinstance(event, ModelReplied):
        return _after_model(state, event, limits)
    if isinstance(event, EnvironmentReplied):
        if event.done:
            return state, Finish("environment_done")
        state = LoopState(state.model_calls, state.silent, state.replies + 1, state.tokens)
    return state, _next(state, limits)


def _after_model(state: LoopState, event: ModelReplied, limits: LoopLimits) -> tuple[LoopState, Action]:
    speaks = event.has_message or bool(event.calls)
    state = LoopState(state.model_calls + 1, 0 if speaks else state.silent + 1, state.replies, event.total_tokens)
    if event.stop is not None:
        return state, Finish(event.stop)
    if event.calls:
        return state, CallTools(event.calls)
    if event.has_message:
        return state, AskEnvironment(state.replies) if limits.multi_turn else _COMPLETED
    if state.silent >= limits.max_silent:
        return state, GiveUp("NoProgress", f"{state.silent} replies in a row with neither a message nor a call")
    return state, _next(state, limits)


def _next(state: LoopState, limits: LoopLimits) -> Action:
    if state.model_calls >= limits.max_steps:
        return Finish("max_steps")
    if limits.max_total_tokens is not None and state.tokens >= limits.max_total_tokens:
        return Finish("token_budget")
    return _CALL_MODEL
