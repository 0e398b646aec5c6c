"""``kubegym reverify``: stored rollouts scored again, every one once, whatever ends it meanwhile."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kubegym
from kubegym.core.errors import InvalidSpec
from kubegym.local.reverify import Reverification, Reverified, Reverifier
from kubegym.local.runspec import ModelRef
from kubegym.model.simulated import Answers, SimulatedConfig, serve_simulated
from kubegym.rollout import IncompleteRun
from testbed.command_fixtures import LIMIT

pytestmark = pytest.mark.contract

BY_THREE = "def verify(self, rollout): return Verdict(float(self.task.n % 3 == 0), fields={'rule': 3})"
BY_TWO = "def verify(self, rollout): return Verdict(float(self.task.n % 2 == 0), components={'even': 1.0})"
JUDGED = """
    async def verify(self, rollout):
        said = (await self.models.judge(f"Is {rollout.final_text} right?")).text
        if said not in ("yes", "no"):
            raise VerifierError(f"the judge said {said}", reason="VerdictUnreadable")
        return Verdict(float(said == "yes"))
"""
DISTRUSTED = """
    def seed(self):
        if self.task.n == 1:
            raise RuntimeError("no such world")
    def verify(self, rollout):
        if self.task.n == 2:
            raise VerifierError("cannot score")
        return Verdict(None) if self.task.n == 3 else Verdict(1.0)
"""


def write(folder: Path, body: str = BY_THREE, *, rows: int = 12, roles: str = "", stateless: bool = True) -> Path:
    """An environment's folder: a class body, rows with a running number ``n``, a manifest with its models."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    app = ["import os", "import asyncio", "from kubegym import Environment, Row, Verdict, VerifierError"]
    app += [
        "class Made(Environment):",
        f"    stateless_verify = {stateless}",
        "    class Task(Row):",
        "        n: int",
    ]
    (folder / "app.py").write_text("\n".join([*app, textwrap.indent(textwrap.dedent(body), "    ")]))
    lines = [{"responses_create_params": {"input": f"Say {n}."}, "n": n} for n in range(rows)]
    (folder / "data/example.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / "environment.yaml").write_text(
        "apiVersion: kubegym.dev/v1alpha1\nkind: GymEnvironment\nmetadata: {name: made}\n"
        f"spec:\n  models:\n    policy: {{server: {{engine: simulated}}}}\n{roles}"
    )
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def once(output: Path | str, tasks: int, rollouts: int = 1) -> list[dict[str, Any]]:
    """The rows of a complete run, each planned rollout once, also in the merged files."""
    results = kubegym.load(output)
    assert results.complete
    planned = Counter((task, rollout) for task in range(tasks) for rollout in range(rollouts))
    assert Counter((r["kubegym"]["task_index"], r["_ng_rollout_index"]) for r in results.rows) == planned
    names = ("rollouts.jsonl", "rollouts_failures.jsonl")
    merged = [json.loads(line) for name in names for line in (Path(output) / name).read_text().splitlines()]
    assert Counter((r["kubegym"]["task_index"], r["_ng_rollout_index"]) for r in merged) == planned
    return results.rows


async def again(run: Path, output: Path, **options: Any) -> Reverified:
    return await Reverifier(Reverification(str(run), output=str(output), **options)).run()


