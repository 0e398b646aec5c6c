"""The conversation loop as a pure function: ``step(state, event, limits) -> (state, action)``.

It is NeMo Gym's ``simple_agent`` (contract section 7) plus ``respond`` for several turns. Nothing in here waits, calls
or holds items: the driver does what the action says and reports by the next event. The first row that fits decides:

==================== ===================================================== ==============================
event                condition                                             action
==================== ===================================================== ==============================
Started              always                                                CallModel
ModelReplied         the reply is cut short (``stop``)                     Finish(stop)
ModelReplied         message, no calls; the environment does not respond   Finish("completed")
ModelReplied         tokens used ≥ ``max_total_tokens``                    Finish("token_budget")
ModelReplied         calls                                                 CallTools
ModelReplied         message, no calls                                     AskEnvironment
ModelReplied         neither (reasoning only), ``max_silent`` in a row     GiveUp
ModelReplied         neither, ``max_steps`` model calls made               Finish("max_steps")
ModelReplied         neither                                               CallModel
ToolsAnswered        ``max_steps`` model calls made                        Finish("max_steps")
ToolsAnswered        always                                                CallModel
EnvironmentReplied   done                                                  Finish("environment_done")
EnvironmentReplied   ``max_steps`` model calls made                        Finish("max_steps")
EnvironmentReplied   always                                                CallModel
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
    """When a conversation ends for its length.

    Attributes:
        max_steps: model calls; the tools of the last one still run.
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
    """

    model_calls: int = 0
    silent: int = 0
    replies: int = 0


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
        state = LoopState(state.model_calls, state.silent, state.replies + 1)
    return state, _next_call(state, limits)


def _after_model(state: LoopState, event: ModelReplied, limits: LoopLimits) -> tuple[LoopState, Action]:
    speaks = event.has_message or bool(event.calls)
    state = LoopState(state.model_calls + 1, 0 if speaks else state.silent + 1, state.replies)
    if event.stop is not None:
        return state, Finish(event.stop)
    if not event.calls and event.has_message and not limits.multi_turn:
        return state, _COMPLETED
    if limits.max_total_tokens is not None and event.total_tokens >= limits.max_total_tokens:
        return state, Finish("token_budget")
    if event.calls:
        return state, CallTools(event.calls)
    if event.has_message:
        return state, AskEnvironment(state.replies)
    if state.silent >= limits.max_silent:
        return state, GiveUp("NoProgress", f"{state.silent} replies in a row with neither a message nor a call")
    return state, _next_call(state, limits)


def _next_call(state: LoopState, limits: LoopLimits) -> Action:
    return Finish("max_steps") if state.model_calls >= limits.max_steps else _CALL_MODEL
