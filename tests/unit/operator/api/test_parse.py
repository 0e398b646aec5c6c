from __future__ import annotations

from typing import Any

import pytest

from kubegym.core.errors import InvalidSpec
from kubegym_operator.api import API_VERSION, GROUP, VERSION, GymEnvironment, ModelServer, RolloutJob, parse

pytestmark = pytest.mark.unit

SPECS: dict[str, tuple[type, dict[str, Any]]] = {
    "GymEnvironment": (GymEnvironment, {}),
    "ModelServer": (ModelServer, {"engine": "embedded"}),
    "RolloutJob": (
        RolloutJob,
        {
            "environments": [{"name": "a", "environmentRef": {"name": "a"}, "dataset": {"bundled": {}}}],
            "output": {"uri": "s3://b/x/"},
        },
    ),
}


def stored(kind: str, **metadata: Any) -> dict[str, Any]:
    """An object as an API server gives it back."""
    server_side = {
        "name": "math",
        "namespace": "team",
        "generateName": "ma",
        "uid": "7c1f2f5e-5d5a-4d55-9a0f-6f2f6f6f6f6f",
        "generation": 2,
        "resourceVersion": "812",
        "creationTimestamp": "2026-11-28T09:00:00Z",
        "labels": {f"team/{i}": "x" for i in range(100)},
        "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
    }
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": server_side | metadata,
        "spec": SPECS[kind][1],
        "status": {"conditions": [{"type": "Ready"}]},
    }


def test_group_and_version_are_those_of_the_manifests() -> None:
    assert f"{GROUP}/{VERSION}" == API_VERSION


@pytest.mark.parametrize("kind", sorted(SPECS))
def test_parse_reads_what_the_api_server_stores(kind: str) -> None:
    parsed = parse(stored(kind))

    assert isinstance(parsed, SPECS[kind][0])
    assert (parsed.metadata.name, parsed.metadata.namespace, parsed.metadata.generation) == ("math", "team", 2)
    assert parsed.status is None


def test_an_error_names_the_object_the_field_and_the_remedy() -> None:
    raw = stored("RolloutJob")
    raw["spec"] = raw["spec"] | {"paralelism": 3}

    with pytest.raises(InvalidSpec) as caught:
        parse(raw)

    assert caught.value.reason == "InvalidSpec"
    assert str(caught.value) == ("RolloutJob team/math: spec.paralelism: unknown field; did you mean 'parallelism'?")


@pytest.mark.parametrize("raw", [{}, {"kind": "Pod"}, {"metadata": None, "kind": "ModelServer"}])
def test_what_is_none_of_ours_is_an_invalid_spec(raw: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec):
        parse(raw)
