"""A run on one machine, from spec to files: finished again, grown, stopped, edited, retried."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from kubegym.core.errors import InvalidRows, InvalidSpec, PlanConflict
from kubegym.local.localrun import LocalRun, RunResult
from kubegym.local.python import as_client
from kubegym.local.resolve import RunFlags, resolve
from kubegym.local.results import Results, read_results
from kubegym.local.runspec import RunSpec
from kubegym.rollout import FailureBudgetExceeded, IncompleteRun
from testbed.echo import rows, write_rows

pytestmark = pytest.mark.unit

Answer = Callable[[dict[str, Any]], str]


def right(request: dict[str, Any]) -> str:
    return str(request["messages"][-1]["content"]).removeprefix("say ")


def never(request: dict[str, Any]) -> str:
    raise AssertionError("a finished run asked its model")


async def go(spec: RunSpec, model: Answer = right, **options: Any) -> RunResult:
    return await LocalRun(spec, clients={"policy": as_client(model)}, **options).run()


def wanted(echo: Path, output: str | None = "out", **flags: Any) -> RunSpec:
    dataset = flags.pop("dataset", str(echo / "data" / "example.jsonl"))
    return resolve([str(echo)], RunFlags(dataset=dataset, output=output, **flags))


async def read(result: RunResult) -> Results:
    return await read_results(result.output)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_run_leaves_manifest_rows_and_metrics(echo: Path, home: Path) -> None:
    result = await go(wanted(echo, rollouts_per_task=2))
    assert (result.exit_code, result.interrupted, result.resumed) == (0, None, 0)
    assert result.manifest.complete
    assert result.summary is not None
    written = lines(home / "out" / "rollouts.jsonl")
    assert [row["said"] for row in written] == [f"word{n}" for n in range(5) for _ in range(2)]
    assert [row["reward"] for row in written] == [2.0] * 10, "the verdict and the manifest's bonus"
    assert lines(home / "out" / "rollouts_failures.jsonl") == []
    assert (home / "out" / "rollouts_aggregate_metrics.json").is_file()
    assert not (home / "out" / "manifest.incomplete.json").exists()
    assert not (home / "out" / "rollouts_materialized_inputs.jsonl").exists()


async def test_a_manifests_compression_is_that_of_the_parts(echo: Path, home: Path) -> None:
    manifest = echo / "environment.yaml"
    manifest.write_text(manifest.read_text().replace("  output: {", "  output: {compression: none, "))
    spec = resolve(["echo"], RunFlags(output="out"))
    result = await go(spec)
    parts = list((home / "out").glob("shards/*/*-*"))
    assert {part.suffix for part in parts} == {".jsonl"}
    assert sum(len(lines(part)) for part in parts) == result.manifest.totals.attempts > 0


async def test_a_finished_run_is_only_read_again(echo: Path) -> None:
    first = await go(wanted(echo))
    again = await go(wanted(echo), never)
    assert again.manifest == first.manifest
    assert again.summary == first.summary
    assert again.resumed == 5


@pytest.mark.parametrize("lost", ["summary.json"])
async def test_a_run_killed_before_its_merge_is_merged_by_the_next_start(echo: Path, home: Path, lost: str) -> None:
    first = await go(wanted(echo))
    (home / "out" / lost).unlink()
    (home / "out" / "rollouts.jsonl").unlink()
    again = await go(wanted(echo), never)
    assert again.summary is not None
    assert first.summary is not None
    assert again.summary.to_dict()["environments"] == first.summary.to_dict()["environments"]
    assert len(lines(home / "out" / "rollouts.jsonl")) == 5


async def test_limit_and_rollouts_may_grow_and_nothing_runs_twice(echo: Path, home: Path) -> None:
    asked: list[str] = []

    def counting(request: dict[str, Any]) -> str:
        asked.append(right(request))
        return asked[-1]

    await go(wanted(echo, limit=2), counting)
    before = {row["kubegym"]["rollout_id"]: row for row in lines(home / "out" / "rollouts.jsonl")}
    grown = await go(wanted(echo, limit=4, rollouts_per_task=3), counting)
    assert (grown.manifest.generation, grown.manifest.planned, grown.resumed) == (2, 12, 2)
    assert len(asked) == 12
    after = {row["kubegym"]["rollout_id"]: row for row in lines(home / "out" / "rollouts.jsonl")}
    assert len(after) == 12
    assert all(after[name] == row for name, row in before.items())
    with pytest.raises(PlanConflict, match="rows of echo cannot shrink from 4 to 3"):
        await go(wanted(echo, limit=3, rollouts_per_task=3), never)


async def test_rows_given_in_python_grow_too(echo: Path) -> None:
    given = rows(6)
    spec = wanted(echo)

    def limited(limit: int) -> RunSpec:
        entry = spec.entries[0]
        assert entry.dataset is not None
        return replace(spec, entries=(replace(entry, dataset=replace(entry.dataset, limit=limit)),))

    assert (await go(limited(2), rows={"echo": given})).manifest.planned == 2
    assert (await go(limited(6), rows={"echo": given})).manifest.planned == 6
    with pytest.raises(PlanConflict, match=r"environments\.echo\.dataset\.sha256"):
        await go(limited(6), rows={"echo": rows(6, first=1)})


async def test_an_edited_verifier_does_not_enter_a_run(echo: Path, home: Path) -> None:
    await go(wanted(echo, limit=2))
    app = echo / "app.py"
    app.write_text(app.read_text().replace("float(right)", "2 * float(right)"))
    for growing in (2, 5):
        with pytest.raises(PlanConflict, match=r"environments\.echo\.source"):
            await go(wanted(echo, limit=growing), never)
    with pytest.raises(PlanConflict, match=r"environments\.echo\.source"):
        await go(wanted(echo, limit=2), never, retry=[])
    assert [row["reward"] for row in lines(home / "out" / "rollouts.jsonl")] == [2.0, 2.0]


async def test_without_an_output_the_same_resumes_and_an_edit_begins_anew(echo: Path, home: Path) -> None:
    first = await go(wanted(echo, None))
    assert first.output.startswith("runs/echo/")
    assert (await go(wanted(echo, None), never)).output == first.output
    fresh = await go(wanted(echo, None), fresh=True)
    assert fresh.output == f"{first.output}-2"
    assert (await go(wanted(echo, None), never)).output == fresh.output
    app = echo / "app.py"
    app.write_text(app.read_text() + "# edited\n")
    edited = await go(wanted(echo, None))
    assert edited.output not in (first.output, fresh.output)
    other = await go(wanted(echo, None, temperature=0.1))
    assert len({first.output, fresh.output, edited.output, other.output}) == 4


async def test_invalid_rows_stop_a_run_before_anything_is_written_or_asked(echo: Path, home: Path) -> None:
    path = write_rows(home / "bad.jsonl", 60)
    broken = path.read_text().splitlines()
    broken[1] = '{"responses_create_params": {"input": "x"}}'
    broken[3] = "not json"
    broken[5] = '{"responses_create_params": {"imput": "x"}, "word": "x"}'
    path.write_text("\n".join(broken) + "\n")
    with pytest.raises(InvalidRows) as caught:
        await go(wanted(echo, dataset=str(path)), never)
    assert [problem.line for problem in caught.value.problems] == [2, 4, 6]
    assert caught.value.count == 3
    assert not (home / "out").exists() or not any((home / "out").rglob("*.json"))


async def test_growth_checks_the_new_rows_first(echo: Path, home: Path) -> None:
    path = write_rows(home / "rows.jsonl", 5)
    path.write_text(path.read_text() + '{"responses_create_params": {"input": "x"}}\n')
    assert (await go(wanted(echo, dataset=str(path), limit=5))).manifest.complete
    with pytest.raises(InvalidRows, match=r"rows\.jsonl:6: .*word"):
        await go(wanted(echo, dataset=str(path)), never)
    assert not (home / "out" / "plan-2.json").exists()


async def test_materialized_inputs_are_the_rows_of_the_rollouts(echo: Path, home: Path) -> None:
    await go(wanted(echo, rollouts_per_task=2, materialized_inputs=True))
    inputs = lines(home / "out" / "rollouts_materialized_inputs.jsonl")
    assert [row["word"] for row in inputs] == [f"word{n}" for n in range(5) for _ in range(2)]


class Stopping:
    """A display that stops the run after some results."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.run: LocalRun | None = None
        self.seen: Any = None

    def validating(self, rows: int) -> None:
        pass

    def began(self, output: str, progress: Any) -> None:
        self.seen = progress

    def merging(self) -> None:
        raise AssertionError("an interrupted run is not merged")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_the_run_with_everything_finished_saved(
    echo: Path, home: Path, number: signal.Signals
) -> None:
    display = Stopping(3)

    def model(request: dict[str, Any]) -> str:
        assert run is not None
        if display.seen.totals.settled >= 3:
            run.stop(number)
        return right(request)

    write_rows(echo / "data" / "example.jsonl", 40)
    spec = wanted(echo, concurrency=1)
    run = LocalRun(spec, clients={"policy": as_client(model)}, display=display)
    result = await run.run()
    assert (result.interrupted, result.exit_code) == (number, 128 + number)
    assert result.summary is None
    assert 3 <= result.manifest.totals.settled < 40
    assert len((await read(result)).rows) == result.manifest.totals.settled
    rest = await go(spec)
    assert (rest.exit_code, rest.resumed, rest.manifest.totals.settled) == (0, result.manifest.totals.settled, 40)


