"""The command line with real processes: what a user, a shell and a supervisor of services see of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import kubegym
from testbed.command_fixtures import LIMIT
from testbed.ports import kept_port
from testbed.tcp_relay import Relay

FILES = {"plan.json", "manifest.json", "rollouts.jsonl", "rollouts_failures.jsonl", "rollouts_aggregate_metrics.json"}

SOME = 20
"""Pieces of requests that a model's gate lets pass: enough for a few answers, too few for a run of 100."""

PLAIN_VERIFY = """
    def verify(self, rollout):
        return Verdict(1.0)
"""


@pytest.fixture
def environment(tmp_path: Path) -> Callable[..., Path]:
    """Writes an environment's folder: a class body, and rows with a running number ``n``."""

    def write(body: str = PLAIN_VERIFY, rows: int = 24, name: str = "made") -> Path:
        folder = tmp_path / name
        (folder / "data").mkdir(parents=True, exist_ok=True)
        app = ["import os", "from kubegym import Environment, Row, Verdict, VerifierError", "class Made(Environment):"]
        app += ["    class Task(Row):", "        n: int", textwrap.indent(textwrap.dedent(body), "    ")]
        (folder / "app.py").write_text("\n".join(app))
        lines = [{"responses_create_params": {"input": f"Say {n}."}, "n": n} for n in range(rows)]
        (folder / "data" / "example.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return folder

    return write


@pytest.fixture
def server(started: Callable[..., subprocess.Popen[str]]) -> str:
    """URL of a simulated model."""
    process = started("serve", "model", "--engine", "simulated", "--listen", "127.0.0.1:0")
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "simulated engine, no model behind it" in line
    return line.split()[-1]


@pytest.fixture
def model(server: str) -> Iterator[Relay]:
    """The way to it: while its gate holds, no run can end."""
    port = urlsplit(server).port
    assert port is not None
    relay = Relay("127.0.0.1", port)
    try:
        yield relay
    finally:
        relay.close()


def served_by(url: str) -> tuple[str, ...]:
    """The flags of a run with a model at this URL."""
    return "--base-url", url, "--model", "simulated"


def through(model: Relay) -> tuple[str, ...]:
    """The flags of a run that goes this way."""
    return served_by(f"http://127.0.0.1:{model.port}/v1")


def await_condition(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until it holds. A process that ends before is a failure, and so is a very long time."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def committed(output: Path) -> bool:
    """Whether anything of a run is durable."""
    return any(output.glob("shards/*/*.jsonl.zst"))


def assert_exactly_once(output: Path, tasks: int, rollouts: int) -> list[dict[str, Any]]:
    """Every planned rollout has one result, in the record and in the merged files."""
    results = kubegym.load(output)
    assert results.complete
    planned = {(task, rollout) for task in range(tasks) for rollout in range(rollouts)}
    assert Counter((r["kubegym"]["task_index"], r["_ng_rollout_index"]) for r in results.rows) == Counter(planned)
    merged = [
        json.loads(line)
        for name in ("rollouts.jsonl", "rollouts_failures.jsonl")
        for line in (output / name).read_text().splitlines()
    ]
    assert Counter((r["kubegym"]["task_index"], r["_ng_rollout_index"]) for r in merged) == Counter(planned)
    return results.rows


# What a user sees


def test_a_run_leaves_its_files_in_the_output_and_its_result_on_stdout(
    run: Callable[..., Any], environment: Callable[..., Path], tmp_path: Path
) -> None:
    done = run("run", environment(), "--engine", "simulated", "--output", "out", "--rollouts-per-task", 2, "--json")
    assert done.returncode == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} >= FILES
    result = json.loads(done.stdout)
    assert result["complete"]
    assert result["rollouts"]["scored"] == 48
    assert result["mean_reward"] == 1.0
    assert "48/48 done" in done.stderr
    assert_exactly_once(tmp_path / "out", 24, 2)


def test_a_finished_run_prints_its_table_and_fresh_begins_another(
    run: Callable[..., Any], environment: Callable[..., Path], tmp_path: Path
) -> None:
    command = ("run", environment(rows=3), "--engine", "simulated")
    assert run(*command).returncode == 0
    again = run(*command)
    assert again.returncode == 0
    assert "made" in again.stdout
    assert "finished already; --fresh starts another" in again.stderr
    anew = run(*command, "--fresh", "--json")
    assert anew.returncode == 0
    first, second = sorted(tmp_path.glob("runs/made/*"))
    assert second.name == f"{first.name}-2"
    assert json.loads(anew.stdout)["output"] == str(second.relative_to(tmp_path))
    assert json.loads(run(*command, "--json").stdout)["output"] == str(second.relative_to(tmp_path))
    listed = json.loads(run("list", "runs", "--json").stdout)
    assert [one["state"] for one in listed] == ["finished", "finished"]


def test_show_reads_a_run_by_name_task_and_rollout(run: Callable[..., Any], environment: Callable[..., Path]) -> None:
    run("run", environment(rows=3), "--engine", "simulated", "--output", "out")
    table = run("show", "out")
    assert table.returncode == 0
    assert "finished" in table.stdout
    rollout = run("show", "out", "1-0").stdout
    assert "Say 1." in rollout
    assert "This is a simulated answer." in rollout
    assert "scored, reward 1" in rollout
    row = json.loads(run("show", "out", "1-0", "--json").stdout)
    assert row["kubegym"]["task_index"] == 1
    identity = row["kubegym"]["rollout_id"]
    assert identity in run("show", "out", identity).stdout
    assert len(json.loads(run("show", "out", "--lowest", 2, "--json").stdout)) == 2
    missing = run("show", "out", "7")
    assert missing.returncode == 2
    assert "task 7 is not in the plan" in missing.stderr
    nowhere = run("show", "nowhere")
    assert nowhere.returncode == 2
    assert "no run is called 'nowhere'" in nowhere.stderr


def test_the_key_is_nowhere_to_be_read(
    run: Callable[..., Any], environment: Callable[..., Path], server: str, tmp_path: Path
) -> None:
    command = ("run", environment(rows=2), *served_by(server), "--output", "out")
    secret = "sk-very-secret-0123456789"
    done = run(*command, "--json", "--log-level", "debug", env={"KUBEGYM_API_KEY": secret})
    assert done.returncode == 0
    assert secret not in done.stdout + done.stderr
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path
    assert all(secret not in line.decode() for lines in kubegym.load(tmp_path / "out").lines for line in lines)


def test_what_failed_is_explained_and_can_be_retried(
    run: Callable[..., Any], environment: Callable[..., Path], tmp_path: Path
) -> None:
    body = """
        def verify(self, rollout):
            if os.path.exists("trouble") and self.task.n == 5:
                raise VerifierError("the database is gone", reason="DatabaseGone")
            return Verdict(1.0)
    """
    (tmp_path / "trouble").touch()
    command = ("run", environment(body), "--engine", "simulated", "--output", "out")
    done = run(*command)
    assert done.returncode == 0, "1 of 24 is within the budget of 5 %"
    assert "DatabaseGone 1  such as: the database is gone" in done.stderr
    assert "kubegym retry out --reason DatabaseGone" in done.stderr
    failed = json.loads(run("show", "out", "--failed", "--json").stdout)
    assert [(one["task"], one["failure"]["reason"]) for one in failed] == [(5, "DatabaseGone")]
    none = run("retry", "out", "--reason", "Other")
    assert none.returncode == 0
    assert "nothing to retry" in none.stderr
    (tmp_path / "trouble").unlink()
    retried = run("retry", "out", "--reason", "DatabaseGone", "--json")
    assert retried.returncode == 0
    assert json.loads(retried.stdout)["rollouts"] == {
        "planned": 24,
        "scored": 24,
        "unscored": 0,
        "failed": 0,
        "stale": 0,
        "failures": {},
    }
    rows = assert_exactly_once(tmp_path / "out", 24, 1)
    assert [row["kubegym"]["attempt"] for row in rows if row["n"] == 5] == [1]
    assert run(*command).returncode == 0, "the same command still finds its run"


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_cleanly_and_the_same_command_resumes(
    run: Callable[..., Any],
    started: Callable[..., subprocess.Popen[str]],
    environment: Callable[..., Path],
    model: Relay,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    output = tmp_path / "out"
    command = ("run", environment(rows=100), *through(model), "--output", output)
    model.gate.let(SOME)
    process = started(*command, "--concurrency", 4)
    await_condition(lambda: committed(output), process)
    process.send_signal(number)  # to the parent alone, as a service manager does it
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + number
    assert "of 100 saved in" in err
    saved = len(kubegym.load(output))
    assert 0 < saved < 100
    assert not (output / "manifest.json").exists()
    model.gate.let(None)
    again = run(*command, "--concurrency", 64, "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout)["resumed"] == saved
    assert_exactly_once(output, 100, 1)


def test_ctrl_c_reaches_parent_and_child_at_once(
    started: Callable[..., subprocess.Popen[str]], environment: Callable[..., Path], model: Relay, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = ("run", environment(rows=100), *through(model), "--output", output)
    model.gate.let(SOME)
    process = started(*command, "--concurrency", 4)
    await_condition(lambda: committed(output), process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert "interrupted;" in err


def test_a_signal_before_the_run_began_leaves_nothing(
    started: Callable[..., subprocess.Popen[str]], environment: Callable[..., Path], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        process = started("run", environment(), "--base-url", url, "--model", "m", "--output", "out")
        silent.settimeout(LIMIT)
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 143
    assert "interrupted before anything ran" in err


def test_a_second_signal_ends_a_run_that_does_not_react(
    started: Callable[..., subprocess.Popen[str]], environment: Callable[..., Path], tmp_path: Path
) -> None:
    body = """
        def verify(self, rollout):
            open("verifying", "w").close()
            while True:
                try:
                    while True:
                        pass
                except BaseException:  # its limit
                    pass
    """
    process = started("run", environment(body, rows=1), "--engine", "simulated", "--output", "out")
    await_condition((tmp_path / "verifying").exists, process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=LIMIT)
    assert process.returncode in (130, 143)  # two signals at once come in the order of their numbers


def test_nothing_is_left_behind_when_the_parent_is_killed(
    started: Callable[..., subprocess.Popen[str]], environment: Callable[..., Path], model: Relay, tmp_path: Path
) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux ends a child with its parent")
    output = tmp_path / "out"
    command = ("run", environment(rows=100), *through(model), "--output", output)
    model.gate.let(SOME)
    process = started(*command, "--concurrency", 1)
    await_condition(lambda: committed(output), process)
    process.kill()
    # The child holds the pipes' other ends: reading them to the end means that it is gone.
    process.communicate(timeout=LIMIT)
    assert process.returncode == -signal.SIGKILL


def test_after_kill_9_every_rollout_has_one_result(
    run: Callable[..., Any],
    started: Callable[..., subprocess.Popen[str]],
    environment: Callable[..., Path],
    model: Relay,
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    command = ("run", environment(rows=50), *through(model), "--output", output)
    command = (*command, "--rollouts-per-task", 2)
    model.gate.let(SOME)
    process = started(*command, "--concurrency", 4)
    await_condition(lambda: committed(output), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=LIMIT)
    model.gate.let(None)
    again = run(*command, "--concurrency", 64)
    assert again.returncode == 0
    rows = assert_exactly_once(output, 50, 2)
    assert all(row["kubegym"]["outcome"] == "scored" for row in rows)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_run_goes_on_when_nobody_reads_its_output(
    run: Callable[..., Any], environment: Callable[..., Path], tmp_path: Path, stream: str
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run("run", environment(), "--engine", "simulated", "--output", "out", **{stream: writing})
    finally:
        os.close(writing)
    assert done.returncode == 0
    assert_exactly_once(tmp_path / "out", 24, 1)


# Environments that break the worker


def test_a_verifier_that_ends_its_process_fails_alone(
    run: Callable[..., Any], environment: Callable[..., Path], tmp_path: Path
) -> None:
    body = """
        def verify(self, rollout):
            if self.task.n == 3:
                os._exit(0)
            return Verdict(1.0)
    """
    done = run("run", environment(body), "--engine", "simulated", "--output", "out", "--json")
    assert done.returncode == 0, done.stderr
    assert "the worker ended with exit code 0 in the middle of its work" in done.stderr
    rows = assert_exactly_once(tmp_path / "out", 24, 1)
    failed = {row["n"]: row["kubegym"]["failure"]["reason"] for row in rows if row["kubegym"]["outcome"] == "failed"}
    assert failed == {3: "WorkerCrashed"}
    assert sum(row["reward"] == 1.0 for row in rows) == 23


def test_many_that_end_their_process_fail_alone(
    run: Callable[..., Any], environment: Callable[..., Path], tmp_path: Path
) -> None:
    """More of them, in more shards, than starts of the worker may be in vain."""
    body = """
        def verify(self, rollout):
            if self.task.n % 30 == 7:
                os._exit(0)
            return Verdict(1.0)
    """
    done = run("run", environment(body, rows=290), "--engine", "simulated", "--output", "out", "--concurrency", 8)
    assert done.returncode == 0, done.stderr
    rows = assert_exactly_once(tmp_path / "out", 290, 1)
    failed = [row["n"] for row in rows if row["kubegym"]["outcome"] == "failed"]
    assert sorted(failed) == list(range(7, 290, 30))


def test_a_verifier_that_hangs_fails_alone(
    run: Callable[..., Any], environment: Callable[..., Path], tmp_path: Path
) -> None:
    body = """
        def verify(self, rollout):
            while self.task.n == 3:
                pass
            return Verdict(1.0)
    """
    done = run("run", environment(body), "--engine", "simulated", "--output", "out")
    assert done.returncode == 0, done.stderr
    rows = assert_exactly_once(tmp_path / "out", 24, 1)
    failed = {row["n"]: row["kubegym"]["failure"]["reason"] for row in rows if row["kubegym"]["outcome"] == "failed"}
    assert failed == {3: "VerifierTimeout"}


def test_too_many_failures_are_an_exit_code_of_their_own(
    run: Callable[..., Any], environment: Callable[..., Path]
) -> None:
    body = """
        def verify(self, rollout):
            raise VerifierError("no")
    """
    done = run("run", environment(body, rows=4), "--engine", "simulated", "--output", "out")
    assert done.returncode == 1
    assert "error: 4 of 4 rollouts failed" in done.stderr
    assert "[RolloutFailureBudgetExceeded]" in done.stderr


def test_a_worker_that_never_gets_anywhere_is_given_up(
    run: Callable[..., Any], environment: Callable[..., Path]
) -> None:
    body = """
        @classmethod
        def setup(cls, config):
            os.abort()
        def verify(self, rollout):
            return Verdict(1.0)
    """
    done = run("run", environment(body), "--engine", "simulated", "--output", "out")
    assert done.returncode == 1
    assert "was killed by SIGABRT, and 5 starts in a row finished no rollout" in done.stderr


# Bad input


def test_invalid_rows_stop_a_run_with_their_lines(
    run: Callable[..., Any], environment: Callable[..., Path], tmp_path: Path
) -> None:
    rows = ['{"responses_create_params": {"input": "a"}, "n": 1}', "{", '{"responses_create_params": {"input": "b"}}']
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    folder = environment()
    done = run("run", folder, "--dataset", "rows.jsonl", "--engine", "simulated", "--output", "out")
    assert done.returncode == 2
    assert "error: 2 rows are invalid; nothing was run [InvalidRows]" in done.stderr
    assert "rows.jsonl:2: not JSON" in done.stderr
    assert "rows.jsonl:3: n: " in done.stderr
    assert not (tmp_path / "out" / "plan.json").exists()
    as_json = run("run", folder, "--dataset", "rows.jsonl", "--engine", "simulated", "--output", "out", "--json")
    assert json.loads(as_json.stdout)["error"]["count"] == 2
    checked = run("validate", folder, "--dataset", "rows.jsonl")
    assert checked.returncode == 2
    assert "rows.jsonl:3: n: " in checked.stdout


def test_an_unknown_manifest_field_gets_a_suggestion(
    run: Callable[..., Any], environment: Callable[..., Path], tmp_path: Path
) -> None:
    folder = environment()
    (folder / "environment.yaml").write_text(
        "apiVersion: kubegym.dev/v1alpha1\nkind: GymEnvironment\nmetadata: {name: made}\nspec:\n  agnet: {}\n"
    )
    for command in ("run", "validate"):
        done = run(command, folder)
        assert done.returncode == 2
        said = done.stdout + done.stderr
        assert "environment.yaml:5" in said
        assert "did you mean 'agent'?" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--rollouts-per-task", "0"), "--rollouts-per-task"),
        (("--temperature", "3"), "--temperature"),
        (("--base-url", "http://localhost:1", "--model", "m"), "http://localhost:1/v1"),
        (("--base-url", "http://localhost:1/v1"), "--model NAME"),
        (("--model", "m"), "--base-url URL"),
        (("--no-such-flag",), "--no-such-flag"),
        (("--output", "out", "--fresh"), "--fresh"),
    ],
)
def test_wrong_flags_say_what_to_give(
    run: Callable[..., Any], environment: Callable[..., Path], arguments: tuple[str, ...], expected: str
) -> None:
    done = run("run", environment(), *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr


def test_an_unknown_environment_gets_a_suggestion(run: Callable[..., Any]) -> None:
    done = run("run", "mcqaa")
    assert done.returncode == 2
    assert "did you mean 'mcqa'?" in done.stderr


def test_an_endpoint_that_is_not_there_fails_the_run(
    run: Callable[..., Any], environment: Callable[..., Path], tmp_path: Path
) -> None:
    with kept_port() as port:
        done = run("run", environment(), "--base-url", f"http://127.0.0.1:{port}/v1", "--model", "m", "--output", "out")
    assert done.returncode == 1
    assert "does not answer" in done.stderr


def test_changed_inputs_do_not_mix_with_an_earlier_run(
    run: Callable[..., Any], environment: Callable[..., Path], tmp_path: Path
) -> None:
    command = ("run", environment(rows=3), "--engine", "simulated", "--output", "out")
    assert run(*command).returncode == 0
    changed = run(*command, "--temperature", "0.5")
    assert changed.returncode == 2
    assert "[PlanConflict]" in changed.stderr
    assert "sampling.temperature" in changed.stderr
    grown = run(*command, "--rollouts-per-task", 3, "--json")
    assert grown.returncode == 0
    assert json.loads(grown.stdout)["resumed"] == 3
    assert_exactly_once(tmp_path / "out", 3, 3)


def test_an_output_that_another_process_works_on_is_refused(
    run: Callable[..., Any],
    started: Callable[..., subprocess.Popen[str]],
    environment: Callable[..., Path],
    server: str,
    model: Relay,
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    command = ("run", environment(rows=100), "--output", output)
    model.gate.let(SOME)
    process = started(*command, *through(model), "--concurrency", 1)
    await_condition(lambda: committed(output), process)
    second = run(*command, *served_by(server))
    assert second.returncode == 2
    assert "[OutputInUse]" in second.stderr


def test_a_run_can_be_looked_at_while_it_goes_on(
    run: Callable[..., Any],
    started: Callable[..., subprocess.Popen[str]],
    environment: Callable[..., Path],
    model: Relay,
    tmp_path: Path,
) -> None:
    command = ("run", environment(rows=100), *through(model))
    model.gate.let(SOME)
    process = started(*command, "--concurrency", 1)
    await_condition(lambda: any(committed(place) for place in tmp_path.glob("runs/made/*")), process)
    (listed,) = json.loads(run("list", "runs", "--json").stdout)
    assert (listed["name"], listed["state"], listed["rollouts"]["planned"]) == ("made", "running", 100)
    shown = json.loads(run("show", "made", "--json").stdout)
    assert not shown["complete"]
    assert 0 < shown["rollouts"]["scored"] < 100
    refused = run("retry", "made")
    assert refused.returncode == 2
    assert "not finished" in refused.stderr


# Small commands


def test_version_and_list_and_validate_speak_json(run: Callable[..., Any], environment: Callable[..., Path]) -> None:
    assert json.loads(run("version", "--json").stdout)["version"] == kubegym.__version__
    names = [one["name"] for one in json.loads(run("list", "--json").stdout)]
    assert {"arithmetic", "mcqa"} <= set(names)
    body = """
        @classmethod
        def oracle(cls, task):
            return "right" if task.n else "wrong"
        def verify(self, rollout):
            return Verdict(float(rollout.final_text == "right"))
    """
    checked = run("validate", environment(body, rows=2), "--json")
    assert checked.returncode == 2
    (problem,) = json.loads(checked.stdout)["problems"]
    assert "row 1: the oracle of made earns no 1: reward 0.0" in problem


def test_metrics_are_served_while_it_runs(
    started: Callable[..., subprocess.Popen[str]], environment: Callable[..., Path], model: Relay, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = ("run", environment(rows=100), *through(model), "--output", output)
    model.gate.let(SOME)
    with kept_port() as port:
        process = started(*command, "--concurrency", 1, "--metrics-port", port)
        await_condition(lambda: committed(output), process)
        with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as connection:
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            page = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b'kubegym_rollouts_total{outcome="scored",reason=""}' in page


def test_the_supervisor_refuses_to_fork_under_threads() -> None:
    from kubegym.local.supervise import supervise

    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="before any thread"):
            supervise(lambda reports, signals: 0, print)
    finally:
        release.set()
        thread.join()
