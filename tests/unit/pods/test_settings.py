"""Who a worker is, and whose leases it need not wait for."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubegym.core.errors import (
    ConditionalWritesUnsupported,
    InvalidSpec,
    KubeGymError,
    ModelError,
    PlanConflict,
    StoreError,
)
from kubegym.pods.errors import NotFinished, exit_code
from kubegym.pods.settings import PodSettings, WorkerIdentity
from kubegym.pods.words import MOST_BYTES, say, say_why
from kubegym.rollout import FailureBudgetExceeded, Fenced, Holder, IncompleteRun
from kubegym.rollout.errors import CorruptRecord
from kubegym.storage import StoreDenied, StoreFull

pytestmark = pytest.mark.unit


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> PodSettings:
    for name in ("POD_NAME", "JOB_COMPLETION_INDEX", "KUBEGYM_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return PodSettings()


def test_a_later_life_of_an_index_takes_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    here = settings(monkeypatch, POD_NAME="job-1-abc", JOB_COMPLETION_INDEX="1", KUBEGYM_WORKERS="4")
    before, after = WorkerIdentity("uid", here), WorkerIdentity("uid", here)
    assert after.gone(before.holder), "its process has ended, or this one would not run"
    assert not after.gone(after.holder)
    eleventh = settings(monkeypatch, POD_NAME="job-11-abc", JOB_COMPLETION_INDEX="11", KUBEGYM_WORKERS="12")
    assert not after.gone(WorkerIdentity("uid", eleventh).holder)
    assert not after.gone(WorkerIdentity("other job", here).holder)
    assert not after.gone(Holder("local/elsewhere/boot/1/1/1", "1/x"))


def test_outside_of_an_indexed_job_nobody_is_known_to_be_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    here = settings(monkeypatch, POD_NAME="pod")
    assert not WorkerIdentity("uid", here).gone(WorkerIdentity("uid", here).holder)


@pytest.mark.parametrize(("index", "workers", "start"), [("0", "4", 0.0), ("3", "4", 0.75), ("5", "4", 0.25)])
def test_workers_begin_at_different_places(
    index: str, workers: str, start: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings(monkeypatch, JOB_COMPLETION_INDEX=index, KUBEGYM_WORKERS=workers).start == start


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidSpec("x"), 11),
        (PlanConflict("s3://b", {"a": (1, 2)}), 11),
        (ConditionalWritesUnsupported("x"), 11),
        (FailureBudgetExceeded("x"), 11),
        (NotFinished("x"), 11),
        (StoreDenied("x"), 11),
        (CorruptRecord("x"), 11),
        (StoreError("x", reason="BucketNotFound", retryable=False), 11),
        (ModelError("x", reason="ModelUnauthorized"), 11),
        (Fenced("x"), 12),
        (StoreError("x"), 1),
        (StoreFull("x"), 1),
        (IncompleteRun("x"), 1),
        (ModelError("x", reason="ModelUnavailable"), 1),
        (KubeGymError("x"), 1),
    ],
)
def test_exit_codes(error: KubeGymError, code: int) -> None:
    assert exit_code(error) == code


def test_credentials_that_were_good_are_tried_by_another_pod() -> None:
    assert exit_code(StoreDenied("expired"), began=True) == 1


def test_last_words_fit(tmp_path: Path) -> None:
    log = tmp_path / "words"
    for message in ("short", "ü" * 5000, "\x00" * 5000):
        say_why(log, "Reason", message)
        assert 0 < log.stat().st_size <= MOST_BYTES
    with pytest.raises(ValueError, match="more than"):
        say(log, {"message": "x" * 5000})
    say_why(tmp_path / "absent" / "words", "Reason", "nobody wants to know")