async def test_a_stop_before_the_start_runs_nothing(echo: Path) -> None:
    run = LocalRun(wanted(echo), clients={"policy": as_client(never)})
    run.stop(signal.SIGTERM)
    result = await run.run()
    assert (result.exit_code, result.manifest.totals.settled) == (143, 0)
    assert (await go(wanted(echo))).exit_code == 0


CRASHING = """
        if self.row.get("word") in ("word1", "word2"):
            raise RuntimeError("no")
        right ="""


async def test_failures_beyond_the_budget_fail_the_run_and_are_kept(echo: Path, home: Path) -> None:
    app = echo / "app.py"
    app.write_text(app.read_text().replace("\n        right =", CRASHING, 1))
    result = await go(wanted(echo))
    assert (result.exit_code, result.within_budget, result.manifest.complete) == (1, False, True)
    failures = lines(home / "out" / "rollouts_failures.jsonl")
    assert [row["kubegym"]["failure"]["reason"] for row in failures] == ["VerifierCrashed"] * 2
    assert [row["reward"] for row in lines(home / "out" / "rollouts.jsonl")] == [2.0] * 3
    write_rows(echo / "data" / "example.jsonl", 5)
    assert (await go(replace(wanted(echo), max_failed_fraction=0.4), never)).exit_code == 0


