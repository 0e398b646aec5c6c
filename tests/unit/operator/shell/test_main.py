from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from kubegym_operator.__main__ import JsonLines


def run(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    variables = {f"KUBEGYM_OPERATOR_{name}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "kubegym_operator"],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"WORKERS": "many"}, "workers"),
        ({"IMAGES": "{not json"}, "images"),
        ({"LEASE_RENEW_SECONDS": "60"}, "lease_renew_seconds"),
    ],
)
def test_settings_that_cannot_be_end_it_with_a_line_and_no_trace(
    tmp_path: Path, settings: dict[str, str], words: str
) -> None:
    done = run(tmp_path, **settings)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_cluster_it_says_so(tmp_path: Path) -> None:
    done = run(tmp_path, KUBECONFIG=str(tmp_path / "none"), LOG_FORMAT="json")
    assert done.returncode == 1
    line = orjson.loads(done.stderr.splitlines()[-1])
    assert line["level"] == "critical"
    assert "no way to the API server" in line["message"]


def test_a_line_of_the_log_is_one_object() -> None:
    try:
        raise ValueError("oops\nand more")
    except ValueError:
        record = logging.LogRecord("kubegym.operator", logging.ERROR, "f", 1, "%s failed", ("it",), sys.exc_info())
    text = JsonLines().format(record)
    assert "\n" not in text
    line = orjson.loads(text)
    assert line["message"] == "it failed"
    assert "ValueError: oops" in line["trace"]
    assert line["time"].endswith("+00:00")
