"""What the API server takes and what it refuses, in which words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kubegym_operator.api import parse
from testbed.k8s.api import Refused
from testbed.k8s.cluster import Cluster
from testbed.manifest_corpus import API_VERSION, CASES, SPECS, UPDATES, Case, Update, changed, manifest

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def empty_namespace(cluster: Cluster, crds: None) -> Iterator[str]:
    """A namespace in which nothing is stored."""
    with cluster.namespace() as name:
        yield name


def create(cluster: Cluster, namespace: str, obj: dict[str, Any]) -> dict[str, Any]:
    """What would be stored, without storing it."""
    path = cluster.api.path(API_VERSION, obj["kind"], namespace)
    stored: dict[str, Any] = cluster.api.request(
        "POST", path, obj, query={"dryRun": "All", "fieldValidation": "Strict"}
    )
    return stored


def causes(refused: Refused) -> str:
    return str(refused.status["message"])


@pytest.mark.parametrize("case", [case for case in CASES if case.fine], ids=lambda case: case.id)
def test_fine_manifests_are_taken(cluster: Cluster, empty_namespace: str, case: Case) -> None:
    stored = create(cluster, empty_namespace, case.manifest)

    assert parse(stored).spec == parse(case.manifest).spec, "the defaults are not the models'"


@pytest.mark.parametrize("case", [case for case in CASES if not case.fine], ids=lambda case: case.id)
def test_bad_manifests_are_refused_by_field_and_remedy(cluster: Cluster, empty_namespace: str, case: Case) -> None:
    with pytest.raises(Refused) as caught:
        create(cluster, empty_namespace, case.manifest)

    assert caught.value.code in (400, 422)
    assert case.says in causes(caught.value)
    if case.at:
        assert f"spec.{case.at}" in causes(caught.value)


@pytest.fixture
def stored(cluster: Cluster, crds: None, namespace: str, update: Update) -> str:
    """The path of an object as it was before the update."""
    obj = manifest(update.kind, changed(SPECS[update.kind], update.before))
    cluster.api.create(obj, namespace)
    return cluster.api.path(API_VERSION, update.kind, namespace, obj["metadata"]["name"])


@pytest.mark.parametrize("update", UPDATES, ids=lambda update: update.id)
def test_what_may_change_and_what_may_not(cluster: Cluster, stored: str, update: Update) -> None:
    before = cluster.api.request("GET", stored)
    after = before | {"spec": changed(SPECS[update.kind], update.after)}

    if not update.says:
        assert cluster.api.request("PUT", stored, after)["metadata"]["generation"] == 2
        return
    with pytest.raises(Refused) as caught:
        cluster.api.request("PUT", stored, after)
    assert update.says in causes(caught.value)
    assert f"spec.{update.at}".rstrip(".") in causes(caught.value)
