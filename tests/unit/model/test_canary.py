"""What proves weights: the canary's numbers, and what is not accepted for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import kubegym.model
from kubegym.model.weights import CANARY_FILE, Canary, Probe, WeightsError
from kubegym.model.weights.canary import distance
from testbed.forward import canary_of

pytestmark = pytest.mark.unit

CHECKPOINTS = [Path(__file__).parents[2] / "models" / f"ckpt-{number}" for number in (1, 2, 3)]
FOLDERS = [Path(kubegym.model.__file__).parent / "tiny", *CHECKPOINTS]
CANARY = Canary((Probe((1, 2, 3), (-1.0, -2.0)), Probe((4, 5), (-0.5,))), tolerance=0.1)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_those_that_ship_are_what_the_numbers_give(folder: Path) -> None:
    shipped, computed = Canary.read(folder), canary_of(folder)
    assert shipped is not None
    assert shipped.sequences == computed.sequences
    assert distance(shipped.log_probs, computed.log_probs) < 1e-5


def test_those_that_ship_tell_checkpoints_apart() -> None:
    canaries = [canary for folder in FOLDERS if (canary := Canary.read(folder)) is not None]
    for one in canaries:
        for other in canaries:
            if one is not other:
                with pytest.raises(WeightsError, match="nats a token"):
                    one.judge(other.log_probs)
        assert one.judge(one.log_probs) == 0.0


def test_a_difference_within_the_tolerance_is_proof() -> None:
    assert CANARY.judge([[-1.05, -2.1], [-0.4]]) == pytest.approx(0.25 / 3)


@pytest.mark.parametrize(
    "answers",
    [
        [[-1.0, -2.0], [-0.9]],
        [[-1.0, float("nan")], [-0.5]],
        [[-1.0, float("-inf")], [-0.5]],
        [[-1.0], [-2.0, -0.5]],
        [[-1.0, -2.0]],
        [],
    ],
)
def test_anything_else_is_none(answers: list[list[float]]) -> None:
    with pytest.raises(WeightsError) as raised:
        CANARY.judge(answers)
    assert raised.value.reason == "WeightsCorrupt"


def test_answers_that_did_not_change_are_none_though_they_are_near() -> None:
    near = [[-1.001, -2.001], [-0.501]]
    assert CANARY.judge(near, [[-1.003, -2.0], [-0.5]]) < 0.01
    with pytest.raises(WeightsError, match="exactly as before"):
        CANARY.judge(near, near)
    CANARY.judge(CANARY.log_probs, CANARY.log_probs)  # the same weights again


@pytest.mark.parametrize(
    "raw",
    [
        [],
        {},
        {"schema": 2, "probes": []},
        {"schema": 1, "probes": []},
        {"schema": 1, "probes": [{"token_ids": [1], "log_probs": []}]},
        {"schema": 1, "probes": [{"token_ids": [1, 2], "log_probs": [-1, -2]}]},
        {"schema": 1, "probes": [{"token_ids": [1, True], "log_probs": [-1]}]},
        {"schema": 1, "probes": [{"token_ids": [1, 2], "log_probs": ["-1"]}]},
        {"schema": 1, "tolerance": 0, "probes": [{"token_ids": [1, 2], "log_probs": [-1]}]},
        {"schema": 1, "tolerance": "0.1", "probes": [{"token_ids": [1, 2], "log_probs": [-1]}]},
    ],
)
def test_a_file_that_is_no_canary_is_an_error(tmp_path: Path, raw: object) -> None:
    (tmp_path / CANARY_FILE).write_text(json.dumps(raw))
    with pytest.raises(WeightsError):
        Canary.read(tmp_path)


def test_it_is_read_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / CANARY_FILE).write_text(json.dumps(CANARY.to_json()))
    assert Canary.read(tmp_path) == CANARY
    assert Canary.read(tmp_path / "none") is None
