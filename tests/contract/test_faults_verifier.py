"""Runs whose verifier breaks: no verdict is never a reward (DESIGN 3.2)."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from kubegym import Environment, Rollout, Verdict, VerifierError, offload
from kubegym.resources import SessionLimits
from testbed.local_runs import (
    BAD,
    TASKS,
    Fine,
    assert_fails_alone,
    assert_scored,
    command,
    completion,
    engine_client,
    numbered,
    settle_all,
    settled,
)

pytestmark = pytest.mark.contract

SHORT = SessionLimits(sync_seconds=0.3, verify_seconds=60.0)
"""Little CPU time, so that a busy loop costs a test little; waits are in virtual time."""


class Judged(Fine):
    """Its verdict is what ``judge`` says, in the rollout of row BAD."""

    def verify(self, rollout: Rollout) -> Any:
        return self.judge() if self.bad else Verdict(1.0)

    def judge(self) -> Any:
        """A verdict, or trouble."""


class AsyncJudged(Judged):
    """The same, with an async ``verify``."""

    async def verify(self, rollout: Rollout) -> Any:
        await asyncio.sleep(0)
        return self.judge() if self.bad else Verdict(1.0)


def judging(what: Callable[[Any], Any], base: type[Environment] = Judged) -> type[Environment]:
    return type(base.__name__, (base,), {"judge": what, "__module__": __name__})


def raises(error: BaseException) -> Callable[[Any], Any]:
    def raise_it(self: Any) -> Any:
        raise error

    return raise_it


class Odd(BaseException):
    """What no ``except Exception`` catches."""


@pytest.mark.looptime
@pytest.mark.parametrize("base", [Judged, AsyncJudged])
@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [
        (ValueError("cannot parse"), "VerifierCrashed", False),
        (AssertionError(), "VerifierCrashed", False),
        (MemoryError(), "VerifierCrashed", False),
        (SystemExit(0), "VerifierCrashed", False),
        (Odd("odd"), "VerifierCrashed", False),
        (asyncio.CancelledError(), "VerifierCrashed", False),
        (TimeoutError("the database did not answer"), "VerifierUnavailable", True),
        (VerifierError("no judge", reason="JudgeAway", retryable=True), "JudgeAway", True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
async def test_a_verifier_that_raises_gives_no_reward(
    base: type[Environment], error: BaseException, reason: str, retryable: bool, tmp_path: Path
) -> None:
    ended = await settle_all(f"memory://{tmp_path}", judging(raises(error), base))
    row = assert_fails_alone(ended, "verifier", reason, retryable=retryable, message=str(error))
    assert row["response"]["output"][0]["content"][0]["text"] == "fine", "what was sampled is kept"


@pytest.mark.parametrize(
    ("verdict", "message"),
    [
        (lambda self: None, "verify returned NoneType None; return Verdict(reward)"),
        (lambda self: 1.0, "return Verdict(1.0)"),
        (lambda self: Verdict(math.nan), "reward must be finite, not nan"),
        (lambda self: Verdict(-math.inf), "reward must be finite, not -inf"),
        (lambda self: Verdict(10**400), "reward must be finite, not inf"),
        (lambda self: Verdict("1"), "reward must be a number, not str '1'"),  # type: ignore[arg-type]
        (lambda self: Verdict(1.0, components={"a": math.nan}), "a must be finite, not nan"),
        (lambda self: Verdict(1.0, metrics={"a": math.inf}), "a must be finite, not inf"),
        (lambda self: Verdict(1.0, fields={"reward": 2.0}), "'reward' is a reserved field"),
        (lambda self: Verdict(1.0, fields={"_ng_task_index": 0}), "'_ng_task_index' is a reserved field"),
        (lambda self: Verdict(1.0, fields={"kubegym": {}}), "'kubegym' is a reserved field"),
        (lambda self: Verdict(1.0, score=1.0), "score"),  # type: ignore[call-arg]
        (lambda self: Verdict(1.0, fields={"a": object()}), "not JSON"),
        (lambda self: Verdict(1.0, fields={"a": "half a \ud800 pair"}), "not JSON"),
        (lambda self: Verdict(1.0, fields={"a": 10**30}), "not JSON"),
        (lambda self: Verdict(1.0, turn_rewards=[0.5, 0.5]), "2 turn_rewards for 1 turns"),
    ],
)
async def test_what_is_no_verdict_gives_no_reward(verdict: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    ended = await settle_all(tmp_path / "out", judging(verdict))
    assert_fails_alone(ended, "verifier", "VerifierInvalidVerdict", message=message)


async def test_a_verdict_without_a_reward_is_unscored(tmp_path: Path) -> None:
    ended = await settle_all(tmp_path / "out", judging(lambda self: Verdict(None)))
    row = ended.rows[BAD]
    assert (row["kubegym"]["outcome"], row["reward"], row["kubegym"]["failure"]) == ("unscored", None, None)
    assert_scored(ended, *(set(ended.rows) - {BAD}))


@pytest.mark.looptime
async def test_a_verifier_that_waits_for_ever_gives_no_reward(tmp_path: Path) -> None:
    class Waiting(Fine):
        async def verify(self, rollout: Rollout) -> Verdict:
            if self.bad:
                await asyncio.get_running_loop().create_future()
            return Verdict(1.0)

    ended = await settle_all(f"memory://{tmp_path}", Waiting, limits=SHORT)
    assert_fails_alone(ended, "verifier", "VerifierStarved", retryable=True, message="waited for more than 60 s")


@pytest.mark.parametrize("base", [Judged, AsyncJudged])
async def test_a_verifier_that_computes_for_ever_is_ended(base: type[Environment], tmp_path: Path) -> None:
    def compute(self: Any) -> Verdict:
        while True:
            pass

    ended = await settle_all(tmp_path / "out", judging(compute, base), limits=SHORT)
    assert_fails_alone(ended, "verifier", "VerifierTimeout", message="computed for more than 0.3 s")


async def test_a_verifier_that_swallows_everything_and_computes_is_ended(tmp_path: Path) -> None:
    def compute(self: Any) -> Verdict:
        while True:
            try:
                while True:
                    pass
            except Exception:
                continue

    ended = await settle_all(tmp_path / "out", judging(compute), limits=SHORT)
    assert_fails_alone(ended, "verifier", "VerifierTimeout")


async def test_a_verifier_that_sleeps_is_not_blamed_on_the_policy(tmp_path: Path) -> None:
    def sleep(self: Any) -> Verdict:
        while True:
            time.sleep(0.01)

    ended = await settle_all(tmp_path / "out", judging(sleep), limits=SHORT)
    assert_fails_alone(ended, "verifier", "VerifierStarved", retryable=True)


@pytest.mark.looptime
async def test_a_verifier_that_recovers_scores_the_next_attempt(tmp_path: Path) -> None:
    asked: list[int] = []

    def away_once(self: Any) -> Verdict:
        asked.append(1)
        if len(asked) == 1:
            raise ConnectionError("away")
        return Verdict(1.0)

    ended = await settle_all(f"memory://{tmp_path}", judging(away_once))
    assert_scored(ended, *ended.rows)
    assert ended.rows[BAD]["kubegym"]["attempt"] == 1


class Offloaded(Fine):
    """Verifies in a process of its own."""

    @offload(cpu_seconds=1)
    def verify(self, rollout: Rollout) -> Verdict:
        if self.bad:
            import os

            os.kill(os.getpid(), signal.SIGKILL)
        return Verdict(1.0)


async def test_an_offloaded_verifier_whose_process_dies_gives_no_reward(tmp_path: Path) -> None:
    ended = await settle_all(tmp_path / "out", Offloaded)
    assert_fails_alone(ended, "verifier", "VerifierCrashed")


class Ranking(Environment):
    """Judges whole groups; what it does with the group of row BAD is ``judge``."""

    Task = Fine.Task

    @classmethod
    def verify_group(cls, rollouts: Sequence[Rollout]) -> Any:
        return cls.judge(rollouts) if rollouts[0].row["n"] == BAD else [Verdict(1.0) for _ in rollouts]

    @classmethod
    def judge(cls, rollouts: Sequence[Rollout]) -> Any:
        """Verdicts, or trouble."""


@pytest.mark.parametrize(
    ("judge", "reason"),
    [
        (lambda cls, rollouts: 1 / 0, "VerifierCrashed"),
        (lambda cls, rollouts: [Verdict(1.0)], "VerifierCrashed"),
        (lambda cls, rollouts: [1.0 for _ in rollouts], "VerifierInvalidVerdict"),
        (lambda cls, rollouts: [Verdict(math.nan) for _ in rollouts], "VerifierInvalidVerdict"),
        (lambda cls, rollouts: raises(Odd("odd"))(cls), "VerifierCrashed"),
    ],
)
async def test_a_verifier_of_groups_that_breaks_fails_its_group_alone(
    judge: Callable[..., Any], reason: str, tmp_path: Path
) -> None:
    broken = type("Ranking", (Ranking,), {"judge": classmethod(judge), "__module__": __name__})
    result = (await settle_all(tmp_path / "out", broken, rollouts_per_task=3)).result
    totals = result.manifest.totals
    assert (totals.failures, totals.scored, totals.reward) == ({reason: 3}, 3 * (TASKS - 1), 3.0 * (TASKS - 1))


# Verifiers that take their process with them: the command line has a supervisor, LocalRun has not.

APP = """
import ctypes, os, signal
from kubegym import Environment, Row, Verdict
class Made(Environment):
    class Task(Row):
        n: int
    def verify(self, rollout):
        if self.task.n == {bad}:
            {how}
        return Verdict(1.0)
