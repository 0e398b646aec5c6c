"""What options mean, what errors say, how logs look, and streams that nobody reads."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from pathlib import Path

import orjson
import pytest

from kubegym.cli import errors
from kubegym.cli.listing import described_by
from kubegym.cli.locate import RunNotFound, locate
from kubegym.cli.logs import JsonFormatter, TextFormatter
from kubegym.cli.main import invoke
from kubegym.cli.run import checked_base_url
from kubegym.cli.serve import address, distribution, faults
from kubegym.cli.stdio import LossyStream
from kubegym.core.errors import InvalidRows, InvalidSpec, ModelError, PlanConflict, RowProblem, RunFailed, StoreError
from kubegym.local.supervise import Reports
from kubegym.rollout import IncompleteRun


@pytest.mark.parametrize("url", ["http://localhost:8000/v1", "https://x.example/openai/v1/", "https://x/v1beta/openai"])
def test_base_urls_with_a_version_pass(url: str) -> None:
    assert checked_base_url(url) == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/chat/completions", "leave /chat/completions out"),
        ("localhost:8000/v1", "give a URL such as"),
        ("ftp://x/v1", "give a URL such as"),
        ("https://x/v1?key=1", "no user, query or fragment"),
    ],
)
def test_other_base_urls_say_what_to_give(url: str, said: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        checked_base_url(url)
    assert said in caught.value.message


def test_a_password_in_a_base_url_is_not_repeated() -> None:
    with pytest.raises(InvalidSpec) as caught:
        checked_base_url("https://me:hunter2@x.example/v1")
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:0", ("::1", 0)), (":8000", ("0.0.0.0", 8000))],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert address(text) == expected


@pytest.mark.parametrize("text", ["localhost", "localhost:", "localhost:http", "localhost:70000"])
def test_wrong_addresses(text: str) -> None:
    with pytest.raises(InvalidSpec, match="HOST:PORT"):
        address(text)


def test_distributions() -> None:
    assert distribution("--latency", "0.5").mean == 0.5
    drawn = distribution("--latency", "2:1.5")
    assert (drawn.kind, drawn.mean, drawn.sigma) == ("lognormal", 2.0, 1.5)
    for wrong in ("", "fast", "-1", "1:2:3", "nan"):
        with pytest.raises(InvalidSpec, match="MEAN:SIGMA"):
            distribution("--latency", wrong)


def test_faults() -> None:
    given = faults(["rate_limited=0.25", "html=0.1"])
    assert (given.rate_limited, given.html, given.hang) == (0.25, 0.1, 0.0)
    with pytest.raises(InvalidSpec, match="did you mean 'rate_limited'"):
        faults(["rate_limit=1"])
    with pytest.raises(InvalidSpec, match="KIND=SHARE"):
        faults(["html"])


def test_exit_codes_tell_bad_input_from_a_failed_run() -> None:
    problem = InvalidRows([RowProblem("f", 2, "no")], 1)
    assert [errors.exit_code_of(e) for e in (problem, PlanConflict("o", {}), IncompleteRun("x"))] == [2, 2, 2]
    assert [errors.exit_code_of(e) for e in (ModelError("x"), StoreError("x"), RunFailed("x"))] == [1, 1, 1]


def test_errors_have_their_reason_in_the_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise InvalidRows([RowProblem("rows.jsonl", 2, "no")], 3)

    assert errors.guarded(work, as_json=True) == 2
    out, err = capsys.readouterr()
    assert err.splitlines()[0] == "error: 3 rows are invalid; nothing was run [InvalidRows]"
    assert "rows.jsonl:2: no" in err
    said = json.loads(out)["error"]
    assert (said["count"], said["problems"][0]["line"]) == (3, 2)


def test_an_unexpected_error_keeps_its_traceback_in_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def work() -> int:
        raise ZeroDivisionError("oh")

    assert errors.guarded(work) == 1
    err = capsys.readouterr().err
    assert "error: ZeroDivisionError: oh [InternalError]" in err
    assert "Traceback" not in err
    (kept,) = tmp_path.iterdir()
    assert str(kept) in err
    assert "ZeroDivisionError: oh" in kept.read_text()
    assert errors.guarded(work, debug=True) == 1
    assert "Traceback" in capsys.readouterr().err


def record(message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("kubegym.rollout", logging.WARNING, "f", 1, message, arguments, None)


def test_log_lines_carry_ids_as_fields() -> None:
    made = record('retrying rollout=%s reason=%s: "%s"', "1a2b3c4d-0-1", "ModelTimeout", "too slow")
    fields = json.loads(JsonFormatter().format(made))
    assert (fields["rollout"], fields["reason"], fields["level"]) == ("1a2b3c4d-0-1", "ModelTimeout", "warning")
    line = TextFormatter().format(made)
    assert line.endswith("rollout=1a2b3c4d-0-1 reason=ModelTimeout")
    assert r'message="retrying rollout=1a2b3c4d-0-1 reason=ModelTimeout: \"too slow\""' in line


def test_logs_keep_tracebacks() -> None:
    try:
        raise ValueError("inner")
    except ValueError:
        made = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    assert "ValueError: inner" in json.loads(JsonFormatter().format(made))["traceback"]
    assert TextFormatter().format(made).splitlines()[-1] == "ValueError: inner"


def test_a_stream_that_nobody_reads_loses_its_text() -> None:
    reading, writing = os.pipe()
    with open(writing, "w", buffering=1) as stream:
        lossy = LossyStream(stream)
        lossy.write("read\n")
        assert os.read(reading, 100) == b"read\n"
        os.close(reading)
        for _ in range(3):
            assert lossy.write("lost\n") == 5
            lossy.flush()
        assert not lossy.isatty()


def test_reports_keep_what_a_worker_said() -> None:
    reports = Reports()
    assert (reports.exit_code, reports.settled, reports.output) == (None, 0, None)
    reports.opened("runs/ü/1")
    reports.progress(3_000_000_000)
    assert (reports.exit_code, reports.settled, reports.output) == (None, 3_000_000_000, "runs/ü/1")
    reports.announce(143)
    assert (reports.exit_code, reports.settled, reports.output) == (143, 3_000_000_000, "runs/ü/1")


def test_runs_are_found_by_place_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunNotFound, match=r"no runs below \./runs yet"):
        locate("math")
    for folder, name, created in (("math/aa", "math-job", 1.0), ("math/bb", "math-job", 2.0), ("qa/cc", "qa", 3.0)):
        place = tmp_path / "runs" / folder
        place.mkdir(parents=True)
        plan = {"name": name, "created": created, "environments": [{"name": "entry", "environment": name}]}
        (place / "plan.json").write_bytes(orjson.dumps(plan))
    (tmp_path / "runs/qa/half").mkdir()
    (tmp_path / "runs/qa/half/plan.json").write_text("{")
    assert locate("math") == locate("math-job") == "runs/math/bb"
    assert locate("aa") == "runs/math/aa"
    assert locate("entry") == "runs/qa/cc"
    assert locate("runs/math/aa") == "runs/math/aa"
    assert locate("s3://b/x") == "s3://b/x"
    with pytest.raises(RunNotFound, match="did you mean 'math-job'"):
        locate("math-jop")
    with pytest.raises(RunNotFound, match="holds no run"):
        locate("runs")


def test_descriptions_are_read_without_importing(tmp_path: Path) -> None:
    source = tmp_path / "app.py"
    source.write_text(
        '"""Module."""\nimport nothing_like_it\nclass A(Environment):\n    """The ``first`` line.\n\n    x"""\n'
    )
    assert described_by(source) == "The first line."
    source.write_text('"""Module."""\nclass A(Environment):\n    x = 1\n')
    assert described_by(source) == "Module."
    source.write_text("class (")
    assert described_by(source) == ""


def test_usage_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["run"]) == 2
    assert capsys.readouterr().err.splitlines()[0] == "error: Missing argument 'TARGET...'."
    assert invoke(["nonsense"]) == 2
    assert "No such command" in capsys.readouterr().err
    assert invoke([]) == 0
    assert "Commands" in capsys.readouterr().out
    assert invoke(["version"]) == 0
    assert capsys.readouterr().out.startswith("kubegym ")


def test_lossy_streams_pass_on_what_is_read() -> None:
    with open(os.devnull, "w") as null:
        lossy = LossyStream(null)
        assert lossy.writable()
        assert lossy.fileno() == null.fileno()
        assert isinstance(lossy, io.TextIOBase)
