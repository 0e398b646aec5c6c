"""The loop's transition table, row by row, and that it always ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym.agent.step import (
    Action,
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
from kubegym.core.messages import ToolCall

CALLS = (ToolCall("f", "{}", "c1"),)
FREE = LoopLimits()
MULTI = LoopLimits(multi_turn=True)
TWO = LoopLimits(max_steps=2)
BUDGET = LoopLimits(max_total_tokens=100, multi_turn=True)
NONE = LoopState()
ONE = LoopState(model_calls=1)

TABLE: list[tuple[str, LoopState, Event, LoopLimits, Action]] = [
    ("starts", NONE, Started(), FREE, CallModel()),
    ("cut short", NONE, ModelReplied((), True, "max_output_tokens"), FREE, Finish("max_output_tokens")),
    ("cut short with calls", NONE, ModelReplied(CALLS, False, "content_filter"), FREE, Finish("content_filter")),
    (
        "cut short before the environment",
        NONE,
        ModelReplied((), True, "context_window"),
        MULTI,
        Finish("context_window"),
    ),
    ("message", NONE, ModelReplied((), True), FREE, Finish("completed")),
    ("message at the last step", ONE, ModelReplied((), True), TWO, Finish("completed")),
    (
        "message over the budget",
        NONE,
        ModelReplied((), True, None, 100),
        LoopLimits(max_total_tokens=9),
        Finish("completed"),
    ),
    ("calls over the budget still run", NONE, ModelReplied(CALLS, False, None, 100), BUDGET, CallTools(CALLS)),
    ("turn over the budget is still answered", NONE, ModelReplied((), True, None, 100), BUDGET, AskEnvironment(0)),
    ("silence over the budget", NONE, ModelReplied((), False, None, 100), BUDGET, Finish("token_budget")),
    ("tools answered over the budget", LoopState(1, 0, 0, 100), ToolsAnswered(), BUDGET, Finish("token_budget")),
    ("tools answered under the budget", LoopState(1, 0, 0, 99), ToolsAnswered(), BUDGET, CallModel()),
    (
        "environment replies over the budget",
        LoopState(1, 0, 0, 100),
        EnvironmentReplied(False),
        BUDGET,
        Finish("token_budget"),
    ),
    ("calls", NONE, ModelReplied(CALLS, False), FREE, CallTools(CALLS)),
    ("calls beside a message", NONE, ModelReplied(CALLS, True), FREE, CallTools(CALLS)),
    ("calls at the last step still run", ONE, ModelReplied(CALLS, False), TWO, CallTools(CALLS)),
    ("message to the environment", NONE, ModelReplied((), True), MULTI, AskEnvironment(0)),
    ("second message", LoopState(1, 0, 1), ModelReplied((), True), MULTI, AskEnvironment(1)),
    ("reasoning only", NONE, ModelReplied((), False), FREE, CallModel()),
    ("reasoning only, last step", ONE, ModelReplied((), False), TWO, Finish("max_steps")),
    ("tools answered", ONE, ToolsAnswered(), FREE, CallModel()),
    ("tools answered, last step", LoopState(2), ToolsAnswered(), TWO, Finish("max_steps")),
    ("environment is done", ONE, EnvironmentReplied(True), MULTI, Finish("environment_done")),
    ("environment replies", ONE, EnvironmentReplied(False), MULTI, CallModel()),
    ("environment replies, last step", LoopState(2), EnvironmentReplied(False), TWO, Finish("max_steps")),
]


@pytest.mark.parametrize(
    ("state", "event", "limits", "action"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_table(state: LoopState, event: Event, limits: LoopLimits, action: Action) -> None:
    assert step(state, event, limits)[1] == action


def test_silence_ends_and_a_word_begins_it_anew() -> None:
    limits, state, silent = LoopLimits(max_silent=3), LoopState(), ModelReplied((), False)
    for event in (silent, silent, ModelReplied(CALLS, False), silent, silent):
        state, action = step(state, event, limits)
        assert not isinstance(action, GiveUp)
    state, action = step(state, silent, limits)
    assert action == GiveUp("NoProgress", "3 replies in a row with neither a message nor a call")
    assert state.model_calls == 6


def test_replies_of_the_environment_are_counted() -> None:
    state = LoopState(1, 0, 4)
    assert step(state, EnvironmentReplied(False), MULTI)[0].replies == 5
    assert step(state, EnvironmentReplied(True), MULTI)[0].replies == 4


replies = st.builds(
    ModelReplied,
    calls=st.sampled_from([(), CALLS]),
    has_message=st.booleans(),
    stop=st.sampled_from([None, None, None, "max_output_tokens"]),
    total_tokens=st.integers(0, 200),
)


@given(
    data=st.data(),
    limits=st.builds(
        LoopLimits,
        max_steps=st.integers(1, 12),
        max_total_tokens=st.none() | st.integers(1, 150),
        max_silent=st.integers(1, 4),
        multi_turn=st.booleans(),
    ),
)
def test_whatever_is_answered_the_loop_ends(data: st.DataObject, limits: LoopLimits) -> None:
    state: LoopState = LoopState()
    event: Event = Started()
    for _ in range(3 * limits.max_steps):
        state, action = step(state, event, limits)
        match action:
            case CallModel():
                event = data.draw(replies)
            case CallTools():
                event = ToolsAnswered()
            case AskEnvironment():
                assert limits.multi_turn
                event = EnvironmentReplied(data.draw(st.booleans()))
            case _:
                break
    assert isinstance(action, Finish | GiveUp)
    assert state.model_calls <= limits.max_steps
