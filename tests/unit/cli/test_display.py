"""What progress looks like: pure texts, the plain display, the live one."""

from __future__ import annotations

import io

import pytest

from kubegym.cli.display import (
    PLAIN_SECONDS,
    STOPPING_TEXT,
    LiveDisplay,
    PlainDisplay,
    QuietDisplay,
    Rate,
    display_for,
    duration,
    failures_text,
    outcome,
    pace,
)
from kubegym.rollout import Progress
from kubegym.rollout.head import Totals


class Clock:
    """Seconds that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def progress() -> Progress:
    failures = {"ModelTimeout": 1, "ToolCrashed": 2}
    return Progress(expected=40, totals=Totals(scored=7, failed=3, reward=3.5, failures=failures), in_flight=4)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (750, "12:30"), (10805, "3:00:05"), (-1, "0:00")]
)
def test_durations_read_like_clocks(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_failures_stand_in_order_of_their_number() -> None:
    assert failures_text({}) == "0"
    assert failures_text({"B": 2, "A": 2, "C": 5}) == "9 (C 5, A 2, B 2)"
    assert failures_text({"A": 1, "B": 1, "C": 1, "D": 1}) == "4 (A 1, B 1, C 1, 1 more)"


def test_the_line_says_done_rate_reward_failures_and_time_left() -> None:
    assert pace(progress(), 2.0) == ["10/40 done", "2.0 rollouts/s", "ETA 0:15"]
    assert outcome(progress()) == ["mean reward 0.500", "failed 3 (ToolCrashed 2, ModelTimeout 1)", "4 in flight"]
    assert pace(progress(), 0.0)[-1] == "ETA -"
    done = Progress(expected=2, totals=Totals(scored=2))
    assert pace(done, 2.0) == ["2/2 done", "2.0 rollouts/s"]
    assert outcome(Progress(expected=2, retries=3))[0] == "mean reward -"
    assert outcome(Progress(expected=2, retries=3))[-1] == "3 retries"


def test_the_rate_forgets_what_is_long_ago() -> None:
    rate = Rate(0, 0.0)
    assert rate.value() == 0.0
    for second in range(1, 41):
        rate.add(second, float(second))
    assert rate.value() == pytest.approx(1.0)
    for second in range(41, 101):
        rate.add(40, float(second))
    assert rate.value() == 0.0


def test_plain_lines_come_every_few_seconds_and_at_the_end() -> None:
    clock, stream, state = Clock(), io.StringIO(), progress()
    display = PlainDisplay(stream, clock)
    display.began("runs/x", state)
    display.pulse()
    assert stream.getvalue() == "collecting into runs/x\n"
    clock.now += PLAIN_SECONDS
    state.totals.scored += 10
    display.pulse()
    assert stream.getvalue().splitlines()[1].startswith("20/40 done, 2.0 rollouts/s, ETA 0:10, mean reward")
    display.stopping()
    assert stream.getvalue().splitlines()[2] == STOPPING_TEXT
    state.totals.scored += 20
    clock.now += 1
    display.merging()
    assert [line[:10] for line in stream.getvalue().splitlines()[3:]] == ["40/40 done", "writing fi"]
    display.close()
    assert len(stream.getvalue().splitlines()) == 5, "the last state is said once"


def test_validation_is_mentioned_when_it_takes_long() -> None:
    clock, stream = Clock(), io.StringIO()
    display = PlainDisplay(stream, clock)
    display.validating(2048)
    assert stream.getvalue() == ""
    clock.now += PLAIN_SECONDS
    display.validating(4096)
    assert stream.getvalue() == "checking rows: 4,096\n"


def test_the_live_display_draws_and_gives_the_terminal_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    clock, terminal = Clock(), Terminal()
    display = display_for(terminal, quiet=False)
    assert isinstance(display, LiveDisplay)
    display = LiveDisplay(terminal, clock)
    display.validating(10)
    display.began("runs/x", progress())
    clock.now += 1
    display.pulse()
    display.stopping()
    display.merging()
    display.close()
    shown = terminal.getvalue()
    for text in ("checking rows: 10", "collecting into runs/x", "10/40 done", "failed 3 (", STOPPING_TEXT):
        assert text in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is back"


def test_quiet_and_pipes_get_their_displays() -> None:
    assert isinstance(display_for(Terminal(), quiet=True), QuietDisplay)
    assert isinstance(display_for(io.StringIO(), quiet=False), PlainDisplay)
