"""A store, a model, and a folder that stands for what is mounted into pods."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.build import CannotBuild
from testbed.pods import Cluster, serve_process
from testbed.required import unavailable
from testbed.s3 import S3Server, s3_server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    try:
        with s3_server(["runs", "datasets"]) as server:
            yield server
    except CannotBuild as error:
        unavailable(str(error))


@pytest.fixture(scope="session")
def model() -> Iterator[str]:
    """A simulated model, whose answers take 50 ms in the mean, with a long tail. The same question, the same answer."""
    with serve_process("model", "--engine", "simulated", "--latency", "0.05:1") as url:
        yield url


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def cluster(tmp_path: Path, s3: S3Server) -> Cluster:
    return Cluster(tmp_path, s3, "runs")
