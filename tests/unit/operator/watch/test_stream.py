from __future__ import annotations

from dataclasses import dataclass

import pytest

from kubegym_operator.watch.stream import settings


@dataclass(frozen=True)
class Resource:
    """What kopf asks about."""

    group: str
    version: str
    kind: str


@pytest.mark.parametrize(
    ("resource", "selected"),
    [
        (Resource("", "v1", "Pod"), True),
        (Resource("apps", "v1", "Deployment"), True),
        (Resource("leaderworkerset.x-k8s.io", "v1", "LeaderWorkerSet"), True),
        (Resource("kubegym.dev", "v1alpha1", "RolloutJob"), False),
        (Resource("apiextensions.k8s.io", "v1", "CustomResourceDefinition"), False),
        (Resource("", "v1", "Namespace"), False),
    ],
)
def test_children_are_watched_by_their_label_and_nothing_else_is(resource: Resource, selected: bool) -> None:
    (choose,) = settings(namespaced=False).watching.label_selectors
    assert choose.fn is not None
    assert choose.fn(resource) is selected  # type: ignore[arg-type]


def test_watches_are_bounded_on_both_sides_and_write_nothing() -> None:
    made = settings(namespaced=False)
    assert made.watching.server_timeout is not None
    assert made.watching.client_timeout is not None
    assert made.watching.server_timeout < made.watching.client_timeout
    assert made.watching.inactivity_timeout < made.watching.server_timeout
    assert not made.posting.enabled
    assert not made.scanning.disabled
    assert settings(namespaced=True).scanning.disabled  # a Role cannot list CRDs