def test_an_edited_verifier_scores_again_and_what_changed_is_told(run: Callable[..., Any], tmp_path: Path) -> None:
    folder, out, new = write(tmp_path / "made"), tmp_path / "out", tmp_path / "new"
    assert run("run", folder, "--output", out, "--rollouts-per-task", 2).returncode == 0
    before = contents(out)
    write(folder, BY_TWO)
    told = run("reverify", out, "--output", new, "--json")
    assert told.returncode == 0, told.stderr
    result = json.loads(told.stdout)["environments"]["made"]
    counts = {name: result[name] for name in ("rollouts", "same", "higher", "lower", "gained", "lost", "kept")}
    assert counts == {"rollouts": 24, "same": 12, "higher": 8, "lower": 4, "gained": 0, "lost": 0, "kept": 0}
    assert (result["mean_before"], result["mean_after"]) == (pytest.approx(1 / 3), 0.5)
    assert contents(out) == before, "the stored run is only read"

    old = {(r["kubegym"]["task_index"], r["_ng_rollout_index"]): r for r in once(out, 12, 2)}
    for row in once(new, 12, 2):
        past = old[row["kubegym"]["task_index"], row["_ng_rollout_index"]]
        assert row["reward"] == float(row["n"] % 2 == 0)
        assert row["reward_components"] == {"even": 1.0}
        assert row["reverified"]["rollout_id"] == past["kubegym"]["rollout_id"]
        assert (row["reverified"]["reward"], row["reverified"]["outcome"]) == (past["reward"], "scored")
        same = ("response", "responses_create_params", "n", "agent_ref", "_ng_task_index")
        assert {name: row[name] for name in same} == {name: past[name] for name in same}
        kept = ("task_id", "stop_reason", "policy", "usage", "turns")
        assert {name: row["kubegym"][name] for name in kept} == {name: past["kubegym"][name] for name in kept}

    shown = run("reverify", out, "--output", new)
    assert "made" in shown.stdout
    assert f"{old[0, 0]['kubegym']['rollout_id'][:8]}-2-0: 0 -> 1" in shown.stdout
    assert "writing" not in shown.stderr, "it was finished"


def test_a_run_that_was_verified_again_can_be_so_again(run: Callable[..., Any], tmp_path: Path) -> None:
    folder = write(tmp_path / "made")
    assert run("run", folder, "--output", tmp_path / "out").returncode == 0
    other = write(tmp_path / "other", BY_TWO)
    assert run("reverify", tmp_path / "out", "--environment", other, "--output", tmp_path / "new").returncode == 0
    back = run("reverify", tmp_path / "new", "--environment", folder, "--output", tmp_path / "back", "--json")
    changes = json.loads(back.stdout)["environments"]["made"]
    assert (changes["higher"], changes["lower"]) == (2, 4)
    for row in once(tmp_path / "back", 12):
        assert row["reward"] == float(row["n"] % 3 == 0)
        assert "reward_components" not in row
        assert "even" not in row