"""


@pytest.mark.parametrize(
    "how", ["ctypes.string_at(0)", "os.kill(os.getpid(), signal.SIGKILL)"], ids=["segfault", "killed"]
)
async def test_a_verifier_that_kills_its_process_fails_alone(how: str, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    (folder / "data").mkdir(parents=True)
    (folder / "app.py").write_text(APP.format(bad=BAD, how=how))
    (folder / "data" / "example.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in numbered(30)))
    done = await asyncio.to_thread(
        command, "run", folder, "--engine", "simulated", "--output", "out", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert orjson.loads(done.stdout)["rollouts"]["failures"] == {"WorkerCrashed": 1}
    rows = await settled(tmp_path / "out")
    failed = rows.pop(BAD)
    assert (failed["kubegym"]["failure"]["stage"], failed["reward"]) == ("worker", None)
    assert {row["reward"] for row in rows.values()} == {1.0}
    assert len(rows) == 29


async def test_trouble_in_tools_and_verifier_says_where_in_the_authors_file(tmp_path: Path) -> None:
    ended = await settle_all(
        tmp_path / "out", judging(raises(ValueError("cannot parse"))), engine_client(lambda _: completion())
    )
    assert_fails_alone(ended, "verifier", "VerifierCrashed", message=f"({__file__}:")
