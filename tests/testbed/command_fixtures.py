"""``kubegym`` as a user starts it: a process of its own, of which nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

LIMIT = 600.0
"""Seconds after which a process that should have ended is a failure."""
COMMAND = [sys.executable, "-m", "kubegym.cli.main"]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``kubegym`` in a session of its own, in ``tmp_path``; what still runs at the end is killed."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
        environment = {**os.environ, **options.pop("env", {})}
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=options.pop("stderr", subprocess.PIPE),
            text=True,
            start_new_session=True,
            **options,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=LIMIT)


@pytest.fixture
def run(started: Callable[..., subprocess.Popen[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``kubegym`` to its end."""

    def to_the_end(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        process = started(*arguments, **options)
        out, err = process.communicate(timeout=LIMIT)
        assert "Traceback" not in (err or ""), err
        return subprocess.CompletedProcess(process.args, process.returncode, out or "", err or "")

    return to_the_end