async def test_another_judge_gives_verdicts_that_the_first_one_could_not(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    roles = '    judge: {server: {engine: simulated, engineArgs: {text: "Hm."}}}\n'
    folder, out = write(tmp_path / "made", JUDGED, rows=5, roles=roles), tmp_path / "out"
    run("run", folder, "--output", out)
    assert {row["kubegym"]["failure"]["reason"] for row in once(out, 5)} == {"VerdictUnreadable"}
    server = await serve_simulated(SimulatedConfig(model="strict", answers=Answers(text="yes")))
    try:
        judge = {"judge": ModelRef("endpoint", "strict", base_url=server.url)}
        done = await again(out, tmp_path / "new", models=judge)
    finally:
        await server.close()
    changes = done.changes["made"]
    assert (changes.gained, changes.rollouts, changes.kept) == (5, 5, 0)
    for row in once(tmp_path / "new", 5):
        assert row["reward"] == 1.0
        assert row["kubegym"]["usage"]["judge"]["calls"] == 1
        assert row["kubegym"]["usage"]["policy"]["calls"] == 1


async def test_what_has_no_conversation_stays_as_it_was(run: Callable[..., Any], tmp_path: Path) -> None:
    folder, out = write(tmp_path / "made", DISTRUSTED, rows=5), tmp_path / "out"
    run("run", folder, "--output", out)
    write(folder, "def verify(self, rollout): return Verdict(0.0)", rows=5)
    changes = (await again(out, tmp_path / "new")).changes["made"]
    assert (changes.lower, changes.gained, changes.same, changes.kept) == (2, 2, 1, 1)
    rows = {row["n"]: row for row in once(tmp_path / "new", 5)}
    assert [rows[n]["reward"] for n in range(5)] == [0.0, None, 0.0, 0.0, 0.0]
    failure = rows[1]["kubegym"]["failure"]
    assert (failure["stage"], failure["reason"]) == ("agent", "SeedCrashed")
    assert rows[1]["reverified"]["kept"]


async def test_groups_are_verified_together(run: Callable[..., Any], tmp_path: Path) -> None:
    folder, out = write(tmp_path / "made", rows=4), tmp_path / "out"
    run("run", folder, "--output", out, "--rollouts-per-task", 3)
    write(
        folder,
        "@classmethod\ndef verify_group(cls, rollouts):\n"
        "    return [Verdict(i / len(rollouts)) for i, _ in enumerate(rollouts)]",
        rows=4,
    )
    await again(out, tmp_path / "new")
    assert all(row["reward"] == row["_ng_rollout_index"] / 3 for row in once(tmp_path / "new", 4, 3))


async def test_a_run_that_grew_is_verified_whole(run: Callable[..., Any], tmp_path: Path) -> None:
    folder, out = write(tmp_path / "made"), tmp_path / "out"
    run("run", folder, "--output", out, "--limit", 3)
    assert run("run", folder, "--output", out, "--limit", 7, "--rollouts-per-task", 2).returncode == 0
    write(folder, BY_TWO)
    changes = (await again(out, tmp_path / "new")).changes["made"]
    assert changes.rollouts == 14
    assert all(row["reward"] == float(row["n"] % 2 == 0) for row in once(tmp_path / "new", 7, 2))


async def test_environments_have_to_promise_it(run: Callable[..., Any], tmp_path: Path) -> None:
    stateful = "def seed(self): self.n = self.task.n\ndef verify(self, rollout): return Verdict(float(self.n))"
    folder, out = write(tmp_path / "made", stateful, rows=3, stateless=False), tmp_path / "out"
    run("run", folder, "--output", out)
    with pytest.raises(InvalidSpec, match="made does not promise"):
        await again(out, tmp_path / "new")
    await again(out, tmp_path / "new", force=True)
    assert all(row["reward"] == row["n"] for row in once(tmp_path / "new", 3))


async def test_what_cannot_be_verified_is_said(run: Callable[..., Any], tmp_path: Path) -> None:
    folder, out = write(tmp_path / "made", rows=3), tmp_path / "out"
    run("run", folder, "--output", out)
    with pytest.raises(InvalidSpec, match="is the run itself"):
        await again(out, out)
    (out / "manifest.json").unlink()
    shutil.rmtree(out / "shards")
    with pytest.raises(IncompleteRun, match="is not finished"):
        await again(out, tmp_path / "new")
    assert not (tmp_path / "new").exists()


HELD = """
    async def verify(self, rollout):
        while self.task.n >= 20 and not os.path.exists("go"):
            await asyncio.sleep(0.05)
        return Verdict(float(self.task.n))
"""
"""Cannot come to its end before it may."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_it_the_same_command_goes_on(
    run: Callable[..., Any], started: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: signal.Signals
) -> None:
    folder, out, new = write(tmp_path / "made", rows=150), tmp_path / "out", tmp_path / "new"
    run("run", folder, "--output", out)
    write(folder, HELD, rows=150)
    process = started("reverify", out, "--output", new, "--concurrency", 2)
    end = time.monotonic() + LIMIT
    while not (any(new.glob("shards/*/*.jsonl.zst")) and len(kubegym.load(new))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=LIMIT)
    saved = len(kubegym.load(new))
    assert 0 < saved < 150
    if number == signal.SIGTERM:
        assert process.returncode == 128 + number
        assert "of 150 saved in" in err
    (tmp_path / "go").touch()
    told = run("reverify", out, "--output", new, "--concurrency", 64, "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["environments"]["made"]["rollouts"] == 150
    assert all(row["reward"] == row["n"] for row in once(new, 150))
