"""Runs whose environment's tools and hooks break: they hang, raise, say too much or what cannot be written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubegym import Done, Environment, Message, ToolError, tool
from kubegym.core.errors import InvalidSpec
from kubegym.core.messages import Turn
from kubegym.resources import SessionLimits
from testbed.local_runs import (
    BAD,
    Fine,
    assert_fails_alone,
    assert_nothing_written,
    assert_scored,
    completion,
    engine_client,
    last_role,
    never,
    settle_all,
    start,
    tool_call,
)

pytestmark = pytest.mark.contract

SHORT = SessionLimits(sync_seconds=0.3, tool_seconds=60.0, hook_seconds=60.0, verify_seconds=60.0)
"""Little CPU time, so that a busy loop costs a test little; waits are in virtual time."""


class Odd(BaseException):
    """What no ``except Exception`` catches: test outcomes, cancellations of other frameworks."""


class Trouble(Fine):
    """Calls of its tool do what ``break_down`` does, in the rollout of row BAD."""

    @tool
    async def look(self) -> Any:
        """Look."""
        if not self.bad:
            return "nothing to see"
        broken = self.break_down()
        return await broken if asyncio.iscoroutine(broken) else broken

    def break_down(self) -> Any:
        """What the tool does."""


class SyncTrouble(Fine):
    """The same, with a sync tool."""

    @tool
    def look(self) -> Any:
        """Look."""
        return self.break_down() if self.bad else "nothing to see"

    def break_down(self) -> Any:
        """What the tool does."""


def looks(body: dict[str, Any]) -> dict[str, Any]:
    """A model that calls the tool, then answers."""
    return completion(**tool_call("look", "{}")) if last_role(body) == "user" else completion()


def breaking(base: type[Environment], what: Callable[[Any], Any]) -> type[Environment]:
    return type(base.__name__, (base,), {"break_down": what, "__module__": __name__})


def output_of(row: dict[str, Any]) -> str:
    """What the tool told the model."""
    return next(item["output"] for item in row["response"]["output"] if item["type"] == "function_call_output")


def raises(error: BaseException) -> Callable[[Any], Any]:
    def raise_it(self: Any) -> Any:
        raise error

    return raise_it


@pytest.mark.looptime
@pytest.mark.parametrize("base", [Trouble, SyncTrouble])
@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [
        (ValueError("no such thing"), "ToolCrashed", False),
        (KeyError("missing"), "ToolCrashed", False),
        (RecursionError("deep"), "ToolCrashed", False),
        (SystemExit(3), "ToolCrashed", False),
        (Odd("odd"), "ToolCrashed", False),
        (FileNotFoundError(2, "no such file"), "ToolCrashed", False),
        (ConnectionError("the database is away"), "ToolUnavailable", True),
        (OSError(28, "No space left on device"), "ToolUnavailable", True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
async def test_a_tool_that_raises_fails_its_rollout_alone(
    base: type[Environment], error: BaseException, reason: str, retryable: bool, tmp_path: Path
) -> None:
    ended = await settle_all(f"memory://{tmp_path}", breaking(base, raises(error)), engine_client(looks))
    row = assert_fails_alone(ended, "tool", reason, retryable=retryable, message="look")
    assert [item["type"] for item in row["response"]["output"]] == ["function_call"], "what was said is kept"


async def test_a_tool_error_answers_the_model_and_is_no_failure(tmp_path: Path) -> None:
    refusing = breaking(SyncTrouble, raises(ToolError("look elsewhere")))
    ended = await settle_all(tmp_path / "out", refusing, engine_client(looks))
    assert_scored(ended, *ended.rows)
    assert output_of(ended.rows[BAD]) == "look elsewhere"


@pytest.mark.looptime
async def test_a_tool_that_was_away_is_tried_again_in_a_new_attempt(tmp_path: Path) -> None:
    """Never the call alone: it may have taken effect."""
    calls: list[str] = []

    def away_once(self: Any) -> str:
        calls.append(self.row["n"])
        if len(calls) == 1:
            raise ConnectionResetError("gone")
        return "back"

    ended = await settle_all(f"memory://{tmp_path}", breaking(Trouble, away_once), engine_client(looks))
    assert_scored(ended, *ended.rows)
    assert [ended.rows[n]["kubegym"]["attempt"] for n in sorted(ended.rows)] == [0, 0, 1, 0, 0]
    assert output_of(ended.rows[BAD]) == "back"
    assert ended.result.manifest.totals.attempts == 6


@pytest.mark.looptime
async def test_a_tool_that_waits_for_ever_is_ended(tmp_path: Path) -> None:
    async def wait(self: Any) -> str:
        await asyncio.get_running_loop().create_future()
        return "never"

    ended = await settle_all(f"memory://{tmp_path}", breaking(Trouble, wait), engine_client(looks), limits=SHORT)
    assert_fails_alone(ended, "tool", "ToolTimeout", retryable=True, message="waited for more than 60 s")


@pytest.mark.parametrize("base", [Trouble, SyncTrouble])
async def test_a_tool_that_computes_for_ever_is_ended(base: type[Environment], tmp_path: Path) -> None:
    def compute(self: Any) -> str:
        while True:
            pass

    ended = await settle_all(tmp_path / "out", breaking(base, compute), engine_client(looks), limits=SHORT)
    assert_fails_alone(ended, "tool", "ToolTimeout", message="computed for more than 0.3 s")


async def test_a_tool_that_sleeps_on_the_event_loop_is_ended(tmp_path: Path) -> None:
    def sleep(self: Any) -> str:
        while True:
            time.sleep(0.01)

    ended = await settle_all(tmp_path / "out", breaking(SyncTrouble, sleep), engine_client(looks), limits=SHORT)
    assert_fails_alone(ended, "tool", "ToolStarved", retryable=True, message="blocked the event loop")


async def test_an_output_of_10_megabytes_is_cut_and_says_so(tmp_path: Path) -> None:
    talking = breaking(SyncTrouble, lambda self: "x" * 10_000_000)
    ended = await settle_all(tmp_path / "out", talking, engine_client(looks))
    assert_scored(ended, *ended.rows)
    said = output_of(ended.rows[BAD])
    assert said == "x" * 1_000_000 + "\n[output cut: 10000000 characters, only the first 1000000 are shown]"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "null"),
        (10**30, str(10**30)),
        ({1: "one"}, '{"1":"one"}'),
        ("half a \ud800 pair", "half a ? pair"),
        (float("nan"), "null"),
        (["\udfff"], '["?"]'),
    ],
    ids=lambda value: repr(value)[:12],
)
async def test_a_tools_value_becomes_text(value: Any, told: str, tmp_path: Path) -> None:
    ended = await settle_all(tmp_path / "out", breaking(SyncTrouble, lambda self: value), engine_client(looks))
    assert_scored(ended, *ended.rows)
    assert output_of(ended.rows[BAD]) == told


def circle() -> list[Any]:
    round_about: list[Any] = []
    round_about.append(round_about)
    return round_about


@pytest.mark.parametrize(
    "value", [object(), b"\xff", {"a": lambda: 0}, circle()], ids=["object", "bytes", "lambda", "circle"]
)
async def test_a_value_that_json_has_no_word_for_fails_its_rollout_alone(value: Any, tmp_path: Path) -> None:
    ended = await settle_all(tmp_path / "out", breaking(SyncTrouble, lambda self: value), engine_client(looks))
    assert_fails_alone(ended, "tool", "ToolCrashed")


# seed, respond, close, setup


class Seeding(Fine):
    async def seed(self) -> list[Message]:
        if self.bad:
            self.break_down()
        return [Message.user("go on")]

    def break_down(self) -> Any:
        """What ``seed`` does."""


class Responding(Fine):
    def respond(self, turn: Turn) -> Message | Done:
        return self.break_down() if self.bad else Done()  # type: ignore[no-any-return]  # anything, on purpose

    def break_down(self) -> Any:
        """What ``respond`` answers."""


@pytest.mark.looptime
@pytest.mark.parametrize(("base", "hook"), [(Seeding, "Seed"), (Responding, "Respond")])
@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [(ZeroDivisionError("division by zero"), "Crashed", False), (ConnectionError("away"), "Unavailable", True)],
)
async def test_a_hook_that_raises_fails_its_rollout_alone(
    base: type[Environment], hook: str, error: Exception, reason: str, retryable: bool, tmp_path: Path
) -> None:
    ended = await settle_all(
        f"memory://{tmp_path}", breaking(base, raises(error)), engine_client(lambda _: completion())
    )
    assert_fails_alone(ended, "agent", hook + reason, retryable=retryable, message=f"{hook.lower()}: ")


async def test_a_reply_of_respond_that_is_none_fails_its_rollout_alone(tmp_path: Path) -> None:
    wrong = breaking(Responding, lambda self: "hello")
    ended = await settle_all(tmp_path / "out", wrong, engine_client(lambda _: completion()))
    assert_fails_alone(
        ended, "agent", "RespondCrashed", message="respond returned str; return Message.user(...) or Done()"
    )


async def test_an_environment_that_asks_for_ever_is_cut_at_max_steps(tmp_path: Path) -> None:
    asking = breaking(Responding, lambda self: Message.user("and?"))
    silent = engine_client(lambda body: completion(""))
    ended = await settle_all(tmp_path / "out", asking, silent, max_steps=30)
    assert ended.rows[BAD]["kubegym"]["stop_reason"] == "max_steps"
    assert_scored(ended, *ended.rows)


async def test_close_that_crashes_takes_no_verdict_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Closing(Fine):
        def close(self) -> None:
            raise RuntimeError("cannot tidy up")

    ended = await settle_all(tmp_path / "out", Closing)
    assert_scored(ended, *ended.rows)
    assert "close: RuntimeError: cannot tidy up" in caplog.text


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("no licence"), "RuntimeError: no licence"),
        (FileNotFoundError("words.txt"), "words.txt"),
        (SystemExit(0), "SystemExit: 0"),
        (Odd("odd"), "Odd: odd"),
    ],
)
async def test_setup_that_crashes_keeps_the_run_from_starting(
    error: BaseException, message: str, tmp_path: Path
) -> None:
    class Unready(Fine):
        @classmethod
        def setup(cls, config: Any) -> None:
            raise error

    with pytest.raises(InvalidSpec, match=f"environment unready: setup: .*{message}"):
        await start(tmp_path / "out", Unready, never)
    assert_nothing_written(tmp_path / "out")


@pytest.mark.looptime
async def test_setup_that_hangs_keeps_the_run_from_starting(tmp_path: Path) -> None:
    class Unready(Fine):
        @classmethod
        async def setup(cls, config: Any) -> None:
            await asyncio.get_running_loop().create_future()

    with pytest.raises(InvalidSpec, match="setup took more than 9 s"):
        await start(tmp_path / "out", Unready, never, limits=SessionLimits(setup_seconds=9.0))
    assert_nothing_written(tmp_path / "out")