async def test_a_run_in_which_everything_fails_is_halted(echo: Path) -> None:
    app = echo / "app.py"
    app.write_text(app.read_text().replace("right = ", "right = 1 / 0 or ", 1))
    write_rows(echo / "data" / "example.jsonl", 500)
    with pytest.raises(FailureBudgetExceeded, match="VerifierCrashed"):
        await go(wanted(echo))
    results = await read_results("out")
    assert not results.complete
    assert 20 <= len(results) < 100


async def test_retry_runs_what_failed_again(echo: Path, home: Path) -> None:
    """The model was away for two tasks; everything else stays as it is."""
    away = True
    asked: list[str] = []

    def model(request: dict[str, Any]) -> str:
        word = right(request)
        asked.append(word)
        return "" if away and word in ("word1", "word3") else word

    app = echo / "app.py"
    app.write_text(
        app.read_text().replace(
            "\n        right =",
            "\n        if not rollout.final_text:\n"
            "            from kubegym import VerifierError\n"
            '            raise VerifierError("nothing to judge", reason="JudgeAway")\n'
            "        right =",
            1,
        )
    )
    spec = replace(wanted(echo), max_failed_fraction=1.0)
    first = await go(spec, model)
    assert first.manifest.totals.failures == {"JudgeAway": 2}
    away = False
    nothing = await go(spec, never, retry=["ToolCrashed"])
    assert nothing.manifest == first.manifest
    asked.clear()
    again = await go(spec, model, retry=["JudgeAway"])
    assert sorted(asked) == ["word1", "word3"]
    assert (again.manifest.generation, again.manifest.totals.failed, again.resumed) == (2, 0, 3)
    assert [row["said"] for row in lines(home / "out" / "rollouts.jsonl")] == [f"word{n}" for n in range(5)]
    assert (await go(spec, never)).manifest == again.manifest
    grown = await go(replace(spec, entries=(replace(spec.entries[0], rollouts_per_task=2),)), model)
    assert (grown.manifest.generation, grown.manifest.totals.scored) == (3, 10)


async def test_an_unfinished_run_is_not_retried(echo: Path) -> None:
    run = LocalRun(wanted(echo), clients={"policy": as_client(never)})
    run.stop()
    await run.run()
    with pytest.raises(IncompleteRun, match="run it again to finish it"):
        await go(wanted(echo), never, retry=[])


GROUPS = '''
from kubegym import Environment, Rollout, Row, Verdict


class Ranked(Environment):
    """Rewards relative to the group."""

    @classmethod
    def verify_group(cls, rollouts: list[Rollout]) -> list[Verdict]:
        if any("crash" in rollout.final_text for rollout in rollouts):
            raise RuntimeError("cannot rank this")
        ranking = sorted(rollout.final_text for rollout in rollouts)
        rewards = [float(ranking.index(rollout.final_text)) for rollout in rollouts]
        return [Verdict(reward=reward, fields={"of": len(rollouts)}) for reward in rewards]
'''


