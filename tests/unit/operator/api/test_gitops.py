"""The health script of docs/how-to/gitops.md, run as Argo CD runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa import LuaRuntime

from kubegym_operator.api import GROUP
from kubegym_operator.api.conditions import Condition, merge
from kubegym_operator.api.crdgen import DEFINITIONS
from kubegym_operator.api.reasons import Reason, Type

pytestmark = pytest.mark.unit

PAGE = Path(__file__).resolve().parents[4] / "docs" / "how-to" / "gitops.md"
KINDS = [kind.model.__name__ for kind in DEFINITIONS]


def config_map() -> dict[str, str]:
    text = next(part for part in PAGE.read_text().split("```")[1::2] if "argocd-cm" in part)
    data: dict[str, str] = yaml.safe_load(text.removeprefix("yaml"))["data"]
    return data


def health(kind: str, status: dict[str, Any] | None, generation: int = 1) -> tuple[str, str]:
    """Status and message that the script gives; as in Argo CD, ``obj`` is a global table and absent fields are nil."""
    lua = LuaRuntime(unpack_returned_tuples=True)
    obj = {"kind": kind, "metadata": {"generation": generation}}
    lua.globals().obj = lua.table_from(obj if status is None else obj | {"status": status}, recursive=True)
    result = lua.execute(config_map()[f"resource.customizations.health.{GROUP}_{kind}"])
    return result["status"], result["message"]


def status(*conditions: Condition, observed: int = 1) -> dict[str, Any]:
    return {
        "observedGeneration": observed,
        "conditions": merge([], conditions, generation=observed, now="2026-11-28T09:00:00Z"),
    }


READY = Condition(Type.READY, "True", Reason.AVAILABLE)
NOT_READY = Condition(Type.READY, "False", Reason.ROLLING_OUT)
MOVING = Condition(Type.RECONCILING, "True", Reason.ROLLING_OUT, "1 of 2 pods")
STUCK = Condition(Type.STALLED, "True", Reason.IMAGE_PULL_BACK_OFF, "registry/agent:1: not found")
FREE = Condition(Type.STALLED, "False", Reason.NOT_STALLED)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("seen", "expected", "message"),
    [
        (None, "Progressing", "Waiting for the operator"),
        ({"observedGeneration": 1}, "Progressing", "Waiting for the operator"),
        (status(READY, FREE), "Healthy", "Available"),
        (status(MOVING, NOT_READY, FREE), "Progressing", "RollingOut: 1 of 2 pods"),
        (status(MOVING, NOT_READY, STUCK), "Degraded", "ImagePullBackOff: registry/agent:1: not found"),
    ],
    ids=["new", "no-conditions", "ready", "moving", "stuck"],
)
def test_every_kind(kind: str, seen: dict[str, Any] | None, expected: str, message: str) -> None:
    assert health(kind, seen) == (expected, message)


@pytest.mark.parametrize("kind", KINDS)
def test_a_status_of_an_older_generation_says_nothing(kind: str) -> None:
    assert health(kind, status(READY), generation=2) == ("Progressing", "Waiting for the operator to see generation 2")


@pytest.mark.parametrize("reason", [Reason.IDLE, Reason.SUSPENDED])
@pytest.mark.parametrize("kind", ["GymEnvironment", "ModelServer"])
def test_a_server_that_rests_as_asked_is_healthy(kind: str, reason: str) -> None:
    seen = status(Condition(Type.SUSPENDED, "True", reason), Condition(Type.READY, "True", reason))

    assert health(kind, seen) == ("Healthy", reason)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ((Condition(Type.COMPLETE, "True", Reason.COMPLETED),), "Healthy"),
        ((Condition(Type.FAILED, "True", Reason.DEADLINE_EXCEEDED), FREE), "Degraded"),
        ((Condition(Type.SUSPENDED, "True", Reason.SUSPENDED), FREE), "Suspended"),
        ((Condition(Type.PROGRESSING, "True", Reason.RUNNING), FREE), "Progressing"),
        ((Condition(Type.COMPLETE, "True", Reason.COMPLETED), Condition(Type.SUSPENDED, "True", "x")), "Healthy"),
    ],
    ids=["complete", "failed", "suspended", "running", "complete-and-suspended"],
)
def test_a_job(conditions: tuple[Condition, ...], expected: str) -> None:
    assert health("RolloutJob", status(*conditions)) == (expected, conditions[0].reason)
