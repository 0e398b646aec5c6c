"""Services: one address for a component's replicas, and a headless one that names each of them."""

from __future__ import annotations

from typing import Any

from kubegym_operator.build import labels
from kubegym_operator.build.child import Rendering


def service(rendering: Rendering, name: str, component: str, port: int) -> dict[str, Any]:
    """A ClusterIP Service in front of a component's ready pods."""
    return rendering.child("Service", name, component, spec=_spec(rendering, component, port))


def headless_service(
    rendering: Rendering, name: str, component: str, port: int, *, not_ready: bool = False
) -> dict[str, Any]:
    """A Service that resolves to the addresses of a component's pods; with ``not_ready`` of those that start, too."""
    spec = {"clusterIP": "None", **_spec(rendering, component, port)}
    if not_ready:
        spec["publishNotReadyAddresses"] = True
    return rendering.child("Service", name, component, spec=spec)


def _spec(rendering: Rendering, component: str, port: int) -> dict[str, Any]:
    return {
        "selector": labels.selector(rendering.owner, component),
        "ports": [{"name": "http", "port": port, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}],
    }
