"""PodDisruptionBudgets that never block a drain."""

from __future__ import annotations

from typing import Any

from kubegym_operator.build import labels
from kubegym_operator.build.child import Rendering


def disruption_budget(rendering: Rendering, name: str, component: str) -> dict[str, Any]:
    """One pod at a time may be evicted, and any that is not healthy: it serves nobody.

    Only for pods of a Deployment or StatefulSet: the budget of a Job's pods would block every drain, as Kubernetes does
    not know how many a Job should have.
    """
    spec = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": labels.selector(rendering.owner, component)},
    }
    return rendering.child("PodDisruptionBudget", name, component, api_version="policy/v1", spec=spec)