async def test_rewards_of_a_group_are_given_together(echo: Path, home: Path) -> None:
    (echo / "app.py").write_text(GROUPS)
    (echo / "environment.yaml").unlink()
    answers: dict[str, int] = {}

    def model(request: dict[str, Any]) -> str:
        word = right(request)
        answers[word] = answers.get(word, 0) + 1
        return "crash" if word == "word2" else f"{word}-{answers[word]}"

    spec = replace(wanted(echo, rollouts_per_task=3), max_failed_fraction=1.0)
    result = await go(spec, model)
    results = await read(result)
    assert [sorted(group.rewards) for group in results.groups] == [[0, 1, 2], [0, 1, 2], [], [0, 1, 2], [0, 1, 2]]
    assert {row["of"] for group in results.groups for row in group.scored} == {3}
    reasons = {row["kubegym"]["failure"]["reason"] for row in results.groups[2].rollouts}
    assert len(reasons) == 1
    assert {row["kubegym"]["failure"]["stage"] for row in results.groups[2].rollouts} == {"verifier"}


JUDGED = '''
from kubegym import Environment, Rollout, Row, Verdict


class Judged(Environment):
    """A judge model decides."""

    async def verify(self, rollout: Rollout) -> Verdict:
        judgement = await self.models.judge([{"role": "user", "content": rollout.final_text}])
        return Verdict(reward=float(judgement.text == "yes"))
'''


async def test_a_judge_given_in_python(echo: Path) -> None:
    (echo / "app.py").write_text(JUDGED)
    (echo / "environment.yaml").unlink()
    clients = {
        "policy": as_client(right),
        "judge": as_client(lambda request: "yes" if request["messages"][-1]["content"] == "word3" else "no"),
    }
    result = await LocalRun(wanted(echo), clients=clients).run()
    results = await read(result)
    assert [row["reward"] for row in results.rows] == [0, 0, 0, 1, 0]
    assert all(set(row["kubegym"]["usage"]) == {"policy", "judge"} for row in results.rows)


async def test_a_role_nobody_gave_fails_the_rollouts_not_the_process(echo: Path) -> None:
    (echo / "app.py").write_text(JUDGED)
    (echo / "environment.yaml").unlink()
    result = await go(replace(wanted(echo), max_failed_fraction=1.0))
    assert result.manifest.totals.failed == 5


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("bonus: float = 0.0", "config"),
        ("def verify(", "neither verify nor verify_group"),
        ("class Echo(Environment)", "app"),
    ],
)
async def test_an_environment_that_cannot_be_used(echo: Path, home: Path, edit: str, message: str) -> None:
    app = echo / "app.py"
    new = {"bonus: float = 0.0": "other: int = 0", "def verify(": "def check(", "class Echo(Environment)": "class Echo"}
    app.write_text(app.read_text().replace(edit, new[edit]))
    with pytest.raises(InvalidSpec, match=message):
        await go(wanted(echo), never)
    assert not (home / "out").exists()


async def test_an_empty_dataset_is_refused(echo: Path, home: Path) -> None:
    (home / "empty.jsonl").write_text("")
    with pytest.raises(InvalidSpec, match="has no rows"):
        await go(wanted(echo, dataset=str(home / "empty.jsonl")), never)
    with pytest.raises(InvalidSpec, match=r"absent\.jsonl"):
        await go(wanted(echo, dataset="absent.jsonl"), never)


async def test_two_entries_share_a_run_by_their_agents(echo: Path, home: Path) -> None:
    path = echo / "environment.yaml"
    second = (
        "    - name: again\n      environmentRef: {name: echo}\n      dataset: {bundled: {}}\n      agentRefs: [b]\n"
    )
    path.write_text(path.read_text().replace("limit: 3}\n", "limit: 3}\n      agentRefs: [a]\n" + second))
    mixed = rows(4)
    for n, row in enumerate(mixed):
        row["agent_ref"] = {"type": "responses_api_agents", "name": "ab"[n % 2]}
    (echo / "data" / "example.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in mixed))
    spec = resolve([str(path)], RunFlags(output="out"))
    result = await go(spec)
    assert result.manifest.planned == 2 * (3 + 4)
    assert result.exit_code == 0
    found = lines(home / "out" / "rollouts.jsonl")
    assert len(found) == 14
    assert {row["agent_ref"]["name"] for row in found} == {"a", "b"}


async def test_runs_side_by_side_do_not_disturb_each_other(echo: Path) -> None:
    results = await asyncio.gather(*(go(wanted(echo, f"out{n}")) for n in range(4)))
    assert [result.exit_code for result in results] == [0] * 4
    assert len({result.manifest.run_id for result in results}) == 4
